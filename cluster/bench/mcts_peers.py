"""Tree searches that `cluster.bench.mcts` compares with, all fed from the same ready arrays.

Letters: B roots, S simulations, A actions.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from native import Mcts

Search = Callable[[], Any]
"""One search of all roots, from the roots' evaluation to the recommended policy."""

C1, C2, MAX_CONSIDERED, VALUE_SCALE, MAXVISIT_INIT = 1.25, 19652.0, 16, 0.1, 50.0


@dataclass(frozen=True)
class Case:
    """What is searched; no noise, discount 0.997."""

    selection: Literal["puct", "gumbel"]
    num_actions: int
    roots: int
    simulations: int = 50
    discount: float = 0.997

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.selection}, A {self.num_actions}, B {self.roots}"


@dataclass(frozen=True)
class Pool:
    """A network that costs nothing: evaluation i is entry i % len(value)."""

    logits: NDArray[np.float32]  # [entries, B, A] ~ N(0, 1)
    value: NDArray[np.float32]  # [entries, B] in [-1, 1]
    reward: NDArray[np.float32]  # [entries, B] in [-0.1, 0.1]

    @classmethod
    def random(cls, case: Case, seed: int, entries: int = 61) -> Pool:
        """A pool for a case."""
        rng = np.random.default_rng(seed)
        shape = entries, case.roots
        return cls(
            rng.standard_normal((*shape, case.num_actions), np.float32),
            rng.uniform(-1.0, 1.0, shape).astype(np.float32),
            rng.uniform(-0.1, 0.1, shape).astype(np.float32),
        )


def ours(case: Case, pool: Pool, threads: int = 1) -> tuple[Search, Mcts]:
    """native.Mcts, and the object that searches."""
    search = Mcts(
        num_actions=case.num_actions,
        simulations=case.simulations,
        selection=case.selection,
        c1=C1,
        c2=C2,
        max_considered=MAX_CONSIDERED,
        value_scale=VALUE_SCALE,
        maxvisit_init=MAXVISIT_INIT,
        threads=threads,
    )
    seeds, discount = np.zeros(case.roots, np.uint64), np.full(case.roots, case.discount, np.float32)
    evaluations = list(zip(pool.logits, pool.value, pool.reward, strict=True))

    def run() -> Any:
        search.begin(pool.logits[0], pool.value[0], seeds)
        for simulation in range(1, case.simulations + 1):
            logits, value, reward = evaluations[simulation % len(evaluations)]
            search.expand(logits, value, reward, discount)
        return search.policy()

    return run, search


def lightzero(case: Case, pool: Pool) -> Search:
    """LightZero's C++ tree, called as its MuZeroMCTSCtree.search does, lists included; its own conventions.

    Raises:
        ImportError: It is not installed.
    """
    gumbel = case.selection == "gumbel"
    tree = _lightzero_tree("gumbel_muzero", "gmz_tree") if gumbel else _lightzero_tree("muzero", "mz_tree")
    legal, to_play = [list(range(case.num_actions))] * case.roots, [-1] * case.roots
    entries = len(pool.value)

    def run() -> Any:
        roots = tree.Roots(case.roots, legal)
        logits, value, reward = (part[0].tolist() for part in (pool.logits, pool.value, pool.reward))
        roots.prepare_no_noise(reward, *([value] if gumbel else []), logits, to_play)
        extremes = tree.MinMaxStatsList(case.roots)
        extremes.set_delta(0.01)
        for simulation in range(1, case.simulations + 1):
            results = tree.ResultsWrapper(num=case.roots)
            if gumbel:
                tree.batch_traverse(roots, case.simulations, MAX_CONSIDERED, case.discount, results, to_play)
            else:
                tree.batch_traverse(roots, C2, C1, case.discount, extremes, results, to_play)
            at = simulation % entries
            logits, value, reward = (part[at].tolist() for part in (pool.logits, pool.value, pool.reward))
            back_up = tree.batch_back_propagate if gumbel else tree.batch_backpropagate
            back_up(simulation, case.discount, reward, value, logits, extremes, results, to_play)
        return roots.get_distributions(), roots.get_values()

    run()
    return run


def mctx(case: Case, pool: Pool) -> Search:
    """mctx in JAX on the CPU, compiled beforehand; as many threads as XLA takes.

    Raises:
        ImportError: It is not installed.
    """
    import jax  # type: ignore[import-not-found, unused-ignore]
    import mctx as library  # type: ignore[import-not-found, unused-ignore]
    from jax import numpy as jnp

    known = [jnp.asarray(part) for part in (pool.logits, pool.value, pool.reward)]
    discount = jnp.full(case.roots, case.discount)
    entries, rows = len(pool.value), jnp.arange(case.roots)

    def recurrent(parameters: Any, key: Any, action: Any, embedding: Any) -> Any:
        at = (embedding + 1) % entries
        logits, value, reward = (part[at, rows] for part in parameters)
        output = library.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=value)
        return output, embedding + 1

    gumbel: dict[str, Any] = {"gumbel_scale": 0.0, "max_num_considered_actions": MAX_CONSIDERED}
    puct: dict[str, Any] = {"dirichlet_fraction": 0.0, "pb_c_init": C1, "pb_c_base": C2}
    policy, options = (library.gumbel_muzero_policy, gumbel) if case.selection == "gumbel" else (
        library.muzero_policy, puct)  # fmt: skip

    @partial(jax.jit)
    def search(parameters: Any, key: Any) -> Any:
        root = library.RootFnOutput(
            prior_logits=parameters[0][0], value=parameters[1][0], embedding=jnp.zeros(case.roots, jnp.int32)
        )
        return policy(parameters, key, root, recurrent, num_simulations=case.simulations, **options).action_weights

    key = jax.random.PRNGKey(0)

    def run() -> Any:
        return search(known, key).block_until_ready()

    run()
    return run


def _lightzero_tree(folder: str, name: str) -> ModuleType:
    """One of LightZero's extension modules, without the imports of its packages (DI-engine and more).

    Raises:
        ImportError: There is none.
    """
    package = importlib.util.find_spec("lzero") if sys.modules.get("lzero", ...) is not None else None
    for place in (package and package.submodule_search_locations) or []:
        for file in (Path(place) / "mcts" / "ctree" / f"ctree_{folder}").glob(f"{name}.*.so"):
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError(f"there is no module lzero.mcts.ctree.ctree_{folder}.{name}")


PEERS: dict[str, Callable[[Case, Pool], Search]] = {"lightzero": lightzero, "mctx": mctx}
