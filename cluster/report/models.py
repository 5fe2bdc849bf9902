"""One table of every one-step model of a state: how large, how exact, how calibrated, how good a pilot, how fast.

All models are fitted to the same recorded episodes (uniform actions, a random walk of actions, and a planner) for the
same number of updates, with the settings of their presets at a scale; then they predict episodes that none of them saw,
and fly the same evaluation episodes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.random_policy import RandomPolicy
from cluster import build
from cluster.config import RunConfig, resolve
from cluster.report.fidelity import SmoothRandomPolicy, StudyConfig, collect, planner_policy, train
from cluster.run_dir import write_atomic
from cluster.seeding import derive_seed
from envs.numbers import PositiveInt, check_fields
from envs.registry import make_vector_env
from learner.algorithms.pets import PetsAlgorithm
from learner.calibration import calibration
from learner.dataset import Stream, StreamDataset
from learner.fidelity import Rollout, Windows, constant_velocity, cut_windows, horizon_error, persistence, rollout
from learner.fit import fit
from planners.config import IcemConfig

logger = logging.getLogger(__name__)
MODELS: dict[str, tuple[str, ...]] = {
    "pets": (),
    "pets, normal": ("algorithm.ensemble.degrees=null",),
    "mlp": (),
    "ensemble": (),
    "stochastic": (),
    "stochastic_ensemble": (),
    "vae_dynamics": (),
    "latent": (),
    "creature_latent": (),
}
"""Presets in the table, and what is changed in them; what follows a comma tells two of a preset apart. `visual` is of
images."""
HORIZONS = (1, 10, 25)
_STARTS = 600
_NUM_ENVS = 8


@dataclass(frozen=True)
class TableConfig:
    """Size of the table.

    Args:
        random_steps: Training steps under uniform actions, and as many under smooth ones.
        planner_steps: Training steps under a planner on a first model.
        test_steps: Steps of each test set.
        updates: Gradient steps of every model, a third of them of the one that collects.
        batch_size: Sequences of a gradient step.
        scale: Scale preset that the models' other settings are taken from.
        population: Candidates of the planner that flies on them.
        iterations: Its iterations.
        episodes: Evaluation episodes.
        stride: Steps between two start states.
        particles: Particles of the likelihood, over all members.
    """

    random_steps: PositiveInt = 1500
    planner_steps: PositiveInt = 5000
    test_steps: PositiveInt = 2000
    updates: PositiveInt = 1000
    batch_size: PositiveInt = 32
    scale: str = "laptop"
    population: PositiveInt = 128
    iterations: PositiveInt = 2
    episodes: PositiveInt = 20
    stride: PositiveInt = 5
    particles: PositiveInt = 20

    def __post_init__(self) -> None:
        check_fields(self)


QUICK = TableConfig(
    random_steps=300,
    planner_steps=320,
    test_steps=320,
    updates=20,
    batch_size=8,
    scale="debug",
    population=8,
    iterations=1,
    episodes=2,
    particles=2,
)


def run(
    output: Path,
    env: str,
    seed: int = 0,
    config: TableConfig | None = None,
    models: Mapping[str, Sequence[str]] = MODELS,
) -> Path:
    """Measure the models and write `models_{env}.{md,json}`.

    Args:
        output: Folder of the files, created if absent.
        env: Environment with an observation `state` and a box of actions.
        seed: Of data, weights, test and evaluation episodes.
        config: Size.
        models: Presets to measure, with what is changed in them.

    Returns:
        The Markdown file.
    """
    config = config or TableConfig()
    start = time.perf_counter()
    overrides = [
        "cluster.mode=local",
        f"seed={seed}",
        f"learner.batch_size={config.batch_size}",
        f"planner.population={config.population}",
        f"planner.iterations={config.iterations}",
        f"planner.elites={max(2, config.population // 10)}",
    ]
    runs = {
        name: resolve(name.partition(",")[0], env, config.scale, overrides=[*overrides, *changed])
        for name, changed in models.items()
    }
    spec = build.env_spec(next(iter(runs.values())))
    streams, tests = _episodes(spec.name, config, seed)
    tests["train"] = streams[-_NUM_ENVS:]  # of the planner, for the likelihood of what was trained on
    windows = {name: cut_windows(test, "state", max(HORIZONS), config.stride, _STARTS) for name, test in tests.items()}
    record: dict[str, Any] = {
        "env": env,
        "seed": seed,
        "config": asdict(config),
        "step_seconds": spec.step_seconds,
        "baselines": {name: _baselines(part) for name, part in windows.items()},
        "models": {},
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, settings in runs.items():
        logger.info("%s is trained and measured", name)
        record["models"][name] = measure(settings, streams, windows, config, seed)
        record["seconds"] = round(time.perf_counter() - start, 1)
        logger.info("%s: %s", name, record["models"][name])
        write_atomic(output / f"models_{env}.json", json.dumps(record, indent=1) + "\n")
        write_markdown(record, output / f"models_{env}.md")
    return output / f"models_{env}.md"


def measure(
    settings: RunConfig, streams: list[Stream], windows: dict[str, Windows], config: TableConfig, seed: int
) -> dict[str, Any]:
    """Fit one model, and what it can do."""
    algorithm = build.algorithm(settings)
    assert isinstance(algorithm, PetsAlgorithm)
    began = time.perf_counter(), time.process_time()
    fit(algorithm, StreamDataset(streams), settings.learner, config.updates, derive_seed(seed, "table"))
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    model = algorithm.model
    errors: dict[str, Any] = {}
    with algorithm.average.applied():
        particles = max(1, config.particles // model.config.members) if model.config.gaussian else 1
        for name, part in windows.items():
            prediction = rollout(model, part)
            sampled = rollout(model, part, particles) if particles > 1 else prediction
            nrmse = horizon_error(part, prediction, resamples=200)
            nll, figures = _uncertainty(sampled, part, seed) if model.config.gaussian else (None, None)
            errors[name] = {
                "nrmse": [float(nrmse.nrmse[k - 1]) for k in HORIZONS],
                "interval_at_10": [float(nrmse.lower[9]), float(nrmse.upper[9])],
                "nll": nll,
                "calibration": figures,
            }
    policy = build.policy(settings)
    policy.update(1, algorithm.export_weights())
    evaluator = build.evaluator(settings, config.episodes, seed, num_envs=min(config.episodes, 50))
    flown, used = time.perf_counter(), time.process_time()
    summary = evaluator.evaluate(policy, settings.algorithm.name).summary
    cpu = time.process_time() - used
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "fit_seconds": round(seconds[0], 1),
        "fit_cpu_seconds": round(seconds[1], 1),
        "errors": errors,
        "success": summary.success_rate,
        "success_ci95": summary.success_ci95,
        "return_mean": summary.return_mean,
        "plans_per_cpu_second": round(summary.steps / cpu, 1),
        "eval_seconds": round(time.perf_counter() - flown, 1),
    }


def _uncertainty(sampled: Rollout, windows: Windows, seed: int) -> tuple[list[float], dict[str, list[float]]]:
    """Likelihood and calibration at the horizons of the table."""
    assert sampled.samples is not None
    assert sampled.nll is not None
    figures = calibration(sampled.samples, windows.states, windows.std, seed).as_dict()
    chosen = {name: [curve[k - 1] for k in HORIZONS] for name, curve in figures.items()}
    return [float(sampled.nll[:, k - 1].mean()) for k in HORIZONS], chosen


def _episodes(env: str, config: TableConfig, seed: int) -> tuple[list[Stream], dict[str, list[Stream]]]:
    """Training streams, and test streams by behaviour."""
    probe = make_vector_env(env, 1)
    spec = probe.spec
    probe.close()
    sizes = StudyConfig(
        updates=max(20, config.updates // 3),
        hidden=(64, 64),
        members=2,
        batch_size=256,
        planner=IcemConfig(horizon=12, population=64, elites=8, iterations=2),
    )
    smooth, uniform = SmoothRandomPolicy(spec.action), RandomPolicy(spec.action)
    streams: list[Stream] = []
    for name, policy in (("smooth", smooth), ("uniform", uniform)):
        streams += collect(make_vector_env(env, _NUM_ENVS), policy, config.random_steps, derive_seed(seed, name))
    scout = train(spec, sizes, "ensemble", streams, seed)
    pilot = planner_policy(spec, sizes, scout)
    streams += collect(make_vector_env(env, _NUM_ENVS), pilot, config.planner_steps, derive_seed(seed, "planner"))
    tests = {
        "planner": collect(
            make_vector_env(env, _NUM_ENVS), pilot, config.test_steps, derive_seed(seed, "test planner")
        ),
        "smooth": collect(make_vector_env(env, _NUM_ENVS), smooth, config.test_steps, derive_seed(seed, "test smooth")),
    }
    return streams, tests


def _baselines(windows: Windows) -> dict[str, list[float]]:
    return {
        name: [float(horizon_error(windows, prediction, resamples=2).nrmse[k - 1]) for k in HORIZONS]
        for name, prediction in (("persistence", persistence(windows)), ("velocity", constant_velocity(windows)))
    }


def write_markdown(record: dict[str, Any], path: Path) -> None:
    """The table, with how it was made."""
    config = record["config"]
    steps = 2 * config["random_steps"] + config["planner_steps"]
    lines = [
        f"# One-step models on {record['env']}",
        "",
        f"Made by `worldfleet fidelity --models --env {record['env']} --seed {record['seed']}` in"
        f" {record['seconds']:.0f} s: {steps} training steps, {config['updates']} updates of every model, settings"
        f" of the scale `{config['scale']}`, one seed. NRMSE is open loop over 1, 10 and 25 steps of recorded actions;"
        " 1 is predicting the mean. NLL is in nats per state dimension. Plans are counted per second of processor time,"
        " with the steps of the simulators.",
    ]
    titles = {"planner": "a planner's episodes", "smooth": "smooth random actions", "train": "trained on, a planner's"}
    for test, title in titles.items():
        lines += [
            "",
            f"## Episodes: {title}",
            "",
            "| model | NRMSE 1 | 10 | 25 | NLL 1 | 10 | covers 90 %, 1 | 10 | Spearman 1 (oracle) | ENCE 1 (oracle) |",
            "|---" * 10 + "|",
        ]
        for name, values in record["baselines"][test].items():
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |" * 7)
        for name, row in record["models"].items():
            errors = row["errors"][test]
            cells = [f"{value:.3f}" for value in errors["nrmse"]] + _calibration_cells(errors)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"## Flying, {config['episodes']} episodes",
        "",
        "| model | parameters | success (95 %) | return | fit, CPU s | plans per CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in record["models"].items():
        low, high = row["success_ci95"] or (np.nan, np.nan)
        success = np.nan if row["success"] is None else row["success"]
        lines.append(
            f"| {name} | {row['parameters']:,} | {success:.2f} ({low:.2f} to {high:.2f}) |"
            f" {row['return_mean']:.2f} | {row['fit_cpu_seconds']} |"
            f" {row['plans_per_cpu_second']} |"
        )
    write_atomic(path, "\n".join(lines) + "\n")


def _calibration_cells(errors: dict[str, Any]) -> list[str]:
    """Likelihood, coverage, rank correlation and ENCE; empty of a model that says nothing of its uncertainty."""
    figures = errors["calibration"]
    if figures is None:
        return [""] * 6
    cells = [f"{value:.2f}" for value in errors["nll"][:2] + figures["coverage_90"][:2]]
    pairs = [(figures[name][0], figures[f"{name}_calibrated"][0]) for name in ("spearman", "ence")]
    return cells + [f"{found:.2f} ({oracle:.2f})" for found, oracle in pairs]
