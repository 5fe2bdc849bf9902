"""Radar: distance and relative speed in a cone ahead."""

from __future__ import annotations

import math

import numpy as np

from envs.carla.standin.geometry import axes
from envs.carla.standin.sensors.base import Part, Settings, View


class Radar:
    """Rays in random directions within the field of view.

    Args:
        settings: Attributes.
        seed: Of the directions.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._horizontal = math.radians(settings.number("horizontal_fov", 0.1, 180.0)) / 2
        self._vertical = math.radians(settings.number("vertical_fov", 0.1, 180.0)) / 2
        self._range = settings.number("range", 0.1, 1000.0)
        self._rate = settings.number("points_per_second", 1.0, 1e7)
        self._seed = seed

    def measure(self, view: View) -> list[Part]:
        """Rows of velocity (toward the sensor is negative), azimuth, altitude and depth."""
        count = max(1, round(self._rate * view.seconds))
        rng = view.rng(self._seed)
        radius, angle = np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
        azimuth, altitude = self._horizontal * radius * np.cos(angle), self._vertical * radius * np.sin(angle)
        local = np.stack(
            [np.cos(altitude) * np.cos(azimuth), np.cos(altitude) * np.sin(azimuth), np.sin(altitude)], axis=1
        )
        directions = np.ascontiguousarray(local @ axes(view.pose).T)
        distance, _, what, _ = view.scenery().scene.cast(np.array(view.pose[:3]), directions, self._range, view.owner)
        hit = np.flatnonzero(np.isfinite(distance))
        world = view.world
        own = np.array(world.velocity(view.actor))
        velocity = np.zeros((len(hit), 3))
        for number in np.unique(what[hit]).tolist():
            if number in world.actors:
                velocity[what[hit] == number] = world.velocity(world.actors[number])
        rows = np.empty((len(hit), 4), "<f4")
        rows[:, 0] = ((velocity - own) * directions[hit]).sum(axis=1)
        rows[:, 1], rows[:, 2], rows[:, 3] = azimuth[hit], altitude[hit], distance[hit]
        return [rows.tobytes()]
