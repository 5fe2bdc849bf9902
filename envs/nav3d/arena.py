"""The MuJoCo model of the room and the fast paths into it.

A sphere hangs on three slide joints, so its state is exactly position and velocity; linear drag is joint damping and
gravity is balanced by buoyancy. Obstacles, hazards and the goal are mocap bodies: a layout moves them without
compiling a model. Contacts are frictionless, so the body slides along what it touches.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.nav3d.config import LIDAR_HORIZONTAL_RAYS, LIDAR_RAYS, Nav3DConfig, Nav3DImageConfig
from envs.nav3d.layout import (
    BODY_RADIUS,
    HAZARD_RADII,
    NUM_PILLARS,
    OBSTACLE_SIZES,
    ROOM_HIGH,
    ROOM_LOW,
    Layout,
    Vector,
)

SOLID_GROUP, AGENT_GROUP, HAZARD_GROUP, GOAL_GROUP, CEILING_GROUP, MARKER_GROUP = range(6)
"""Geom groups; rays and cameras choose what they see by group."""

_NO_CUTOFF = 1e3
"""Longer than any ray: a shorter cutoff would drop planes, which MuJoCo measures from their centre, m."""

_WALL_COLOURS = {
    "west": "0.66 0.56 0.42",
    "east": "0.42 0.58 0.70",
    "south": "0.62 0.48 0.62",
    "north": "0.50 0.64 0.50",
}
_PLANE_OVERLAP = 0.1
"""Planes reach past the room's edges when drawn, so no gap shows between them, m."""
_GOAL_COLOUR = "0.10 0.80 0.20 1"
_AGENT_COLOUR = "1.0 0.50 0.05"
_PILLAR_COLOUR = "0.34 0.48 0.82"
_BOX_COLOUR = "0.58 0.63 0.74"


def group_mask(*groups: int) -> NDArray[np.uint8]:
    """MuJoCo's geom-group mask [6] that lets rays see `groups` only."""
    mask = np.zeros(6, np.uint8)
    mask[list(groups)] = 1
    return mask


def _numbers(values: NDArray[np.float64] | tuple[float, ...]) -> str:
    return " ".join(f"{v:g}" for v in values)


def _room_xml() -> str:
    (west, south, floor), (east, north, ceiling) = ROOM_LOW, ROOM_HIGH
    half_x, half_y, half_z = (ROOM_HIGH - ROOM_LOW) / 2 + _PLANE_OVERLAP
    mid_z = (floor + ceiling) / 2
    planes = [
        ("floor", (0, 0, floor), (0, 0, 1), (half_x, half_y), SOLID_GROUP, "0.88 0.86 0.82"),
        ("ceiling", (0, 0, ceiling), (0, 0, -1), (half_x, half_y), CEILING_GROUP, "0.85 0.88 0.92"),
        ("west", (west, 0, mid_z), (1, 0, 0), (half_z, half_y), SOLID_GROUP, _WALL_COLOURS["west"]),
        ("east", (east, 0, mid_z), (-1, 0, 0), (half_z, half_y), SOLID_GROUP, _WALL_COLOURS["east"]),
        ("south", (0, south, mid_z), (0, 1, 0), (half_x, half_z), SOLID_GROUP, _WALL_COLOURS["south"]),
        ("north", (0, north, mid_z), (0, -1, 0), (half_x, half_z), SOLID_GROUP, _WALL_COLOURS["north"]),
    ]
    return "\n".join(
        f'<geom name="{name}" type="plane" pos="{_numbers(pos)}" zaxis="{_numbers(axis)}" size="{_numbers(size)} 0.1" '
        f'group="{group}" rgba="{colour} 1"/>'
        for name, pos, axis, size, group, colour in planes
    )


def _obstacles_xml() -> str:
    lines = []
    for index, (x, y, z) in enumerate(OBSTACLE_SIZES):
        pillar = index < NUM_PILLARS
        shape = f'type="cylinder" size="{x:g} {z:g}"' if pillar else f'type="box" size="{x:g} {y:g} {z:g}"'
        colour = _PILLAR_COLOUR if pillar else _BOX_COLOUR
        lines.append(
            f'<body name="obstacle_{index}" mocap="true"><geom name="obstacle_{index}" {shape} '
            f'group="{SOLID_GROUP}" rgba="{colour} 1"/></body>'
        )
    return "\n".join(lines)


def _ghost_xml(name: str, radius: float, group: int, rgba: str, marker: str = "") -> str:
    """A sphere that collides with nothing."""
    return (
        f'<body name="{name}" mocap="true"><geom name="{name}" type="sphere" size="{radius:g}" contype="0" '
        f'conaffinity="0" group="{group}" rgba="{rgba}"/>{marker}</body>'
    )


def _marker_xml(config: Nav3DConfig, of: str, radius: float, rgba: str) -> str:
    """The sphere that stands for a sphere of `radius` in pictures from above, if it is larger."""
    if not isinstance(config, Nav3DImageConfig) or config.marker_radius <= radius:
        return ""
    # Nothing has contacts of type 2, but rays pass a body's geoms of no type.
    return (
        f'<geom name="{of}_marker" type="sphere" size="{config.marker_radius!r}" mass="0" contype="2" conaffinity="0" '
        f'group="{MARKER_GROUP}" rgba="{rgba}"/>'
    )


def _agent_xml(config: Nav3DConfig) -> str:
    joints = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" damping="{config.drag * config.drag_scale!r}"/>'
        for name, axis in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
    )
    colour = f"{_AGENT_COLOUR} 1"
    marker = _marker_xml(config, "agent", BODY_RADIUS, colour)
    return (
        f'<body name="agent">{joints}<geom name="agent" type="sphere" size="{BODY_RADIUS:g}" '
        f'mass="{config.mass * config.mass_scale!r}" group="{AGENT_GROUP}" rgba="{colour}"/>{marker}</body>'
    )


def arena_xml(config: Nav3DConfig) -> str:
    """The MJCF document of the arena under `config`."""
    hazards = (_ghost_xml(f"hazard_{k}", r, HAZARD_GROUP, "0.90 0.12 0.12 0.4") for k, r in enumerate(HAZARD_RADII))
    motors = "".join(f'<motor joint="{axis}" gear="{config.max_force!r}" ctrllimited="false"/>' for axis in "xyz")
    goal_marker = _marker_xml(config, "goal", config.goal_radius, _GOAL_COLOUR)
    size = max(64, config.render_size, getattr(config, "image_size", 64))
    return f"""
<mujoco model="nav3d">
  <option timestep="{config.step_seconds / config.substeps!r}" gravity="0 0 0" integrator="Euler"/>
  <visual>
    <global offwidth="{size}" offheight="{size}"/>
    <quality shadowsize="0" offsamples="0"/>
    <headlight ambient="0.5 0.5 0.5" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
  </visual>
  <default><geom condim="1" solref="0.05 1"/></default>
  <worldbody>
    {_room_xml()}
    {_obstacles_xml()}
    {"".join(hazards)}
    {_ghost_xml("goal", config.goal_radius, GOAL_GROUP, _GOAL_COLOUR, goal_marker)}
    {_agent_xml(config)}
    <camera name="top_down" pos="0 0 14" fovy="53"/>
    <camera name="overview" pos="0 -9.5 13.5" xyaxes="1 0 0 0 0.8 0.6" fovy="42"/>
    <body name="first_person" mocap="true"><camera name="first_person" xyaxes="0 -1 0 0 0 1" fovy="90"/></body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


class Arena:
    """One room: physics, placement, contacts and lidar.

    Args:
        config: The task; mass and drag may be changed later with `set_dynamics`.
    """

    def __init__(self, config: Nav3DConfig) -> None:
        self._config = config
        self.model = mujoco.MjModel.from_xml_string(arena_xml(config))
        self.data = mujoco.MjData(self.model)
        self._substeps = config.substeps
        self._agent = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, "agent")
        self._mocap = {self.model.body(b).name: int(m) for b, m in enumerate(self.model.body_mocapid) if m >= 0}
        self.position: Vector = self.data.qpos  # [3] view
        self.velocity: Vector = self.data.qvel  # [3] view
        self._control: Vector = self.data.ctrl  # [3] view
        self._wind: Vector = self.data.qfrc_applied  # [3] view
        self._dynamics = (config.mass_scale, config.drag_scale)
        self._lidar_directions = _lidar_directions()
        self._lidar_mask = group_mask(SOLID_GROUP, CEILING_GROUP)
        self._lidar_geoms = np.empty(LIDAR_RAYS, np.int32)
        self._lidar_distances = np.empty(LIDAR_RAYS, np.float64)

    def set_dynamics(self, mass_scale: float, drag_scale: float) -> None:
        """Change the body's mass and drag; the next `place` starts from them."""
        if (mass_scale, drag_scale) == self._dynamics:
            return
        ratio = mass_scale / self._dynamics[0]
        self.model.body_mass[self._agent] *= ratio
        self.model.body_inertia[self._agent] *= ratio
        self.model.dof_damping[:] = self._config.drag * drag_scale
        self._dynamics = (mass_scale, drag_scale)
        mujoco.mj_setConst(self.model, self.data)

    def place(self, layout: Layout, start: Vector, goal: Vector) -> None:
        """Put everything in place, the body at rest at `start` [3]."""
        mujoco.mj_resetData(self.model, self.data)
        for kind, centres in (("obstacle", layout.obstacles), ("hazard", layout.hazards)):
            for index, centre in enumerate(centres):
                self.data.mocap_pos[self._mocap[f"{kind}_{index}"]] = centre
        self.data.mocap_pos[self._mocap["goal"]] = goal
        self.position[:] = start
        mujoco.mj_forward(self.model, self.data)

    def advance(self, control: tuple[float, float, float], wind: Vector | None) -> bool:
        """One environment step under constant `control` (fractions of the force) and `wind` [3], N.

        Returns:
            Whether the body is in contact with anything where it ends.
        """
        self._control[:] = control
        if wind is not None:
            self._wind[:] = wind
        mujoco.mj_step(self.model, self.data, self._substeps)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)
        return bool(self.data.ncon > 0)

    def point_camera(self, yaw: float) -> None:
        """Put the first-person camera at the body, looking along `yaw` (radians from +x)."""
        index = self._mocap["first_person"]
        self.data.mocap_pos[index] = self.position
        self.data.mocap_quat[index] = (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))
        mujoco.mj_kinematics(self.model, self.data)

    def lidar(self) -> NDArray[np.float32]:
        """Distances [26] to walls and obstacles over the range, 1 where nothing is in range.

        24 horizontal rays counter-clockwise from +x, then up, then down; they start at the body's centre.
        """
        mujoco.mj_multiRay(
            self.model,
            self.data,
            self.position,
            self._lidar_directions,
            self._lidar_mask,
            True,
            self._agent,
            self._lidar_geoms,
            self._lidar_distances,
            None,
            LIDAR_RAYS,
            _NO_CUTOFF,
        )
        distances = self._lidar_distances
        distances[distances < 0] = _NO_CUTOFF
        return np.minimum(distances / self._config.lidar_range, 1.0).astype(np.float32)


def _lidar_directions() -> Vector:
    """Unit vectors of the lidar's rays, flattened to [26 * 3]."""
    angles = np.arange(LIDAR_HORIZONTAL_RAYS) * (2 * np.pi / LIDAR_HORIZONTAL_RAYS)
    horizontal = np.column_stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)])
    return np.concatenate([horizontal, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]]).ravel()
