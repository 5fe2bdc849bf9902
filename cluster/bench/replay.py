"""Speed of the replay: in this process, as a service on Ray, its sum tree and its checkpoints.

Every figure stands beside a physical bound (memcpy, np.save) or a peer that takes turns with it in the same run;
`ratio` is the median over rounds. Peers that are not installed are named and skipped; docs/peers.md says how to install
them.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.kinds import PrioritizedConfig, UniformConfig
from actors.replay.shard import ReplayShard
from cluster.bench import replay_peers
from cluster.bench.replay_bounds import Ring, memcpy_bounds
from cluster.bench.replay_checkpoint import checkpoints
from cluster.bench.replay_data import QUICK, StepSource, Work, Workload, alternate, compared, filled_shard
from cluster.bench.replay_data import skipped as skipped_row
from cluster.bench.replay_service import services
from cluster.bench.row import BenchRow
from native import SumTree

PARTS = ("process", "tree", "checkpoint", "service")
ROUNDS = 15
TREE_LEAVES = 1 << 20
TREE_BATCH = 256

logger = logging.getLogger(__name__)


def run(
    parts: str = ",".join(PARTS), quick: bool = False, peers: str = ",".join(replay_peers.PEERS), rounds: int = ROUNDS
) -> Iterator[BenchRow]:
    """Measure the parts of the replay.

    Args:
        parts: Any of process, tree, checkpoint and service, separated by commas.
        quick: Small sizes that show that everything runs; the figures mean little.
        peers: Any of TorchRL, cpprb, RLlib and Reverb, separated by commas.
        rounds: Turns of each rival.

    Raises:
        ValueError: A part or peer is unknown, or rounds is not positive.
    """
    chosen, rivals = _names(parts, PARTS, "parts"), _names(peers, replay_peers.PEERS, "peers")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    workload = QUICK if quick else Workload()
    measures: dict[str, Callable[[], Iterator[BenchRow]]] = {
        "process": lambda: in_process(workload, rivals, rounds),
        "tree": lambda: sum_trees(rivals, rounds, 1 << 12 if quick else TREE_LEAVES),
        "checkpoint": lambda: checkpoints(workload),
        "service": lambda: services(workload, rivals, rounds),
    }
    for part in chosen:
        logger.info("replay: %s", part)
        yield from measures[part]()


def _names(text: str, known: Collection[str], what: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{what} are {', '.join(known)}; there is no {', '.join(unknown)}")
    return names


def in_process(workload: Workload, peers: Collection[str], rounds: int) -> Iterator[BenchRow]:
    """Insertion, uniform sampling, and prioritized sampling with updates, without Ray.

    Beside peers ours fills the same arrays again and again, as it does in the slots of the service; theirs return new
    ones, because they have no other way.
    """
    source = StepSource(workload)
    yield from insertion(source, rounds)
    ring = Ring(source)
    for case, prioritized in (("uniform sample", False), ("prioritized sample + update", True)):
        selector = PrioritizedConfig() if prioritized else UniformConfig()
        shard = filled_shard(source.restarted(), selector)
        fresh, reused = sampler(shard, workload, prioritized, False), sampler(shard, workload, prioritized, True)
        rates = alternate({"fresh": fresh, "reused": reused} | memcpy_bounds(ring), rounds, repeats_of(workload))
        for ours, bound in (("reused", "memcpy, reused buffer"), ("fresh", "memcpy, fresh buffer")):
            yield from compared(f"{case}, {ours} arrays", "batches/s", rates, ours, {bound: bound})
        for peer in peers:
            yield from _beside(peer, case, reused, workload, source, prioritized, rounds)


def repeats_of(workload: Workload) -> int:
    """Batches of a turn; in short turns the first, cold ones would decide."""
    return max(1, workload.stored_steps // 2500)


def _beside(
    peer: str, case: str, ours: Work, workload: Workload, source: StepSource, prioritized: bool, rounds: int
) -> Iterator[BenchRow]:
    """Our sampling and a peer's in turns; the peer is gone afterwards."""
    try:
        theirs = replay_peers.make_peer(peer, workload, source, prioritized)
    except ImportError as error:
        value = float(np.median(alternate({"ours": ours}, 1, 10)["ours"]))
        yield skipped_row(case, value, "batches/s", peer, replay_peers.why_skipped(peer, error))
        return
    rates = alternate({"ours": ours, peer: theirs}, rounds, repeats_of(workload))
    yield from compared(case, "batches/s", rates, "ours", {peer: replay_peers.shown(peer)})


def insertion(source: StepSource, rounds: int) -> Iterator[BenchRow]:
    """Steps per second into an empty shard, whose memory is new, and into a full one, which evicts."""
    workload = source.workload
    case, steps = f"insert blocks of {workload.block_steps}", workload.block_steps
    filling = alternate({"ours": lambda: _fill(source), "ring": lambda: Ring(source.restarted())}, min(rounds, 3), 1)
    peers = {"ring": "memcpy into a ring"}
    yield from compared(f"{case}, first filling", "steps/s", filling, "ours", peers, workload.stored_steps)
    ours, theirs = source.restarted(), source.restarted()
    shard, ring = filled_shard(ours, UniformConfig()), Ring(theirs)
    for block in ours.blocks():  # until chunks are evicted
        shard.insert(block)
    our_turn, their_turn = cycle(range(workload.streams)), cycle(range(workload.streams))
    full = alternate(
        {
            "ours": lambda: shard.insert(ours.block(next(our_turn))),
            "ring": lambda: ring.insert(theirs.block(next(their_turn)).data),
        },
        rounds,
        max(8, workload.rounds_of_blocks),
    )
    yield from compared(f"{case}, when full", "steps/s", full, "ours", peers, steps)


def _fill(source: StepSource) -> ReplayShard:
    return filled_shard(source.restarted(), UniformConfig())


def sampler(shard: ReplayShard, workload: Workload, prioritized: bool, reuse: bool) -> Work:
    """Samples a batch, into the same arrays every time if `reuse`, and updates its priorities if `prioritized`."""
    size = (workload.batch_size, workload.length)
    out = shard.sample(*size) if reuse else None
    priority = np.random.default_rng(0).uniform(0.1, 1.0, workload.batch_size)

    def sample() -> None:
        shard.sample(*size, out=out)

    def update() -> None:
        batch = shard.sample(*size, out=out)
        shard.write(batch.handle, priority=priority)

    return update if prioritized else sample


def sum_trees(peers: Collection[str], rounds: int, leaves: int = TREE_LEAVES) -> Iterator[BenchRow]:
    """Draw 256 of a million leaves and give them new priorities."""
    case = f"sum tree, {leaves} leaves: sample + update of {TREE_BATCH}"
    priority = np.random.default_rng(0).uniform(0.1, 1.0, leaves)
    ours, rivals = _our_tree(priority), {"TorchRL": _torchrl_tree, "cpprb": _cpprb_tree}
    for peer in (name for name in rivals if name in peers):
        try:
            theirs = rivals[peer](priority)
        except ImportError as error:
            value = float(np.median(alternate({"ours": ours}, 1, 100)["ours"]))
            yield skipped_row(case, value, "cycles/s", peer, replay_peers.why_skipped(peer, error))
            continue
        rates = alternate({"ours": ours, peer: theirs}, 3 * rounds, 300)
        yield from compared(case, "cycles/s", rates, "ours", {peer: replay_peers.shown(peer)})


def _our_tree(priority: NDArray[np.float64]) -> Work:
    tree, rng = SumTree(len(priority)), np.random.default_rng(0)
    tree.assign(0, priority)
    fresh = priority[:TREE_BATCH].copy()

    def sample_and_update() -> None:
        index, _ = tree.sample(rng.random(TREE_BATCH))
        tree.update(index, fresh)

    return sample_and_update


def _torchrl_tree(priority: NDArray[np.float64]) -> Work:
    tree, rng = replay_peers.torchrl_tree()(len(priority)), np.random.default_rng(0)
    tree.update(np.arange(len(priority)), priority.astype(np.float32))
    fresh = priority[:TREE_BATCH].astype(np.float32)

    def sample_and_update() -> None:
        total = tree.query(0, tree.size)
        index = tree.scan_lower_bound(rng.random(TREE_BATCH, np.float32) * total)
        tree.update(index, fresh)

    return sample_and_update


def _cpprb_tree(priority: NDArray[np.float64]) -> Work:
    """cpprb keeps its tree to itself: a replay of one float a step, weights included."""
    import cpprb

    replay = cpprb.PrioritizedReplayBuffer(len(priority), {"x": {"shape": 1}})
    replay.add(x=priority, priorities=priority)
    fresh = priority[:TREE_BATCH].copy()

    def sample_and_update() -> None:
        replay.update_priorities(replay.sample(TREE_BATCH)["indexes"], fresh)

    return sample_and_update
