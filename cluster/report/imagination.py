"""What the latent world model of a run imagines of held-out episodes: figures, trajectories and videos.

Files `imagination/step<...>.json` and pictures beside it, which the report shows; TensorBoard gets the pictures too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.build import family
from cluster.config import RunConfig
from cluster.metrics import write_pictures
from cluster.report.pictures import gif, open_loop_video, png, reconstruction_grid
from cluster.run_dir import RunDir, replacing, write_atomic
from learner.dataset import Stream
from learner.imagination import (
    Arrays,
    Belief,
    CategoricalUsage,
    OpenLoop,
    episode_lengths,
    filter_posterior,
    find_starts,
    open_loop,
    pad,
    usage,
)
from learner.models.world_model import WorldModel
from learner.open_loop import PREDICTORS, OpenLoopErrors, open_loop_errors

logger = logging.getLogger(__name__)

EPISODES = 8
"""Held-out episodes that a study takes."""
MAX_STEPS = 256
"""Leading steps taken of each."""
SEEN, HORIZON = 5, 45
"""Observed steps shown before the imagined ones, and imagined steps."""
SEQUENCES, GRID_SEQUENCES = 6, 4
"""Sequences in a video, and in a grid of reconstructions."""
MAX_STARTS, MAX_IMAGE_STARTS = 256, 32
"""Start states of the error curves."""
MAX_QUANTITIES = 12
"""Dimensions of vectors whose trajectories are kept."""


def applies(config: RunConfig) -> bool:
    """Whether the run's family studies held-out episodes."""
    return family(config).study is not None


def study_file(run_dir: RunDir, steps: int) -> Path:
    """Where the study of the model after `steps` environment steps is."""
    return run_dir.imagination / f"step{steps}.json"


def write_study(run_dir: RunDir, model: WorldModel, streams: Sequence[Stream], steps: int) -> None:
    """Write the study of the episodes `streams`.

    Its pictures replace those of earlier studies, whose figures stay.

    Args:
        run_dir: The run.
        model: The latent world model.
        streams: Episodes from their first step on.
        steps: Environment steps trained.
    """
    batch = pad([{key: values[:MAX_STEPS] for key, values in stream.items()} for stream in streams[:EPISODES]])
    horizon = min(HORIZON, int(np.median(episode_lengths(batch.data))) - SEEN)
    if horizon < 1:
        logger.warning("half of the episodes have no more than %d steps: nothing to imagine", SEEN)
        return
    belief = filter_posterior(model, batch)
    record, windows = study(model, belief, horizon)
    pictures = draw(model, windows)
    run_dir.imagination.mkdir(exist_ok=True)
    for old in (*run_dir.imagination.glob("*.gif"), *run_dir.imagination.glob("*.png")):
        old.unlink()
    for name, content in pictures.items():
        with replacing(run_dir.imagination / f"step{steps}_{name}") as temporary:
            temporary.write_bytes(content)
    record |= {"step": steps, "episodes": len(batch.data["reward"]), "pictures": [f"step{steps}_{n}" for n in pictures]}
    write_atomic(study_file(run_dir, steps), json.dumps(record) + "\n")
    write_pictures(run_dir.path, steps, {f"imagination/{Path(name).stem}": data for name, data in pictures.items()})


def study(model: WorldModel, belief: Belief, horizon: int) -> tuple[dict[str, Any], OpenLoop]:
    """The figures of a study as plain values, and the windows for its pictures."""
    starts = find_starts(belief.data, SEEN, horizon)
    chosen = starts.take(_evenly(len(starts), MAX_IMAGE_STARTS if model.keys.images else MAX_STARTS))
    errors = open_loop_errors(model, belief, chosen, horizon)
    windows = open_loop(model, belief, starts.take(_evenly(len(starts), SEQUENCES)), SEEN, horizon)
    record = {
        "seen": SEEN,
        "horizon": horizon,
        "starts": len(chosen),
        "latent": latent_record(belief),
        "errors": error_record(model, errors),
        "trajectories": trajectories(model, windows),
    }
    return record, windows


def latent_record(belief: Belief) -> dict[str, Any]:
    """How the latents are used, as plain values."""
    used = usage(belief)
    kind = "categorical" if isinstance(used, CategoricalUsage) else "gaussian"
    values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(used).items()}
    derived = {"perplexity": used.perplexity} if isinstance(used, CategoricalUsage) else {"active": used.active}
    return {"kind": kind, **values, **{name: value.tolist() for name, value in derived.items()}}


def error_record(model: WorldModel, errors: OpenLoopErrors) -> dict[str, Any]:
    """Error of every observation key and predictor against the horizon, as plain values."""
    return {
        key: {name: _curves(errors, key, name, key in model.keys.images) for name in PREDICTORS}
        for key in errors.squares
    }


def _curves(errors: OpenLoopErrors, key: str, predictor: str, image: bool) -> dict[str, Any]:
    curves = errors.summary(key, predictor).as_dict()
    if image:
        curves["psnr"] = errors.psnr(key, predictor).tolist()
    return curves


def trajectories(model: WorldModel, windows: OpenLoop) -> list[dict[str, Any]]:
    """Observed and imagined course of every vector dimension and the reward, in the window of median error."""
    named: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    for key in model.keys.vectors:
        for index in range(windows.truth[key].shape[-1]):
            if len(named) < MAX_QUANTITIES:
                named[f"{key} {index}"] = windows.truth[key][..., index], windows.imagined[key][..., index]
    named["reward"] = windows.reward, windows.imagined_reward
    window = _median_window(windows.truth, windows.imagined)
    return [
        {"name": name, "truth": truth[window].tolist(), "imagined": imagined[window].tolist()}
        for name, (truth, imagined) in named.items()
    ]


def draw(model: WorldModel, windows: OpenLoop) -> dict[str, bytes]:
    """File name -> picture, for every image key."""
    pictures: dict[str, bytes] = {}
    for key in model.keys.images:
        truth = windows.truth[key]
        pictures[f"{key}_open_loop.gif"] = gif(open_loop_video(truth, windows.imagined[key], windows.seen), 150)
        few = slice(GRID_SEQUENCES)
        pictures[f"{key}_reconstruction.png"] = png(reconstruction_grid(truth[few], windows.reconstruction[key][few]))
    return pictures


def _median_window(truth: Arrays, imagined: Arrays) -> int:
    """The window whose error is in the middle, over all keys by their spread."""
    total = sum(
        np.square(imagined[key] - truth[key]).reshape(len(truth[key]), -1).mean(1) / (truth[key].var() + 1e-12)
        for key in truth
    )
    return int(np.argsort(total)[len(total) // 2])


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
