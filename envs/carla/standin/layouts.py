"""Records of the protocol of CARLA 0.9.16: fixed orders of fields, as lists for msgpack and as packed bytes."""

from __future__ import annotations

import socket
import struct
from typing import Any

import numpy as np

from envs.carla.pose import Pose

VERSION = "0.9.16"

SENSOR_TYPES = {
    "sensor.other.collision": 0,
    "sensor.camera.depth": 1,
    "sensor.other.gnss": 4,
    "sensor.other.imu": 5,
    "sensor.other.radar": 9,
    "sensor.lidar.ray_cast_semantic": 10,
    "sensor.lidar.ray_cast": 11,
    "sensor.camera.rgb": 13,
    "sensor.camera.semantic_segmentation": 14,
}
"""Numbers of the kinds of measurements in 0.9.16. The client does not check them: a wrong one ends its process."""

EPISODE_TYPE = 17
"""Number of the state of the episode in 0.9.16 (16 in 0.9.15)."""

EPISODE_STREAM = 1

SENSOR_HEADER = struct.Struct("<QQd6f")  # type, frame, seconds, transform
EPISODE_HEADER = struct.Struct("<Qdf3iI")  # episode, wall clock, delta, map origin, flags
MAP_CHANGED = 1

ACTOR_RECORD = np.dtype(
    [
        ("id", "<u4"),
        ("state", "u1"),
        ("transform", "<f4", 6),
        ("velocity", "<f4", 3),
        ("angular_velocity", "<f4", 3),
        ("acceleration", "<f4", 3),
        ("kind", "V54"),
    ]
)
"""One actor in a snapshot; `kind` is one of the records below, by the class of the actor."""

VEHICLE_RECORD = np.dtype(
    [
        ("throttle", "<f4"),
        ("steer", "<f4"),
        ("brake", "<f4"),
        ("hand_brake", "u1"),
        ("reverse", "u1"),
        ("manual", "u1"),
        ("gear", "<i4"),
        ("speed_limit", "<f4"),  # km/h
        ("light_state", "u1"),
        ("has_light", "u1"),
        ("light_id", "<u4"),
        ("failure", "u1"),
        ("rest", "V24"),
    ]
)
LIGHT_RECORD = np.dtype(
    [
        ("sign_id", "S32"),
        ("green", "<f4"),
        ("yellow", "<f4"),
        ("red", "<f4"),
        ("elapsed", "<f4"),
        ("pole", "<u4"),
        ("frozen", "u1"),
        ("state", "u1"),
    ]
)
WALKER_RECORD = np.dtype([("direction", "<f4", 3), ("speed", "<f4"), ("jump", "u1"), ("rest", "V37")])

RED, YELLOW, GREEN, OFF, UNKNOWN = range(5)
"""States of a traffic light."""

DEFAULT_SETTINGS: list[Any] = [False, False, [False], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True]
DEFAULT_WEATHER = [5.0, 0.0, 0.0, 10.0, -1.0, 45.0, 2.0, 0.75, 0.1, 0.0, 1.0, 0.03, 0.0331, 0.0]
NO_TOKEN = b""


def read_pose(fields: list[list[float]]) -> Pose:
    """A Transform of the wire; ValueError where a number is not finite."""
    (x, y, z), (pitch, yaw, roll) = fields
    pose = Pose(float(x), float(y), float(z), float(pitch), float(yaw), float(roll))
    if not np.isfinite(pose).all():
        raise ValueError(f"a transform must be finite, not {pose}")
    return pose


def read_vector(fields: list[float]) -> tuple[float, float, float]:
    """A Location or Vector3D of the wire; ValueError where a number is not finite."""
    x, y, z = (float(value) for value in fields)
    if not np.isfinite((x, y, z)).all():
        raise ValueError(f"a vector must be finite, not {x}, {y}, {z}")
    return x, y, z


def transform(pose: Pose) -> list[list[float]]:
    """A Transform for the wire."""
    return [list(pose[:3]), list(pose[3:])]


def ok(value: Any) -> list[Any]:
    """A result with a value."""
    return [[1, value]]


DONE: list[Any] = [[False]]
"""A result without a value."""


def refused(message: str, void: bool = False) -> list[Any]:
    """A result that the client raises as RuntimeError(message)."""
    return [[True, [message]]] if void else [[0, [message]]]


def token(stream: int, address: tuple[str, int]) -> bytes:
    """The 24 bytes that tell a client where to subscribe to a stream."""
    host, port = address
    packed = socket.inet_aton(host)
    return struct.pack("<IHBB", stream, port, 1, 1) + packed + bytes(12)
