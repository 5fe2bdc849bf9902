"""Gymnasium's CarRacing-v3, drawing no more than is looked at; the pictures are equal to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.box2d import car_racing
from numpy.typing import NDArray

_MARGIN = 1.0
"""Extra width of the first, coarse test of visibility, pixels; the simulator's own test follows."""


class Simulator(car_racing.CarRacing):
    """CarRacing-v3 that can leave out pictures, and passes only polygons near the window to the drawing code.

    Gymnasium transforms and tests about 800 polygons a picture in Python to draw 80 of them.

    Args:
        discrete: Five actions instead of a box.
        lap_complete_percent: Share of the tiles to visit before the lap counts.
    """

    def __init__(self, discrete: bool, lap_complete_percent: float) -> None:
        super().__init__("rgb_array", lap_complete_percent=lap_complete_percent, continuous=not discrete)
        self.draws_state = True
        self._grass = _grass_squares()
        self._grass_circles = _Circles(self._grass)
        self._road_circles = _Circles(self._grass)
        self._circled_road: Any = None

    def _render(self, mode: str) -> Any:
        if mode == "state_pixels" and not self.draws_state:
            return self.state
        return super()._render(mode)

    def draw_state(self) -> NDArray[np.uint8]:
        """The picture [96, 96, 3] of a frame whose drawing was left out."""
        picture: NDArray[np.uint8] = super()._render("state_pixels")
        return picture

    def _render_road(self, zoom: float, translation: Any, angle: float) -> None:
        if self._circled_road is not self.road_poly:
            self._road_circles = _Circles([polygon for polygon, _ in self.road_poly])
            self._circled_road = self.road_poly
        draw: Any = self._draw_colored_polygon
        bound = car_racing.PLAYFIELD
        field = [(bound, bound), (bound, -bound), (-bound, -bound), (-bound, bound)]
        draw(self.surf, field, self.bg_color, zoom, translation, angle, clip=False)
        for index in self._grass_circles.visible(zoom, translation, angle):
            draw(self.surf, self._grass[index], self.grass_color, zoom, translation, angle)
        for index in self._road_circles.visible(zoom, translation, angle):
            polygon, color = self.road_poly[index]
            draw(self.surf, polygon, [int(c) for c in color], zoom, translation, angle)


class _Circles:
    """Circles around polygons, for finding those that may be seen.

    Args:
        polygons: Corners of each, m.
    """

    def __init__(self, polygons: list[Any]) -> None:
        corners = np.array(polygons, np.float64)  # [polygons, corners, 2]
        self._centres = corners.mean(1)
        self._radii = np.linalg.norm(corners - self._centres[:, None], axis=-1).max(1)

    def visible(self, zoom: float, translation: Any, angle: float) -> list[int]:
        """Indices, in order, of all polygons with a corner in the drawn area, and of a few more."""
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        rotation = np.array([[cos, sin], [-sin, cos]])
        pixels: NDArray[np.float64] = self._centres @ rotation + np.array([translation[0], translation[1]])
        reach = (self._radii * zoom + (car_racing.MAX_SHAPE_DIM + _MARGIN))[:, None]
        window = np.array([car_racing.WINDOW_W, car_racing.WINDOW_H])
        inside = ((pixels >= -reach) & (pixels <= window + reach)).all(1)
        indices: list[int] = np.flatnonzero(inside).tolist()
        return indices


def _grass_squares() -> list[list[tuple[float, float]]]:
    """The lighter squares of the meadow, in the order in which Gymnasium draws them."""
    side = car_racing.GRASS_DIM
    return [
        [
            (side * x + side, side * y),
            (side * x, side * y),
            (side * x, side * y + side),
            (side * x + side, side * y + side),
        ]
        for x in range(-20, 20, 2)
        for y in range(-20, 20, 2)
    ]
