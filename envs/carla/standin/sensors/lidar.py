"""Turning lasers: points with their brightness, or with what they hit."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from envs.carla.standin.geometry import axes
from envs.carla.standin.sensors.base import Part, Settings, View

_MOST_RAYS = 1 << 20


class Lidar:
    """A lidar that turns as far as the time since its last measurement says.

    Args:
        blueprint: sensor.lidar.ray_cast or sensor.lidar.ray_cast_semantic.
        settings: Its attributes.
        seed: Of the points that are lost and of the noise.
    """

    def __init__(self, blueprint: str, settings: Settings, seed: int) -> None:
        self._semantic = blueprint.endswith("semantic")
        self._channels = settings.whole("channels", 1, 512)
        self._range = settings.number("range", 0.1, 1000.0)
        self._rate = settings.number("points_per_second", 1.0)
        self._turns = settings.number("rotation_frequency", 0.0)
        self._fov = settings.number("horizontal_fov", 0.1, 360.0)
        upper, lower = settings.number("upper_fov", -90.0, 90.0), settings.number("lower_fov", -90.0, 90.0)
        self._elevation = np.radians(np.linspace(upper, lower, self._channels))
        self._angle = 0.0
        self._seed = seed
        if not self._semantic:
            self._attenuation = settings.number("atmosphere_attenuation_rate", 0.0)
            self._general = settings.number("dropoff_general_rate", 0.0, 1.0)
            self._limit = settings.number("dropoff_intensity_limit", 0.0)
            self._zero = settings.number("dropoff_zero_intensity", 0.0, 1.0)
            self._noise = settings.number("noise_stddev", 0.0)

    def measure(self, view: View) -> list[Part]:
        """The points of this part of the turn, channel by channel."""
        columns = max(1, min(round(self._rate * view.seconds / self._channels), _MOST_RAYS // self._channels))
        sweep = min(self._turns * view.seconds * self._fov, self._fov)
        turned = np.radians(self._angle + sweep * np.arange(columns) / columns - self._fov / 2)
        self._angle = (self._angle + sweep) % self._fov
        flat = np.cos(self._elevation)
        rays = np.empty((columns, self._channels, 3))
        rays[..., 0] = np.cos(turned)[:, None] * flat
        rays[..., 1] = np.sin(turned)[:, None] * flat
        rays[..., 2] = np.sin(self._elevation)
        local = rays.reshape(-1, 3)
        directions = np.ascontiguousarray(local @ axes(view.pose).T)
        distance, tag, what, cosine = view.scenery().scene.cast(
            np.array(view.pose[:3]), directions, self._range, view.owner
        )
        kept = np.isfinite(distance)
        if not self._semantic:
            intensity = np.exp(-self._attenuation * np.where(kept, distance, 0.0))
            rng = view.rng(self._seed)
            kept &= self._survives(intensity, rng)
        channel = np.tile(np.arange(self._channels), columns)
        order = np.argsort(channel[kept], kind="stable")
        picked = np.flatnonzero(kept)[order]
        far = distance[picked].astype(np.float64)
        if self._semantic:
            points = np.zeros(len(picked), [("xyz", "<f4", 3), ("cosine", "<f4"), ("object", "<u4"), ("tag", "<u4")])
            points["cosine"], points["object"], points["tag"] = cosine[picked], what[picked], tag[picked]
            points["xyz"] = local[picked] * far[:, None]
            body = points.tobytes()
        else:
            if self._noise > 0:
                far = far + rng.normal(0.0, self._noise, len(far))
            cloud = np.empty((len(picked), 4), "<f4")
            cloud[:, :3] = local[picked] * far[:, None]
            cloud[:, 3] = intensity[picked]
            body = cloud.tobytes()
        counts = np.bincount(channel[picked], minlength=self._channels).astype("<u4")
        header = struct.pack("<fI", math.radians(self._angle), self._channels)
        return [header, counts.tobytes(), body]

    def _survives(self, intensity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Which points are not lost: some of all, and more of the faint ones."""
        lost = np.full(len(intensity), self._general)
        if self._limit > 0:
            faint = intensity < self._limit
            more = self._zero * (1.0 - intensity / self._limit)
            lost = np.where(faint, 1.0 - (1.0 - lost) * (1.0 - more), lost)
        return rng.random(len(intensity)) >= lost
