"""Rotations of CARLA: left-handed, z up, yaw clockwise seen from above, pitch up, roll to the right; degrees."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from envs.carla.pose import Pose

Floats = NDArray[np.float64]


def axes(pose: Pose) -> Floats:
    """[3, 3] whose columns are forward, right and up of a pose."""
    cp, sp = math.cos(math.radians(pose.pitch)), math.sin(math.radians(pose.pitch))
    cy, sy = math.cos(math.radians(pose.yaw)), math.sin(math.radians(pose.yaw))
    cr, sr = math.cos(math.radians(pose.roll)), math.sin(math.radians(pose.roll))
    return np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )


def compose(parent: Pose, child: Pose) -> Pose:
    """The pose in the world of a child that is fixed to a parent."""
    if parent.pitch == 0.0 and parent.roll == 0.0:
        cos, sin = math.cos(math.radians(parent.yaw)), math.sin(math.radians(parent.yaw))
        x, y = child.x * cos - child.y * sin, child.x * sin + child.y * cos
        return Pose(
            parent.x + x, parent.y + y, parent.z + child.z, child.pitch, _turn(parent.yaw + child.yaw), child.roll
        )
    turned = axes(parent)
    place = turned @ child[:3]
    rotation = turned @ axes(child)
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, float(rotation[2, 0])))))
    yaw = math.degrees(math.atan2(rotation[1, 0], rotation[0, 0]))
    roll = math.degrees(math.atan2(-rotation[2, 1], rotation[2, 2]))
    return Pose(parent.x + float(place[0]), parent.y + float(place[1]), parent.z + float(place[2]), pitch, yaw, roll)


def _turn(degrees: float) -> float:
    """The same direction within (-180, 180]."""
    return degrees - 360.0 * math.ceil((degrees - 180.0) / 360.0)
