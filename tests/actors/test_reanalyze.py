"""Reanalyzer and Pace: what is written where, which of two targets stays, and what the learner's draws make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.reanalyze import Pace, Reanalyzer
from actors.reanalyze_config import REANALYZE, ReanalyzeConfig
from actors.records import Block, PolicyOutput
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import OldestConfig, PrioritizedConfig, SelectorConfig, UniformConfig
from actors.replay.sharded import ShardedReplay
from envs.specs import ArraySpec, StepBatch
from learner.batch import SequenceBatch
from learner.searched import FRESH_VERSION, with_fresh
from tests.actors.replay.blocks import STEP_BYTES, tag_block

SPECS = with_fresh({"value": ArraySpec((), "float32"), "target": ArraySpec((2,), "float32")})


class Teacher:
    """A policy that says of a step: its value is its number times the version of the weights."""

    def __init__(self, version: int = 1, specs: Mapping[str, ArraySpec] = SPECS) -> None:
        self.version, self.extras, self.explored = version, specs, list[bool]()

    def initial(self, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return seeds

    def act(self, step: StepBatch, carry: Any, explore: bool) -> PolicyOutput:
        self.explored.append(explore)
        value = (step.observation["tag"] % 1000 * self.version).astype(np.float32)
        extras = {"value": value, "target": np.stack([value, -value], 1)}
        return PolicyOutput(np.zeros(len(value)), carry, extras=extras, priority=value + 1)

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        self.version = version


def block(stream: int, first: int, steps: int, version: int = 0) -> Block:
    made = tag_block(stream, first, steps, version)
    room = {key: np.zeros((steps, *spec.shape), spec.dtype) for key, spec in SPECS.items()}
    return Block(stream, first, version, made.data | room)


def make_replay(selector: SelectorConfig | None = None, chunks: int = 40) -> ShardedReplay:
    views = {REANALYZE: selector or OldestConfig()}
    config = ReplayConfig(1, chunks * 16 * (STEP_BYTES + 90), 16, PrioritizedConfig(exponent=1.0), views=views)
    return ShardedReplay.from_config(config, 0)


def batches(replay: ShardedReplay, size: int) -> Iterator[SequenceBatch]:
    while True:
        yield replay.sample(size, 1, view=REANALYZE)


def reanalyzer(replay: ShardedReplay, policy: Teacher, size: int = 4, **options: Any) -> Reanalyzer:
    return Reanalyzer(policy, ["tag"], batches(replay, size), replay.write_back, **options)


def stored(replay: ShardedReplay, key: str) -> list[Any]:
    first, end = replay.streams()[0]
    column: list[Any] = replay.read(0, first, end - first).data[key][0].tolist()
    return column


def test_targets_their_version_and_priorities_are_written_beside_the_old_ones() -> None:
    replay = make_replay()
    replay.insert(block(0, 0, 6, version=2))
    metrics = reanalyzer(replay, Teacher(version=5)).step()
    assert stored(replay, "fresh_value") == [0.0, 5.0, 10.0, 15.0, 0.0, 0.0]
    assert stored(replay, "fresh_target")[3] == [15.0, -15.0]
    assert stored(replay, FRESH_VERSION) == [5, 5, 5, 5, 0, 0]
    assert stored(replay, "value") == [0.0] * 6
    assert replay.masses(1).tolist() == [6, 1 + 6 + 11 + 16 + 1 + 1]
    assert (metrics["steps"], metrics["age"]) == (4, 3)
    assert metrics["time/ms"] > 0


def test_the_age_is_that_of_the_targets_before() -> None:
    replay = make_replay()
    replay.insert(block(0, 0, 4, version=2))
    teacher = Teacher(version=5)
    again = reanalyzer(replay, teacher)
    assert again.step()["age"] == 3
    teacher.version = 9
    assert again.step()["age"] == 4


def test_an_older_target_never_replaces_a_newer_one() -> None:
    replay = make_replay()
    replay.insert(block(0, 0, 6, version=2))
    newer, older = (replay.sample(4, 1, view=REANALYZE) for _ in range(2))  # steps 0 to 3, and 4, 5, 0, 1
    for version, batch in ((7, newer), (5, older)):
        Reanalyzer(Teacher(version), ["tag"], iter([batch]), replay.write_back).step()
    assert stored(replay, FRESH_VERSION) == [7, 7, 7, 7, 5, 5]
    assert stored(replay, "fresh_value") == [0.0, 7.0, 14.0, 21.0, 20.0, 25.0]
    assert replay.stats()["superseded_writes"] == 2 * 3  # steps and keys
    Reanalyzer(Teacher(7), ["tag"], iter([older]), replay.write_back).step()  # of two equal ones the last stays
    assert stored(replay, FRESH_VERSION) == [7] * 6


def test_targets_of_steps_that_were_evicted_meanwhile_are_counted() -> None:
    replay = make_replay(chunks=4)
    replay.insert(block(0, 0, 16))
    batch = replay.sample(4, 1, view=REANALYZE)
    replay.insert(block(0, 16, 80))
    Reanalyzer(Teacher(), ["tag"], iter([batch]), replay.write_back).step()
    assert (replay.stats()["stale_writes"], replay.stats()["stale_updates"]) == (4 * 3, 4)
    assert not any(stored(replay, FRESH_VERSION))


def test_nothing_is_searched_without_weights() -> None:
    replay = make_replay()
    replay.insert(block(0, 0, 6))
    teacher = Teacher(version=0)
    assert reanalyzer(replay, teacher).step() == {}
    assert teacher.explored == []


@pytest.mark.parametrize("noise", [False, True])
def test_searches_have_noise_where_it_is_asked_for(noise: bool) -> None:
    replay, teacher = make_replay(), Teacher()
    replay.insert(block(0, 0, 6))
    reanalyzer(replay, teacher, noise=noise).step()
    assert teacher.explored == [noise]
    assert not ReanalyzeConfig().noise


@pytest.mark.parametrize("selector", [OldestConfig(), PrioritizedConfig(), UniformConfig()])
def test_the_draws_of_the_learner_do_not_change(selector: SelectorConfig) -> None:
    drawn = []
    for again in (False, True):
        replay = make_replay(selector)
        replay.insert(block(0, 0, 100))
        for _ in range(3 * again):
            Reanalyzer(Teacher(), ["tag"], batches(replay, 4), lambda *_: None).step()
        drawn.append(replay.sample(32, 4).first_step.tolist())
    assert drawn[0] == drawn[1]


def test_random_numbers_go_on_where_they_stood() -> None:
    replay, seeds = make_replay(), []

    class Noting(Teacher):
        def initial(self, given: NDArray[np.uint64]) -> NDArray[np.uint64]:
            seeds.append(given.tolist())
            return given

    replay.insert(block(0, 0, 6))
    first = reanalyzer(replay, Noting(), seed=1)
    first.step()
    state = first.state_dict()
    first.step()
    second = reanalyzer(replay, Noting(), seed=2)
    second.load_state_dict(state)
    second.step()
    assert seeds[1] == seeds[2] != seeds[0]


def test_an_actor_searches_with_the_newest_weights_once_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from actors import service

    published = [0]
    monkeypatch.setattr(service, "pull_weights", lambda store, policy: policy.update(published[0], {}))
    monkeypatch.setattr(service, "NO_WEIGHTS_SECONDS", 0.0)
    replay = make_replay()
    replay.insert(block(0, 0, 6, version=2))
    actor = service.ReanalyzeActor(lambda: reanalyzer(replay, Teacher(version=0)), None)
    assert actor.run(2).steps == 0
    published[0] = 5
    summary = actor.run(2)
    assert (summary.steps, summary.version, actor.ping()) == (8, 5, 5)
    assert summary.metrics["age"] == (3 + 1.5) / 2  # the second batch begins with two steps not searched yet
    assert set(stored(replay, FRESH_VERSION)) == {5}


def test_a_policy_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="the policy stores no targets that could be made anew"):
        reanalyzer(make_replay(), Teacher(specs={"value": SPECS["value"]}))


def test_the_pace_is_so_many_steps_for_each_update() -> None:
    pace = Pace(8.0, updates=10)  # nothing is owed for what was before
    assert not pace.allows(8, 10)
    assert pace.allows(8, 11)
    pace.took(8)
    assert not pace.allows(8, 11)
    pace.took(-8)
    assert pace.allows(8, 11)
    assert Pace(None).allows(10**9, 0)
