"""The learner's side of the replay against shards that are slow, empty, dead or elsewhere; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import SelectorConfig
from actors.replay.draw.masses import ShardReport
from actors.replay.flow.batches import BatchQueue, ShardUnavailable
from actors.replay.flow.requests import SampleRequest
from actors.replay.flow.routing import route
from actors.replay.flow.writebacks import WriteBackSender
from actors.replay.shard import ReplayShard
from actors.replay.sharded import slice_batch
from actors.replay.wire.segments import SplitBatch
from actors.replay.wire.shared import SlotError
from actors.replay.wire.slots import OpenSlots, SlotLayout, SlotTicket
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch
from tests.actors.replay.blocks import mixture
from tests.fakes import check_sequences, counter_blocks

BLOCKS = {stream: counter_blocks(stream, 4) for stream in range(6)}


class FakeShards:
    """Shards in this process behind the port; each may be dead, frozen, on another node or deny the slots.

    Time is a counter that waiting moves.
    """

    directory: Path  # of the slots

    def __init__(self, num_shards: int = 2, selector: SelectorConfig | None = None) -> None:
        config = ReplayConfig(num_shards, num_shards << 20, 64, selector or mixture())
        self.shards = [ReplayShard(config, seed) for seed in range(num_shards)]
        self.num_shards, self.node = num_shards, "here"
        self.nodes = ["here"] * num_shards
        self.dead: set[int] = set()
        self.frozen: set[int] = set()
        self.denied: set[int] = set()
        self.now = 0.0
        self.asked = np.zeros(num_shards, np.int64)
        self.requests: list[SampleRequest] = []
        self.probes = 0
        self._calls: dict[int, tuple[int, Callable[[], Any]]] = {}
        self._number = 0
        self._open = OpenSlots(self.directory)

    def clock(self) -> float:
        return self.now

    def fill(self, streams: Sequence[int] = tuple(BLOCKS)) -> None:
        for stream in streams:
            for block in BLOCKS[stream]:
                self.shards[route(stream, self.num_shards)].insert(block)

    def probe(self, shard: int, length: int, view: str) -> int:
        self.probes += 1
        return self._call(shard, lambda: self._report(shard, length, view))

    def sample(self, shard: int, request: SampleRequest) -> int:
        self.asked[shard] += 1
        request = SampleRequest.unpack(request.pack())
        self.requests.append(request)
        return self._call(shard, lambda: self._sample(shard, request))

    def write(self, shard: int, handle: Any, values: dict[str, Any], priority: Any, version: Any, length: int) -> int:
        def answer() -> int:
            if values:
                raise ValueError(f"the replay has no key {next(iter(values))!r}")
            return len(handle)

        return self._call(shard, answer)

    def wait(self, calls: Sequence[int], timeout: float) -> list[int]:
        done = [call for call in calls if self._calls[call][0] not in self.frozen]
        if not done:
            self.now += max(timeout, 0.001)
        return done[:1]

    def result(self, call: int) -> Any:
        shard, answer = self._calls.pop(call)
        if shard in self.dead:
            raise ShardUnavailable(f"shard {shard} is dead")
        return answer()

    def _call(self, shard: int, answer: Callable[[], Any]) -> int:
        self._number += 1
        self._calls[self._number] = (shard, answer)
        return self._number

    def _report(self, index: int, length: int, view: str) -> ShardReport:
        shard = self.shards[index]
        schema = None if shard.schema is None else shard.schema.as_lists()
        items = float(shard.num_items(length))
        return ShardReport(shard.masses(length, view), shard.fractions(view), items, self.nodes[index], schema)

    def _sample(self, index: int, request: SampleRequest) -> Any:
        shard = self.shards[index]
        if not shard.num_items(request.length):
            return False
        totals = np.array(request.totals)
        if request.ticket is None:
            sizes = (request.batch_size, request.length)
            return SplitBatch.of(shard.sample(*sizes, totals, request.num_items, view=request.view))
        if index in self.denied:
            raise SlotError("cannot open the slot")
        assert shard.schema is not None
        layout = SlotLayout(shard.schema, request.slot_size, request.length)
        with self._open.writing(request.ticket, layout) as slot:
            part = slice_batch(slot, request.low, request.low + request.batch_size)
            shard.sample(request.batch_size, request.length, totals, request.num_items, part, request.view)
        return True


@pytest.fixture(autouse=True)
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slots in a directory of the test."""
    directory = tmp_path / "shm"
    directory.mkdir()
    monkeypatch.setattr(FakeShards, "directory", directory, raising=False)
    return directory


def make(port: FakeShards, **options: Any) -> BatchQueue:
    return BatchQueue(port, 4, 10, **{"seed": 0, "clock": port.clock, "slot_directory": port.directory} | options)


def share_of(port: FakeShards, shard: int, batches: Sequence[SequenceBatch]) -> float:
    streams = np.concatenate([batch.stream_id for batch in batches]).tolist()
    return float(np.mean([route(stream, port.num_shards) == shard for stream in streams]))


@pytest.mark.parametrize("transport", ["slots", "objects", "auto"])
@pytest.mark.parametrize("mixed", [False, True])
def test_batches_follow_the_masses_by_any_transport(transport: str, mixed: bool) -> None:
    port = FakeShards()
    port.fill([0, 1, 2, 4])
    queue = make(port, transport=transport, mixed=mixed, in_flight=3)
    owned = []
    for _ in range(400):
        batch = next(queue)
        check_sequences(batch)
        assert batch.weight.tolist() == [1.0] * 4
        owned.append(batch)
    items = [shard.num_items(10) for shard in port.shards]
    assert items[0] != items[1]
    assert share_of(port, 0, owned) == pytest.approx(items[0] / sum(items), abs=0.06)
    if mixed:
        assert any(len({route(s, 2) for s in batch.stream_id.tolist()}) == 2 for batch in owned)
    stats = queue.stats()
    assert (stats["slot_bytes"] == 0) == (transport == "objects")
    assert (stats["object_bytes"] == 0) == (transport != "objects")
    assert (stats["batches"], stats["retries"], stats["shards_present"]) == (400, 0, 2)


def test_data_is_valid_until_the_next_batch_and_the_rest_for_ever() -> None:
    port = FakeShards()
    port.fill()
    queue = make(port, in_flight=2)
    first = next(queue)
    before, handle = first.data["count"].copy(), first.handle.copy()
    queue._port.wait([], 0.0)
    np.testing.assert_array_equal(first.data["count"], before)
    seen = [next(queue) for _ in range(20)]
    np.testing.assert_array_equal(first.handle, handle)
    assert len({batch.data["count"].__array_interface__["data"][0] for batch in [first, *seen]}) == 3


def test_weights_are_of_the_whole_batch_and_the_whole_replay() -> None:
    port = FakeShards(selector=mixture(weight_exponent=1.0))
    port.fill()
    batch = next(make(port, mixed=True))
    assert batch.weight.max() == 1.0
    totals = sum(shard.masses(10) for shard in port.shards)
    assert {request.totals for request in port.requests} == {tuple(totals.tolist())}
    assert {request.num_items for request in port.requests} == {float(totals[0])}
    rows = sorted((request.low, request.low + request.batch_size) for request in port.requests[:2])
    assert (rows[0][0], rows[-1][1]) == (0, 4)


def test_a_dead_shard_leaves_at_once_and_returns_with_its_report(caplog: pytest.LogCaptureFixture) -> None:
    port = FakeShards(3)
    port.fill()
    queue = make(port, in_flight=4)
    for _ in range(10):
        next(queue)
    port.dead.add(1)
    asked = port.asked[1]
    after = [next(queue) for _ in range(60)]
    assert port.asked[1] - asked <= 5  # those asked before the first failure
    assert share_of(port, 1, after[4:]) == 0.0
    assert queue.present.tolist() == [True, False, True]
    assert queue.stats()["shards_left"] == 1.0
    assert 1 <= queue.stats()["retries"] <= 4
    assert "shard 1 leaves the draw: shard 1 is dead" in caplog.text

    port.dead.clear()
    port.now += 5.0
    back = [next(queue) for _ in range(300)]
    items = [shard.num_items(10) for shard in port.shards]
    assert share_of(port, 1, back[10:]) == pytest.approx(items[1] / sum(items), abs=0.08)
    assert queue.stats()["shards_left"] == 1.0


def test_a_frozen_shard_costs_one_stall_and_no_more() -> None:
    port = FakeShards()
    port.fill()
    queue = make(port, in_flight=2, stall_seconds=0.5)
    next(queue)
    port.frozen.add(0)
    start = port.now
    batches = [next(queue) for _ in range(50)]
    assert port.now - start < 1.5
    assert share_of(port, 0, batches[3:]) == 0.0
    port.frozen.clear()
    port.now += 5.0
    back = [next(queue) for _ in range(100)]
    assert share_of(port, 0, back) > 0.2


def test_a_learner_that_was_away_blames_no_shard() -> None:
    port = FakeShards()
    port.fill()
    queue = make(port, in_flight=4, stall_seconds=0.5)
    for _ in range(20):
        next(queue)
        port.now += 60.0
    assert queue.stats()["shards_left"] == queue.stats()["retries"] == 0.0


def test_the_only_shard_with_data_is_waited_for() -> None:
    port = FakeShards()
    port.fill([0])
    queue = make(port, stall_seconds=0.5)
    next(queue)
    port.frozen.add(route(0, 2))
    original, waits = port.wait, []

    def thaw(calls: Sequence[int], timeout: float) -> list[int]:
        waits.append(timeout)
        if len(waits) > 40:
            port.frozen.clear()
        return original(calls, timeout)

    port.wait = thaw  # type: ignore[method-assign]
    for _ in range(5):
        check_sequences(next(queue))
    assert queue.stats()["shards_left"] == 0.0


def test_a_late_answer_of_a_lost_shard_changes_nothing() -> None:
    port = FakeShards()
    port.fill()
    queue = make(port, in_flight=6, stall_seconds=0.1)
    next(queue)
    port.frozen.add(1)
    frozen = [call for call, (shard, _) in port._calls.items() if shard == 1]
    for _ in range(12):
        next(queue)
    port.frozen.clear()
    for call in frozen:
        with pytest.raises(SlotError):
            port.result(call)  # the writer finds its slot gone or handed out again
    check_sequences(next(queue))


def test_an_emptied_shard_is_drawn_again_when_it_has_data() -> None:
    port = FakeShards()
    port.fill()
    queue = make(port)
    next(queue)
    full, port.shards[0] = port.shards[0], ReplayShard(ReplayConfig(2, 2 << 20, 64), 0)
    batches = [next(queue) for _ in range(30)]
    assert share_of(port, 0, batches[4:]) == 0.0
    port.shards[0] = full
    port.now += 5.0
    assert share_of(port, 0, [next(queue) for _ in range(60)]) > 0.2


def test_without_any_data_the_wait_is_bounded_and_explained(caplog: pytest.LogCaptureFixture) -> None:
    port = FakeShards()
    port.dead.add(1)
    queue = make(port, wait_seconds=30.0)
    with pytest.raises(
        TimeoutError, match=r"none of the 2 shards .* 10 steps .*: shard 0 is empty, shard 1 does not answer"
    ):
        next(queue)
    assert 30.0 <= port.now < 35.0
    assert "no batch for 10 s: shard 0 is empty, shard 1 does not answer" in caplog.text
    assert port.probes < 60  # with growing pauses
    port.fill()
    check_sequences(next(queue))


def test_the_first_draw_waits_for_the_shards_but_not_for_ever() -> None:
    port = FakeShards(3)
    port.fill()
    port.frozen.add(2)
    queue = make(port, stall_seconds=0.5)
    check_sequences(next(queue))
    assert 0.5 <= port.now < 1.5
    port.frozen.clear()
    port.now += 1.0
    assert share_of(port, 2, [next(queue) for _ in range(100)]) > 0.1


def test_shards_of_other_nodes_send_objects(shared_memory: Path) -> None:
    port = FakeShards()
    port.fill()
    port.nodes[1] = "there"
    queue = make(port, mixed=True)
    for _ in range(20):
        check_sequences(next(queue))
    stats = queue.stats()
    assert stats["shards_by_slot"] == 1.0
    assert min(stats["slot_bytes"], stats["object_bytes"]) > 0
    with pytest.raises(ValueError, match="transport is 'slots' but shard 1 runs on another node"):
        next(make(port, transport="slots"))


def test_shards_that_cannot_open_the_slots_send_objects(caplog: pytest.LogCaptureFixture) -> None:
    port = FakeShards()
    port.fill()
    port.denied.add(0)
    queue = make(port)
    batches = []
    for _ in range(60):
        batches.append(next(queue))
        check_sequences(batches[-1])
    assert share_of(port, 0, batches) > 0.2
    assert caplog.text.count("shard 0 sends objects from now on: cannot open the slot") == 1
    assert queue.stats()["shards_left"] == 0.0
    port.denied.add(1)
    with pytest.raises(SlotError, match="cannot open the slot"):
        next(make(port, transport="slots"))


def test_without_shared_memory_batches_come_as_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = FakeShards()
    port.directory = tmp_path / "absent"
    port.fill()
    check_sequences(next(make(port)))
    assert "batches come as objects: cannot make a file" in caplog.text
    with pytest.raises(SlotError, match="cannot make a file"):
        next(make(port, transport="slots"))


def test_two_ranks_have_slots_and_draws_of_their_own(shared_memory: Path) -> None:
    port = FakeShards()
    port.fill()
    ranks = [make(port, seed=seed) for seed in (1, 2)]
    one, two = next(ranks[0]), next(ranks[1])
    assert not np.shares_memory(one.data["count"], two.data["count"])
    assert not np.array_equal(one.handle, two.handle)
    assert len(list(shared_memory.iterdir())) == 6
    for queue in ranks:
        queue.close()
    assert not list(shared_memory.iterdir())


def test_no_slot_is_leaked_over_many_failures(shared_memory: Path) -> None:
    port = FakeShards(3)
    port.fill()
    queue, rng = make(port, in_flight=3, mixed=True, stall_seconds=0.2), np.random.default_rng(0)
    for _ in range(400):
        port.dead = {int(s) for s in rng.integers(0, 3, rng.integers(0, 2))}
        port.frozen = {int(s) for s in rng.integers(0, 3, rng.integers(0, 2))}
        port.now += 0.3
        check_sequences(next(queue))
        assert len(list(shared_memory.iterdir())) <= 4
    assert queue.stats()["retries"] > 20


@pytest.mark.parametrize("name", ["in_flight", "batch_size", "length"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    port = FakeShards()
    settings = {"batch_size": 4, "length": 10, "in_flight": 2} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        BatchQueue(port, seed=0, **settings)


def test_requests_survive_the_wire() -> None:
    for request in (
        SampleRequest(4, 10, (1.5, 2.0), 7.0),
        SampleRequest(4, 10, (1.5,), 7.0, "reanalyze", SlotTicket("worldfleet-slot-1", 9), 16, 12),
    ):
        assert SampleRequest.unpack(request.pack()) == request


def result_of(batch: SequenceBatch, writes: bool = False) -> UpdateResult:
    values = {"target": np.zeros((len(batch.weight), 10), np.float32)} if writes else {}
    return UpdateResult({}, np.ones(len(batch.weight), np.float32), values)


def test_write_backs_goes_to_the_shard_of_each_stream_and_failures_are_counted() -> None:
    port = FakeShards()
    port.fill()
    sent: list[tuple[int, list[list[int]], list[float]]] = []

    write = port.write

    def note(shard: int, handle: Any, values: Any, priority: Any, version: Any, length: int) -> int:
        sent.append((shard, handle.tolist(), priority.tolist()))
        assert (version, length) == (None, 10)
        return write(shard, handle, values, priority, version, length)

    port.write = note  # type: ignore[method-assign]
    batch = next(make(port, mixed=True, seed=5))
    priorities = np.arange(4, dtype=np.float32)
    sender = WriteBackSender(port)
    sender.send(batch, UpdateResult({}, priorities))
    for shard, handles, values in sent:
        rows = [r for r, stream in enumerate(batch.stream_id.tolist()) if route(stream, 2) == shard]
        assert handles == batch.handle[rows].tolist()
        assert values == priorities[rows].tolist()
    assert sum(len(values) for _, _, values in sent) == 4

    assert len(sent) == 2
    sender, shards = WriteBackSender(port), [shard for shard, _, _ in sent]
    port.dead.add(0)
    sender.send(batch, UpdateResult({}, priorities, {"target": np.zeros((4, 10))}))
    sender.settle()
    assert sender.sent == sender.failed == len(shards)  # values are refused by all here
    count = sender.sent
    sender.send(batch, UpdateResult({}, priorities), np.array([False, False]))
    assert sender.sent == count


def test_write_backs_in_flight_is_bounded_and_a_frozen_shard_does_not_block() -> None:
    port = FakeShards(1)
    port.fill()
    sender = WriteBackSender(port, max_calls=3, wait_seconds=0.5)
    batch = next(make(port))
    port.frozen.add(0)
    for _ in range(10):
        sender.send(batch, result_of(batch))
    assert (sender.sent, sender.failed) == (10, 7)
    assert port.now == pytest.approx(7 * 0.5, abs=0.1)
    assert WriteBackSender(port).send(batch, UpdateResult({})) is None
