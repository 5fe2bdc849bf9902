"""`worldfleet eval --suite`: a trained driver on the conditions of a named suite, with the leaderboards' figures."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from actors.evaluate import bootstrap_interval
from actors.records import Episode
from cluster import build
from cluster.evaluation import Trained, check_arrays, load_trained
from cluster.progress import Waiting
from cluster.run_dir import write_atomic
from cluster.supervise import RunFailed
from envs.carla.suites import Condition, Suite, suite
from envs.carla.tasks import TASKS
from envs.faults import SimulatorError
from envs.numbers import NonNegativeInt, read_value
from envs.registry import vector_backend

logger = logging.getLogger(__name__)

SCORES = ("route_completion", "driving_score_v2_0", "driving_score_v2_1", "outside_lane", "speed", "ttc_min")
"""Metrics whose means are told, with bootstrap intervals."""
INFRACTIONS = ("collision_vehicle", "collision_walker", "collision_static", "red_light", "off_route", "stuck")
"""Metrics that are counted, and told per kilometre."""


def run_suite(path: Path, name: str, seed: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run on a suite, without exploration.

    Writes `eval/suites/step<...>_<name>_seed<...>.json`, which the report shows.

    Args:
        path: Run directory.
        name: Of the suite.
        seed: Of the traffic; the routes are the same for all.
        overrides: As for `cluster.evaluation.evaluate_run`.

    Returns:
        The summary: of all episodes, and of each condition.

    Raises:
        ValueError: No such suite, run or checkpoint, or a policy that takes other arrays.
        RunFailed: No simulator can be made.
    """
    read_value(NonNegativeInt, seed, "seed")
    chosen = suite(name)
    trained = load_trained(path, None, overrides)
    if trained.config.env.name not in TASKS:
        raise ValueError(f"--suite {name} is for policies of {', '.join(TASKS)}, not of {trained.config.env.name}")
    episodes: dict[str, list[Episode]] = {}
    for condition in chosen.conditions:
        episodes[condition.name] = _episodes(trained, chosen, condition, seed)
        logger.info("%s, %s: %s", name, condition.name, _line(figures(episodes[condition.name], seed)))
    backend = vector_backend(trained.config.env.name, **trained.config.env.options)
    summary = {
        "suite": name,
        "backend": backend,
        "seed": seed,
        "train_steps": trained.steps,
        "run_dir": str(path),
        "all": figures([episode for each in episodes.values() for episode in each], seed),
        "conditions": {condition: figures(each, seed) for condition, each in episodes.items()},
    }
    folder = trained.run_dir.eval / "suites"
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"step{trained.steps}_{name}_seed{seed}.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _episodes(trained: Trained, chosen: Suite, condition: Condition, seed: int) -> list[Episode]:
    """Those of one condition."""
    config = trained.config
    options = {**config.env.options, **config.env.eval_options, **condition.options, "routes": chosen.routes}
    env = dataclasses.replace(config.env, name=condition.env, options=options, eval_options={})
    config = dataclasses.replace(config, env=env)
    check_arrays(trained.config, config)
    seeds = chosen.env_seeds(seed)
    try:
        evaluator = build.evaluator(config, len(seeds), seed)
        with closing(evaluator):
            evaluator.env_seeds = seeds
            with Waiting(condition.name) as waiting:
                return evaluator.evaluate(trained.policy, config.algorithm.name, ended=waiting.episodes).episodes
    except SimulatorError as error:
        raise RunFailed(f"no evaluation of {condition.env}: {error}") from error


def figures(episodes: Sequence[Episode], seed: int) -> dict[str, Any]:
    """What the leaderboards tell of episodes.

    Args:
        episodes: At least one; those whose simulator failed count as failures.
        seed: Of the bootstrap.
    """
    metrics = [episode.metrics for episode in episodes]
    successes = sum(each["is_success"] > 0 for each in metrics)
    kilometres = sum(each["distance"] for each in metrics) / 1000.0
    found: dict[str, Any] = {
        "episodes": len(episodes),
        "faults": sum(episode.faults > 0 for episode in episodes),
        "success_rate": successes / len(episodes),
        "success_ci95": clopper_pearson(successes, len(episodes)),
        "kilometres": kilometres,
    }
    for name in SCORES:
        values = np.array([each[name] for each in metrics])
        found[name] = {"mean": float(values.mean()), "ci95": bootstrap_interval(values, seed)}
    found["infractions"] = {
        name: {
            "count": int(sum(each[name] for each in metrics)),
            "per_km": sum(each[name] for each in metrics) / kilometres if kilometres > 0 else None,
            "episodes": sum(each[name] > 0 for each in metrics),
        }
        for name in INFRACTIONS
    }
    return found


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934)."""
    assert 0 <= successes <= trials > 0
    tail = 0.5 * (1.0 - level)
    low = 0.0 if successes == 0 else _solve(lambda p: 1.0 - _at_most(successes - 1, trials, p) - tail)
    high = 1.0 if successes == trials else _solve(lambda p: tail - _at_most(successes, trials, p))
    return low, high


def _at_most(count: int, trials: int, p: float) -> float:
    """Probability of at most `count` successes, for p between 0 and 1."""
    choices = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(count + 1)]
    sides = math.log(p), math.log1p(-p)
    return math.fsum(math.exp(c + k * sides[0] + (trials - k) * sides[1]) for k, c in enumerate(choices))


def _solve(rising: Any) -> float:
    """Where a rising function of [0, 1] crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rising(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)


def _line(found: dict[str, Any]) -> str:
    """The figures of a condition for the log."""
    low, high = found["success_ci95"]
    route, score_2_0, score_2_1 = (
        found[name]["mean"] for name in ("route_completion", "driving_score_v2_0", "driving_score_v2_1")
    )
    success = f"success {found['success_rate']:.2f} [{low:.2f}, {high:.2f}]"
    return f"{success}, route {route:.2f}, driving score {score_2_0:.1f} (2.0), {score_2_1:.1f} (2.1)"
