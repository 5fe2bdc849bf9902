"""The navigation task from pixels: `nav3d_image`.

The only observation is `image` uint8 [size, size, 3] (or [size, size, 1] grey); the true state stays in info. The
top-down view shows height by the shadows of body and goal, and no view shows velocity. The first-person camera looks
along the heading, which follows the direction of travel; walls differ in colour, so the heading can be read off the
picture.
"""

from __future__ import annotations

import numpy as np

from envs.nav3d.config import Nav3DConfig, Nav3DImageConfig
from envs.nav3d.env import Nav3DEnv, Observation
from envs.nav3d.layout import Layout, Vector
from envs.nav3d.render import Renderer, make_renderer

_LUMINANCE = np.array([77, 150, 29], np.uint16)
"""ITU-R BT.601 weights of red, green and blue, in 1/256."""


class Nav3DImageEnv(Nav3DEnv):
    """`Nav3DEnv` seen through a camera.

    Args:
        config: The task and the camera.
        render_mode: None or "rgb_array".
    """

    config: Nav3DImageConfig

    def __init__(self, config: Nav3DImageConfig | None = None, render_mode: str | None = None) -> None:
        super().__init__(config or Nav3DImageConfig(), render_mode)
        self._camera: Renderer | None = None

    def _begin_episode(self, episode: Nav3DConfig, layout: Layout, start: Vector, goal: Vector) -> None:
        super()._begin_episode(episode, layout, start, goal)
        if self._camera is None:
            config = self.config
            self._camera = make_renderer(config.renderer, self.arena, config.view, config.image_size)
        self._camera.begin_episode()

    def _observe(self) -> Observation:
        assert self._camera is not None
        if self.config.view == "first_person":
            self.arena.point_camera(self._yaw)
        picture = self._camera.draw()
        if self.config.grey:
            picture = ((picture @ _LUMINANCE) >> 8).astype(np.uint8)[..., None]
        return {"image": picture}

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        super().close()
