"""`worldfleet eval`: held-out episodes of a trained run, their summary and their pictures."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cluster import build
from cluster.config import RunConfig
from cluster.run_dir import RunDir, write_atomic
from learner import checkpoint
from planners.config import Precision

logger = logging.getLogger(__name__)


def evaluate_run(
    path: Path, episodes: int, seed: int, gif_episodes: int = 2, precision: Precision | None = None
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run without exploration.

    Writes `eval/step<...>_seed<...>.json`, a GIF of the first episodes and the trained models beside it.

    Args:
        path: Run directory; a run that is going on may be evaluated.
        episodes: Held-out episodes.
        seed: Chooses the episodes.
        gif_episodes: Leading episodes drawn into the GIF, 0 for none.
        precision: Planner arithmetic instead of the run's.

    Returns:
        The summary, with `steps` as environment steps trained and `run_dir`.

    Raises:
        ValueError: No run, no checkpoint or a damaged one, or no episodes asked for.
    """
    if episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {episodes}")
    run_dir, config = RunDir.open(path)
    newest = checkpoint.latest(run_dir.checkpoints)
    if newest is None:
        raise ValueError(f"{path} has no checkpoint to evaluate yet")
    if precision is not None:
        config = dataclasses.replace(config, planner=dataclasses.replace(config.planner, precision=precision))
    state = checkpoint.load(newest)
    policy = build.policy(config, config.learner.device)
    policy.update(state["learner"]["updates"], exported_weights(config, state["learner"], run_dir))
    evaluator = build.evaluator(config, episodes, seed, gif_episodes)
    try:
        evaluation = evaluator.evaluate(policy, config.algorithm.name)
    finally:
        evaluator.close()
    steps = state["recorder"]["steps"]
    summary = {**evaluation.summary.as_dict(), "seed": seed, "train_steps": steps, "run_dir": str(path)}
    stem = run_dir.eval / f"step{steps}_seed{seed}{f'_{precision}' if precision else ''}"
    write_atomic(stem.with_suffix(".json"), json.dumps(summary, indent=1) + "\n")
    if evaluation.frames:
        write_gif(stem.with_suffix(".gif"), np.concatenate(evaluation.frames))
    return summary


def exported_weights(config: RunConfig, state: dict[str, Any], run_dir: RunDir) -> dict[str, NDArray[Any]]:
    """Weights of a checkpointed learner; also writes its models as files of their own into `models/`."""
    algorithm = build.algorithm(config)
    algorithm.load_state_dict(state["algorithm"])
    algorithm.save_artifacts(run_dir.path / "models")
    return algorithm.export_weights()


def write_gif(path: Path, frames: NDArray[np.uint8], frame_ms: int = 100) -> None:
    """Write frames [T, height, width, 3] as an endless GIF."""
    images = [Image.fromarray(frame).quantize(colors=128) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=True)
