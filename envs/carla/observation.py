"""The parts of an observation, and the sensors that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.carla.birdeye import BirdeyeView
from envs.carla.canvas import Canvas
from envs.carla.config import CarlaConfig
from envs.carla.episode import Episode
from envs.carla.lidar import SENSOR_HEIGHT, histogram
from envs.carla.scene import Scene
from envs.carla.sensors import Mount
from envs.carla.state import state_vector

_POINTS_PER_BEAM = 180
"""Points of a beam in a turn of the lidar."""


def mounts(config: CarlaConfig) -> dict[str, Mount]:
    """Name of a part -> the sensor that it needs."""
    rate = 1.0 / config.tick_seconds
    every = {
        "camera": Mount(
            "sensor.camera.rgb",
            {
                "image_size_x": str(config.camera_size),
                "image_size_y": str(config.camera_size),
                "fov": str(config.camera_fov),
            },
            (1.3, 0.0, 1.6),
        ),
        "lidar": Mount(
            "sensor.lidar.ray_cast",
            {
                "channels": str(config.lidar_channels),
                "range": str(0.75 * config.lidar_metres),
                "rotation_frequency": f"{rate:g}",
                "points_per_second": str(round(config.lidar_channels * _POINTS_PER_BEAM * rate)),
                "upper_fov": "2.0",
                "lower_fov": "-25.0",
            },
            (0.0, 0.0, SENSOR_HEIGHT),
        ),
    }
    return {name: every[name] for name in every if name in config.observation}


class ObservationParts:
    """Makes observations.

    Args:
        config: Which parts.
        canvas: The ground.
        half_size: Of the car, m.
    """

    def __init__(self, config: CarlaConfig, canvas: Canvas, half_size: tuple[float, float]) -> None:
        self._config = config
        self._view = BirdeyeView(
            canvas,
            config.birdeye_size,
            config.birdeye_metres,
            config.birdeye_behind,
            half_size,
            config.birdeye_format == "masks",
        )

    def observe(
        self, scene: Scene, episode: Episode, measure: Callable[[str, int], Any], collided: bool
    ) -> dict[str, NDArray[Any]]:
        """The observation of a scene.

        Args:
            scene: The last one of the episode.
            episode: The present one.
            measure: Gives what a sensor measured in a frame.
            collided: Whether the car hit something in the step.
        """
        observation: dict[str, NDArray[Any]] = {}
        for part in self._config.observation:
            if part == "birdeye":
                ego = scene.ego
                observation[part] = self._view.draw(ego.x, ego.y, ego.yaw, scene.bodies, episode.relative)
            elif part == "state":
                observation[part] = state_vector(
                    scene.ego,
                    episode.pedals,
                    episode.route,
                    episode.place,
                    episode.light,
                    episode.relative,
                    episode.around,
                )
            elif part == "camera":
                observation[part] = picture(measure("camera", scene.frame))
            elif part == "lidar":
                points = np.frombuffer(measure("lidar", scene.frame).raw_data, np.float32).reshape(-1, 4)
                observation[part] = histogram(points, self._config.lidar_size, self._config.lidar_metres)
            else:
                observation[part] = np.array([float(collided)], np.float32)
        return observation


def picture(image: Any) -> NDArray[np.uint8]:
    """A `carla.Image` as red, green and blue [height, width, 3]."""
    pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
    return np.ascontiguousarray(pixels[:, :, 2::-1])
