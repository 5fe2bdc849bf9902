"""Cameras: colors, semantic tags and depth."""

from __future__ import annotations

import math
import struct

import numpy as np

from envs.carla.standin.geometry import axes
from envs.carla.standin.sensors.base import Part, Settings, View

KINDS = {
    "sensor.camera.rgb": "color",
    "sensor.camera.semantic_segmentation": "tags",
    "sensor.camera.depth": "depth",
}
_SUN_AZIMUTH, _SUN_ALTITUDE, _FOG, _CLOUDS = 4, 5, 6, 0
"""Places in the weather."""


class Camera:
    """A pinhole camera.

    Args:
        blueprint: One of KINDS.
        settings: Its attributes.
    """

    def __init__(self, blueprint: str, settings: Settings) -> None:
        self._kind = KINDS[blueprint]
        self._width = settings.whole("image_size_x", 1, 8192)
        self._height = settings.whole("image_size_y", 1, 8192)
        self._fov = settings.number("fov", 1.0, 170.0)

    def measure(self, view: View) -> list[Part]:
        """The picture."""
        picture = view.scenery().scene.draw(
            np.array(view.pose[:3]),
            np.ascontiguousarray(axes(view.pose).T).ravel(),
            self._width,
            self._height,
            math.radians(self._fov),
            self._kind,
            _light(view.world.weather),
            view.owner,
        )
        header = struct.pack("<IIf", self._width, self._height, self._fov)
        return [header, picture.data.cast("B")]


def _light(weather: list[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Direction to the sun, brightness and fog of a weather."""
    azimuth, altitude = math.radians(weather[_SUN_AZIMUTH]), math.radians(weather[_SUN_ALTITUDE])
    toward = (math.cos(altitude) * math.cos(azimuth), math.cos(altitude) * math.sin(azimuth), math.sin(altitude))
    day = max(0.0, min(1.0, 0.25 + weather[_SUN_ALTITUDE] / 30.0))
    brightness = day * (1.0 - 0.3 * min(1.0, weather[_CLOUDS] / 100.0))
    return np.array([*toward, brightness, 0.001 + 0.0004 * max(0.0, weather[_FOG])])
