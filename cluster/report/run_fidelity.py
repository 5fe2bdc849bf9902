"""`worldfleet fidelity --run-dir`: how far the world model of a run can be trusted open loop.

The trained model looks ahead in episodes that it was not trained on: of the agent itself, exploring, and of uniformly
random actions. Definitions are those of `learner.fidelity`.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.random_policy import RandomPolicy
from actors.records import Policy
from cluster import build
from cluster.evaluation import Trained, load_trained
from cluster.progress import Waiting
from cluster.report.fidelity import collect
from cluster.report.imagination import error_record
from cluster.report.run_fidelity_page import write_markdown, write_plot
from cluster.run_dir import write_atomic
from cluster.seeding import derive_seed
from envs.numbers import PositiveInt, check_fields
from envs.registry import make_vector_env
from learner.calibration import calibration
from learner.dataset import Stream
from learner.fidelity import constant_velocity, cut_windows, horizon_error, persistence, rollout
from learner.imagination import filter_posterior, find_starts, pad
from learner.models.ensemble import Ensemble
from learner.models.world_model import WorldModel
from learner.open_loop import open_loop_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStudyConfig:
    """Size of the study.

    Args:
        steps: Steps of each test set.
        horizon: Longest open-loop horizon, steps.
        stride: Steps between two start states.
        seen: Steps of its episode that a latent model has observed at least before it looks ahead.
        samples: Imagined futures of a latent model, whose mean is a prediction of its own.
        particles: Particles of a one-step model over all its members, for its calibration.
        max_starts: Start states at most.
        max_image_starts: Those of a model of images.
        num_envs: Environments stepped together.
    """

    steps: PositiveInt = 4000
    horizon: PositiveInt = 30
    stride: PositiveInt = 3
    seen: PositiveInt = 5
    samples: PositiveInt = 8
    particles: PositiveInt = 40
    max_starts: PositiveInt = 1024
    max_image_starts: PositiveInt = 64
    num_envs: PositiveInt = 8

    def __post_init__(self) -> None:
        check_fields(self)


QUICK = RunStudyConfig(steps=400, horizon=5, samples=2, particles=8, max_starts=32, max_image_starts=8, num_envs=4)


def measure_run(path: Path, config: RunStudyConfig, seed: int = 0) -> Path:
    """Study the newest checkpoint of a run; writes `fidelity/open_loop.{md,json,png}` into its directory.

    Args:
        path: Run directory; a run that is going on may be studied.
        config: Size of the study.
        seed: Chooses the episodes, and what is imagined.

    Returns:
        The Markdown file.

    Raises:
        ValueError: No run, no checkpoint or a damaged one, or episodes shorter than the horizon.
    """
    start = time.perf_counter()
    trained = load_trained(path)
    spec = build.env_spec(trained.config)
    behaviours: dict[str, Policy] = {"agent": trained.policy, "uniform": RandomPolicy(spec.action)}
    tests = {}
    for name, policy in behaviours.items():
        env = trained.config.env
        vector = make_vector_env(env.name, config.num_envs, mode=env.mode, **env.options)
        with Waiting(f"{name}: {config.steps} steps, and what the model predicts of them"):
            streams = collect(vector, policy, config.steps, derive_seed(seed, f"fidelity {name}"))
            tests[name] = measure(trained, streams, config, seed)
        logger.info("%s: %d start states", name, tests[name]["starts"])
    record = {
        "env": trained.config.env.name,
        "algorithm": trained.config.algorithm.name,
        "train_steps": trained.steps,
        "step_seconds": spec.step_seconds,
        "seed": seed,
        "config": asdict(config),
        "seconds": round(time.perf_counter() - start, 1),
        "tests": tests,
    }
    folder = trained.run_dir.fidelity
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "open_loop.json", json.dumps(record) + "\n")
    write_plot(record, folder / "open_loop.png")
    return write_markdown(record, folder / "open_loop.md")


def measure(trained: Trained, streams: list[Stream], config: RunStudyConfig, seed: int) -> dict[str, Any]:
    """Error curves of the model and its baselines on one test set: observation key -> predictor -> plain lists.

    Raises:
        ValueError: The run's family has no model to measure.
    """
    view = build.family(trained.config).fidelity
    if view is None:
        raise ValueError(f"{trained.config.algorithm.name} has no world model whose fidelity could be measured")
    return view(trained.algorithm, streams, config, seed)


def measure_latent(model: WorldModel, streams: list[Stream], config: RunStudyConfig, seed: int) -> dict[str, Any]:
    """Errors of a latent world model that has observed the leading steps of its episode."""
    belief = filter_posterior(model, pad(streams), seed=seed)
    starts = find_starts(belief.data, config.seen, config.horizon, config.stride)
    most = config.max_image_starts if model.keys.images else config.max_starts
    if len(starts) > most:
        starts = starts.take(np.linspace(0, len(starts) - 1, most).round().astype(np.int64))
    errors = open_loop_errors(model, belief, starts, config.horizon, config.samples, seed)
    return {
        "starts": len(starts),
        "episodes": len(np.unique(starts.episode)),
        "keys": error_record(model, errors),
    }


def measure_ensemble(
    model: Ensemble, key: str, streams: list[Stream], config: RunStudyConfig, seed: int
) -> dict[str, Any]:
    """Errors and calibration of one-step models of the observation `key`, one or an ensemble."""
    windows = cut_windows(streams, key, config.horizon, config.stride, config.max_starts)
    predictions = {
        "persistence": persistence(windows),
        "constant_velocity": constant_velocity(windows),
        "ensemble": rollout(model, windows),
    }
    curves = {name: horizon_error(windows, prediction).as_dict() for name, prediction in predictions.items()}
    result = {"starts": len(windows.state), "episodes": len(np.unique(windows.episode)), "keys": {key: curves}}
    if model.config.members == 1 and not model.config.gaussian:
        return result  # it says nothing of what it does not know
    particles = max(1, config.particles // model.config.members) if model.config.gaussian else 1
    sampled = rollout(model, windows, particles, seed)
    assert sampled.samples is not None
    assert sampled.nll is not None
    figures = calibration(sampled.samples, windows.states, windows.std, seed).as_dict()
    return result | {"calibration": {key: figures | {"nll": sampled.nll.mean(0).tolist()}}}
