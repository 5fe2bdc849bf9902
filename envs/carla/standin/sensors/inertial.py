"""Acceleration, turning, compass; and latitude and longitude."""

from __future__ import annotations

import math

import msgpack
import numpy as np

from envs.carla.standin.geometry import axes
from envs.carla.standin.sensors.base import Part, Settings, View
from envs.carla.standin.vehicles import GRAVITY


class Imu:
    """Acceleration with gravity in m/s^2 and turning in rad/s, both in the sensor's frame; compass in radians.

    Args:
        settings: Attributes: standard deviations and biases.
        seed: Of the noise.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._accelerations = [settings.number(f"noise_accel_stddev_{axis}", 0.0) for axis in "xyz"]
        self._turns = [settings.number(f"noise_gyro_stddev_{axis}", 0.0) for axis in "xyz"]
        self._bias = np.array([settings.number(f"noise_gyro_bias_{axis}") for axis in "xyz"])
        self._seed = seed

    def measure(self, view: View) -> list[Part]:
        """The three measurements."""
        acceleration, turning = view.world.motion(view.actor)
        frame, rng = axes(view.pose), view.rng(self._seed)
        felt = np.add(acceleration, (0.0, 0.0, GRAVITY)) @ frame + rng.normal(0.0, self._accelerations)
        turned = np.array(turning) @ frame + self._bias + rng.normal(0.0, self._turns)
        compass = (math.radians(view.pose.yaw) + math.pi / 2) % (2 * math.pi)  # north is -y
        return [msgpack.packb([felt.tolist(), turned.tolist(), compass])]


class Gnss:
    """Latitude, longitude and altitude by the map's projection.

    Args:
        settings: Attributes: standard deviations and biases.
        seed: Of the noise.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._deviation = [settings.number(f"noise_{axis}_stddev", 0.0) for axis in ("lat", "lon", "alt")]
        self._bias = np.array([settings.number(f"noise_{axis}_bias") for axis in ("lat", "lon", "alt")])
        self._seed = seed

    def measure(self, view: View) -> list[Part]:
        """The place on earth."""
        place = view.world.town.roads.geolocation(view.pose)
        return [
            msgpack.packb((np.array(place) + self._bias + view.rng(self._seed).normal(0.0, self._deviation)).tolist())
        ]
