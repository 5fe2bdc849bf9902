"""Pictures by OpenGL. Imported only by the process that renders, so the driver never opens a display."""

from __future__ import annotations

import os

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.nav3d.arena import CEILING_GROUP, MARKER_GROUP, Arena


class GLRenderer:
    """One camera through `mujoco.Renderer`, without shadows and multisampling.

    MuJoCo binds its GL backend when it is imported: set `MUJOCO_GL` (egl or osmesa) before that. With nothing set
    on a machine without a display, EGL is bound here.

    Raises:
        RuntimeError: If no GL context can be opened.
    """

    def __init__(self, arena: Arena, camera: str, size: int) -> None:
        self._data = arena.data
        self._model = arena.model
        self._camera = camera
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 1
        self._options.geomgroup[CEILING_GROUP] = camera == "first_person"
        self._options.geomgroup[MARKER_GROUP] = camera == "top_down"
        _bind_headless_backend()
        self._renderer = mujoco.Renderer(arena.model, size, size)

    def begin_episode(self) -> None:
        """Nothing is kept between pictures."""

    def draw(self) -> NDArray[np.uint8]:
        mujoco.mj_camlight(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera, self._options)
        picture: NDArray[np.uint8] = self._renderer.render()
        return picture

    def close(self) -> None:
        self._renderer.close()


def _bind_headless_backend() -> None:
    """Let MuJoCo open GL without a display, unless the user chose a backend."""
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    from mujoco.egl import GLContext
    from mujoco.rendering.classic import gl_context

    gl_context.GLContext = GLContext
