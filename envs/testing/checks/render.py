"""Whether pictures can be drawn for videos."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.testing.subject import Trial


def check_render(trial: Trial) -> None:
    """After a reset and after a step, a uint8 array [height, width, 3]."""
    env = trial.watch()
    declared = "rgb_array" in env.env.metadata.get("render_modes", [])
    env.reset(0)
    env.step(next(env.samples()))
    trial.place("render()")
    try:
        picture: Any = env.env.render()
    except Exception as error:  # noqa: BLE001 (an environment need not draw)
        text = f"render raises {type(error).__name__}{f': {error}' if str(error) else ''}"
        if declared:
            trial.found("fault", f"{text}, though rgb_array is declared")
        else:
            trial.found("note", f"{text}: videos are left out")
    else:
        if picture is None:
            trial.found("note", "it draws no pictures: videos are left out")
        elif not isinstance(picture, np.ndarray):
            trial.found("fault", f"render returns a {type(picture).__name__}, not an array")
        elif picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            form = f"{picture.dtype} {list(picture.shape)}"
            trial.found("fault", f"render returns {form}, not uint8 [height, width, 3]")
        else:
            trial.fact("renders", True)
            trial.found("ok", f"render returns uint8 {list(picture.shape)}")
