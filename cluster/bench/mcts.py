"""Tree search against peers, and what share of a plan the tree takes.

Searches take turns, so all see the same machine; a figure is the best of their rounds. Peers that are not installed are
named and skipped; docs/peers.md says how to install them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.searched_model import SearchedModel
from cluster.bench.mcts_peers import PEERS, Case, Pool, Search, ours
from cluster.bench.row import BenchRow
from envs.specs import ArraySpec, EnvSpec
from learner.models.muzero import MuZeroModel
from learner.models.muzero_config import GaussianConfig, MuZeroModelConfig, MuZeroNetworkConfig, SupportConfig
from native import Mcts
from planners.config import MctsConfig
from planners.tree import TreePlanner

_SEED = 0

logger = logging.getLogger(__name__)


def run(
    actions: Sequence[int] = (4, 18),
    roots: Sequence[int] = (1, 16, 256),
    simulations: int = 50,
    rounds: int = 20,
    seconds: float = 0.05,
    clock: Literal["wall", "cpu"] = "wall",
) -> Iterator[BenchRow]:
    """Simulations per second of PUCT and Gumbel, then the parts of a whole plan.

    Args:
        actions: A of the cases.
        roots: B of the cases.
        simulations: S.
        rounds: Turns of each search; the first one only warms up when there are several.
        seconds: How long a turn repeats its search, once at least.
        clock: What speeds count: time on the wall, or processor time of the process (which its threads add up to).
    """
    if clock not in ("wall", "cpu"):
        raise ValueError(f"clock must be wall or cpu, not {clock}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    for selection in ("puct", "gumbel"):
        for count in actions:
            for size in roots:
                yield from search_speed(Case(selection, count, size, simulations), rounds, seconds, clock)
    for images in (False, True):
        for size in roots:
            yield from parts_of_a_plan(images, size, simulations, rounds)


def search_speed(case: Case, rounds: int, seconds: float, clock: str = "wall") -> Iterator[BenchRow]:
    """Thousands of simulations per second: one thread beside every peer and the memory's speed, then two threads."""
    pool = Pool.random(case, _SEED)
    one, search = ours(case, pool)
    two, _ = ours(case, pool, threads=2)
    searches = {"ours": one, "two threads": two} | _installed_peers(case, pool)
    best = _take_turns(searches, rounds, seconds, process_time if clock == "cpu" else perf_counter)
    speed = {name: 1e-3 * case.roots * case.simulations / each for name, each in best.items()}

    def row(peer: str, peer_value: float | None, threads: int = 1, value: float = speed["ours"]) -> BenchRow:
        ratio = None if peer_value is None else value / peer_value
        return BenchRow("mcts", case.name, value, "k simulations/s", threads, peer, peer_value, ratio)

    for peer in PEERS:
        yield row(peer if peer in speed else f"{peer} (skipped: not installed)", speed.get(peer))
    yield row("memory", memory_bound(case, search))
    if case.roots > 16 and clock == "wall":
        yield row("one thread", speed["ours"], 2, speed["two threads"])


def memory_bound(case: Case, search: Mcts) -> float:
    """Thousands of simulations per second if all that these trees cost were reading the nodes of each path once.

    Nodes are read at the speed at which NumPy copies memory of the size of the trees.
    """
    parent, _, visits, _ = search.nodes()
    depth = np.zeros(parent.shape, np.int64)
    for node in range(1, parent.shape[1]):  # a parent precedes its children
        depth[:, node] = np.take_along_axis(depth, np.maximum(parent[:, node, None], 0), axis=1)[:, 0] + 1
    path = float(depth[:, 1:][visits[:, 1:] > 0].mean()) + 1.0
    lanes = -(-case.num_actions // 4) * 4
    node_bytes = 32 + (5 if case.selection == "gumbel" else 4) * 4 * lanes
    trees = np.zeros(node_bytes * case.roots * (case.simulations + 1), np.uint8)
    copy = np.empty_like(trees)
    times = []
    for _ in range(9):
        start = perf_counter()
        np.copyto(copy, trees)
        times.append(perf_counter() - start)
    return 1e-3 * trees.nbytes / min(times) / (path * node_bytes)


def _network(images: bool) -> tuple[MuZeroModel, dict[str, ArraySpec]]:
    """A model of the MuZero family on the CPU and what it observes.

    Without images it has the laptop preset's 64 units, with images EfficientZero's for Atari, without its value
    prefix: 64 channels and a block.
    """
    observation = (
        {"image": ArraySpec((64, 64, 3), "uint8", 0, 255)} if images else {"state": ArraySpec((4,), "float32")}
    )
    network = MuZeroNetworkConfig(units=64, channels=64, blocks=1, head_channels=16, head_units=32 if images else 64)
    support = SupportConfig(30.0, 61)
    config = MuZeroModelConfig((), network, support, support, GaussianConfig(), False)
    spec = EnvSpec("bench", observation, ArraySpec((), "int64", num_values=4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return MuZeroModel(config, spec).requires_grad_(False), observation


class _Timed:
    """Another object, with the processor seconds that its methods take."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.spent = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def timed(*args: Any, **options: Any) -> Any:
            start = process_time()
            try:
                return value(*args, **options)
            finally:
                self.spent += process_time() - start

        return timed


def parts_of_a_plan(images: bool, roots: int, simulations: int, rounds: int) -> Iterator[BenchRow]:
    """Processor milliseconds of tree, network and copies in the plans that an acting policy makes for observations.

    The network represents the observations and is then asked once for every simulation; copies are all else: rows of
    latents, arrays to tensors and back, random numbers.
    """
    model, observation = _network(images)
    network = _Timed(SearchedModel(model, 0.997, 0))
    represent = _Timed(model)
    planner = TreePlanner(MctsConfig(simulations=simulations, selection="puct"), network)
    tree = _Timed(planner._search)
    planner._search = tree  # type: ignore[assignment]
    rng, carry = np.random.default_rng(_SEED), planner.initial(np.arange(roots, dtype=np.uint64))
    seen = {key: _observed(spec, roots, rng) for key, spec in observation.items()}
    first: NDArray[np.bool_] = np.ones(roots, np.bool_)
    whole: list[tuple[float, float, float]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(rounds):
        tree.spent = network.spent = represent.spent = 0.0
        start = process_time()
        planner.plan(represent.represent(seen), carry, first, explore=False)
        whole.append((process_time() - start, tree.spent, network.spent + represent.spent))
    torch.set_num_threads(before)
    total, in_tree, in_network = min(whole)
    parts = {"tree": in_tree, "network": in_network, "copies": total - in_tree - in_network}
    for name, value in parts.items():
        case = f"plan of S {simulations} over {'64x64 images' if images else 'a vector'}, B {roots}: {name}"
        yield BenchRow("mcts", case, 1e3 * value, "CPU ms", 1, "whole plan", 1e3 * total, value / total)


def _observed(spec: ArraySpec, rows: int, rng: np.random.Generator) -> Tensor:
    shape = rows, *spec.shape
    return torch.from_numpy(
        rng.integers(0, 256, shape, np.uint8) if spec.dtype == "uint8" else rng.normal(size=shape).astype(spec.dtype)
    )


def _installed_peers(case: Case, pool: Pool) -> dict[str, Search]:
    peers: dict[str, Search] = {}
    for name, make in PEERS.items():
        try:
            peers[name] = make(case, pool)
        except ImportError as error:
            logger.warning("%s skipped: %s", name, error)
    return peers


def _take_turns(
    searches: dict[str, Callable[[], Any]], rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Least seconds of one search each."""
    best = dict.fromkeys(searches, np.inf)
    for number in range(rounds):
        for name, search in searches.items():
            until = perf_counter() + seconds
            while True:
                start = clock()
                search()
                spent = clock() - start
                if number > 0 or rounds == 1:
                    best[name] = min(best[name], spent)
                if perf_counter() >= until:
                    break
    return best
