"""Planning latency against peers, and what bf16 changes.

Every planner takes one action per round, in turns, so all see the same machine; a figure is the minimum over rounds.
Peers that are not installed are named and skipped; docs/peers.md says how to install them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from actors.evaluate import EvalConfig, Evaluator
from actors.planning import PlannerPolicy
from cluster.bench.planner_peers import PEERS, Act, Problem, Weights, random_weights
from cluster.bench.row import BenchRow
from envs.specs import EnvSpec, VectorEnv
from native import cpu_features
from planners.config import CemConfig, EliteConfig, IcemConfig, SequenceConfig
from planners.constraint_config import Clearance, ConstraintConfig, GuardConfig
from planners.ensemble import EnsembleEvaluator, EnsembleModel
from planners.factory import make_planner
from planners.risk_config import CvarRisk, EntropicRisk, MeanStdRisk
from planners.sampling import SamplingPlanner, make_search

PROBLEMS = (Problem("small", 9, 2), Problem("large", 34, 3))
ROUNDS = 7
_SEED = 0

Method = TypeVar("Method", bound=EliteConfig)

logger = logging.getLogger(__name__)


def run(
    problems: Sequence[Problem] = PROBLEMS, threads: Sequence[int] = (1, 2), rounds: int = ROUNDS
) -> Iterator[BenchRow]:
    """Latency of every problem and thread count, the elites that fp32 and bf16 share, and what risk costs.

    Args:
        problems: Reference problems.
        threads: Thread counts, for our planners and for torch.
        rounds: Turns of each planner; the first one only warms up when there are several.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    for problem in problems:
        for count in threads:
            yield from latency(problem, count, rounds)
    for problem in problems:
        yield from shared_elites(problem)
    for problem in problems[:1]:
        yield from risk_costs(problem, threads[0], rounds)


def reference_config(problem: Problem, method: type[Method], **options: Any) -> Method:
    """A method on a reference problem."""
    return method(
        horizon=problem.horizon,
        population=problem.population,
        elites=problem.elites,
        iterations=problem.iterations,
        min_std=0.0,
        warm_start=False,
        **options,
    )


def latency(problem: Problem, threads: int, rounds: int) -> Iterator[BenchRow]:
    """Milliseconds per action of our planners, one row per planner and peer; ratio = peer's time over ours."""
    weights = random_weights(problem, _SEED)
    ours = _our_planners(problem, weights, threads)
    peers = _installed_peers(problem, weights)
    best = _interleave(problem, ours | peers, threads, rounds)
    for case in ours:
        for peer in PEERS:
            known = peer in peers
            yield BenchRow(
                bench="planner",
                case=f"{problem.name}: {case}",
                value=best[case],
                unit="ms",
                threads=threads,
                peer=peer if known else f"{peer} (skipped: not installed)",
                peer_value=best[peer] if known else None,
                ratio=best[peer] / best[case] if known else None,
            )


def shared_elites(problem: Problem, observations: int = 8) -> Iterator[BenchRow]:
    """Elites common to fp32 and bf16 among the same candidates with the same noise, as a mean over observations.

    The candidates are those of an fp32 search: wide in its first iteration, almost equal in its last.
    """
    if not _has_bf16():
        logger.warning("shared elites skipped: this processor has no bf16 instructions")
        return
    weights = random_weights(problem, _SEED)
    config = reference_config(problem, CemConfig, precision="fp32")
    exact, rounded = (_evaluator(problem, each, weights) for each in (config, replace(config, precision="bf16")))
    search = make_search(config, *_box(problem))
    carry = SamplingPlanner(config, *_box(problem), exact).initial(np.arange(observations, dtype=np.uint64))
    is_first = np.ones(observations, np.bool_)
    state = search.begin(carry.mean, carry.elites, carry.has_elites, carry.seed, carry.step, is_first)
    observation = np.random.default_rng(_SEED).standard_normal((observations, problem.state_size)).astype(np.float32)
    for iteration in range(problem.iterations):
        candidates, seeds = state.ask(), state.noise_seeds()
        scores = [evaluate(observation, candidates, seeds).mean(axis=-1) for evaluate in (exact, rounded)]
        state.tell(scores[0])
        if iteration in (0, problem.iterations - 1):
            top = [np.argsort(-values, axis=1)[:, : problem.elites] for values in scores]
            shared = [len(np.intersect1d(a, b)) for a, b in zip(*top, strict=True)]
            yield BenchRow(
                bench="planner",
                case=f"{problem.name}: elites shared by fp32 and bf16, iteration {iteration + 1}",
                value=float(np.mean(shared)),
                unit=f"of {problem.elites}",
            )


def risk_costs(problem: Problem, threads: int, rounds: int) -> Iterator[BenchRow]:
    """Milliseconds per action under risk measures, constraints and guards; ratio = the mean's time over theirs.

    Two particles per member, a tenth of the reference population; all else is the reference problem.
    """
    weights = random_weights(problem, _SEED)
    reference = reference_config(problem, CemConfig, threads=threads)
    members, population = problem.members, max(20, problem.population // 10)
    base = replace(reference, population=population, elites=population // 10, particles=2 * members)
    few = population // 10 * 2
    signal = Clearance(
        position=(0, 1, problem.state_size - 1), spheres=((5.0, 5.0, 5.0, 1.0),) * 8, low=(-9.0,) * 3, high=(9.0,) * 3
    )
    configs = {
        "mean": base,
        "mean_std": replace(base, risk=MeanStdRisk()),
        "cvar": replace(base, risk=CvarRisk()),
        "entropic": replace(base, risk=EntropicRisk()),
        "clearance of 8 spheres and walls": replace(base, constraint=ConstraintConfig(signal=signal)),
        "guard": replace(base, guard=GuardConfig()),
        f"cvar, {8 * members} particles for the best {few}": replace(
            base, risk=CvarRisk(), rescore_particles=8 * members
        ),
        f"cvar, {8 * members} particles for all": replace(base, risk=CvarRisk(), particles=8 * members),
    }
    planners: dict[str, Act] = {}
    for name, config in configs.items():
        model = EnsembleModel(*_box(problem))
        planner = make_planner(config, model, *_box(problem))
        model.update(weights)
        assert isinstance(planner, SamplingPlanner)
        planners[name] = _act(planner)
    best = _interleave(problem, planners, threads, rounds)
    for name, value in best.items():
        case = f"{problem.name}: risk, {name}"
        yield BenchRow("planner", case, value, "ms", threads, "mean", best["mean"], best["mean"] / value)


def closed_loop(
    weights: Weights,
    spec: EnvSpec,
    observation_keys: Sequence[str],
    config: CemConfig | IcemConfig,
    make_env: Callable[[int], VectorEnv],
    episodes: int = 100,
    seed: int = 0,
) -> Iterator[BenchRow]:
    """Returns of the same episodes planned in fp32 and in bf16.

    Two rows: the bf16 mean beside the fp32 mean (peer), and the mean difference bf16 - fp32 beside its standard error
    over pairs of episodes (peer).

    Args:
        weights: Ensemble that plans.
        spec: The environment.
        observation_keys: What the ensemble observes.
        config: The planner; its precision is replaced.
        make_env: Vector environment of a number of environments.
        episodes: Episodes per precision.
        seed: Root of the episodes' seeds.
    """
    returns: dict[str, NDArray[np.float64]] = {}
    for precision in ("fp32", "bf16"):
        policy = PlannerPolicy(spec, observation_keys, replace(config, precision=precision))
        policy.update(1, weights)
        evaluator = Evaluator(make_env, EvalConfig(episodes, min(episodes, 50), seed))
        evaluation = evaluator.evaluate(policy)
        evaluator.close()
        returns[precision] = np.array([episode.episode_return for episode in evaluation.episodes])
    difference = returns["bf16"] - returns["fp32"]
    error = float(np.std(difference, ddof=1) / np.sqrt(episodes))
    means = {precision: float(np.mean(values)) for precision, values in returns.items()}
    case = f"{spec.name}: closed-loop return of {episodes} episodes"
    yield BenchRow("planner", f"{case}, bf16", means["bf16"], "return", config.threads, "fp32", means["fp32"])
    yield BenchRow(
        "planner", f"{case}, bf16 - fp32", float(np.mean(difference)), "return", config.threads, "standard error", error
    )


def _our_planners(problem: Problem, weights: Weights, threads: int) -> dict[str, Act]:
    cem = reference_config(problem, CemConfig, threads=threads)
    icem = reference_config(problem, IcemConfig, threads=threads, noise_beta=1.0, population_decay=1.25)
    configs: dict[str, SequenceConfig] = {
        "cem fp32": replace(cem, precision="fp32"),
        "icem fp32, decay": replace(icem, precision="fp32"),
    }
    if _has_bf16():
        configs |= {"cem bf16": replace(cem, precision="bf16"), "icem bf16, decay": replace(icem, precision="bf16")}
    planners: dict[str, Act] = {}
    for name, config in configs.items():
        evaluator = _evaluator(problem, config, weights)
        planners[f"{name} ({evaluator.isa})"] = _act(SamplingPlanner(config, *_box(problem), evaluator))
    return planners


def _evaluator(problem: Problem, config: SequenceConfig, weights: Weights) -> EnsembleEvaluator:
    evaluator = EnsembleEvaluator(config, problem.action_size)
    evaluator.update(weights)
    return evaluator


def _act(planner: SamplingPlanner) -> Act:
    carry, is_first = planner.initial(np.array([_SEED], np.uint64)), np.ones(1, np.bool_)
    return lambda observation: planner.plan(observation[None], carry, is_first, explore=False)[0].action[0]


def _installed_peers(problem: Problem, weights: Weights) -> dict[str, Act]:
    peers: dict[str, Act] = {}
    for name, make in PEERS.items():
        try:
            peers[name] = make(problem, weights)
        except ImportError as error:
            logger.warning("%s skipped: %s", name, error)
    return peers


def _interleave(problem: Problem, planners: dict[str, Act], threads: int, rounds: int) -> dict[str, float]:
    """Minimum milliseconds per action of each planner."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rng = np.random.default_rng(_SEED)
    times: dict[str, list[float]] = {name: [] for name in planners}
    for _ in range(rounds):
        observation = rng.standard_normal(problem.state_size).astype(np.float32)
        for name, act in planners.items():
            start = perf_counter()
            action = act(observation)
            times[name].append(1e3 * (perf_counter() - start))
            assert np.shape(action) == (problem.action_size,)
    torch.set_num_threads(before)
    return {name: min(values) for name, values in times.items()}


def _box(problem: Problem) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    high = np.ones(problem.action_size, np.float32)
    return -high, high


def _has_bf16() -> bool:
    features = cpu_features()
    return features["amx_bf16"] or features["avx512bf16"]
