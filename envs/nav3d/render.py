"""Pictures of the arena: by casting rays with MuJoCo on the CPU (the default), or by OpenGL.

The ray renderer needs no GL at all, so it runs in any worker process. A camera that never moves draws its background
once an episode; after that only the pixels around the body are cast again.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.nav3d.arena import (
    AGENT_GROUP,
    CEILING_GROUP,
    GOAL_GROUP,
    HAZARD_GROUP,
    MARKER_GROUP,
    SOLID_GROUP,
    Arena,
    group_mask,
)
from envs.nav3d.layout import ROOM_LOW

Picture = NDArray[np.uint8]

_LIGHT = np.array([0.35, -0.45, 0.82]) / math.hypot(0.35, -0.45, 0.82)  # toward the lamp
_ASIDE = np.array([-_LIGHT[1], _LIGHT[0], 0.0]) / math.hypot(_LIGHT[0], _LIGHT[1])
_LAMP_AXES = np.stack([_ASIDE, np.cross(_LIGHT, _ASIDE), _LIGHT])
"""Two axes across the light and one toward the lamp: rows of a rotation [3, 3]."""
_AMBIENT, _DIFFUSE = 0.7, 0.35
_FOG_PER_METRE = 0.015
_SKY = np.array([24.0, 26.0, 32.0])
_HAZARD_TINT = np.array([230.0, 25.0, 25.0], np.float32)
_HAZARD_OPACITY = 0.45
_CHECKER_DARKENING = 0.86
_SHADOW_DARKENING = 0.5
_FAR = 100.0


class Renderer(Protocol):
    """Draws one camera of an arena."""

    def begin_episode(self) -> None:
        """Forget what was drawn of the last layout."""
        ...

    def draw(self) -> Picture:
        """The picture [size, size, 3] of the arena as it is now."""
        ...

    def close(self) -> None: ...


def make_renderer(kind: str, arena: Arena, camera: str, size: int) -> Renderer:
    """A renderer of `camera` ("top_down", "first_person" or "overview") that draws [size, size, 3]."""
    if kind == "gl":
        from envs.nav3d.render_gl import GLRenderer

        return GLRenderer(arena, camera, size)
    return RayRenderer(arena, camera, size)


class RayRenderer:
    """Flat colours by geom, shaded by the surface normal and faded by distance; hazards are see-through.

    Body and goal throw shadows, by which a camera above sees how high they are.
    """

    def __init__(self, arena: Arena, camera: str, size: int) -> None:
        self._model, self._data = arena.model, arena.data
        self._camera = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._moves = camera == "first_person"
        self._size = size
        self._focal = 0.5 * size / math.tan(math.radians(self._model.cam_fovy[self._camera]) / 2)
        self._rays = _pinhole_rays(size, self._focal)  # [size * size, 3], camera frame
        self._palette = _palette(self._model)
        self._floor = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_GEOM, "floor")
        self._body = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, "agent")
        solids = (SOLID_GROUP, GOAL_GROUP, MARKER_GROUP) if camera == "top_down" else (SOLID_GROUP, GOAL_GROUP)
        self._static_mask = group_mask(*solids)
        body = {"first_person": (), "top_down": (AGENT_GROUP, MARKER_GROUP)}.get(camera, (AGENT_GROUP,))
        self._full_mask = group_mask(*solids, *(body or (CEILING_GROUP,)))
        self._radius = self._model.geom_size[np.isin(self._model.geom_group, body), 0].max(initial=0.0)
        self._solid = np.append(self._model.geom_group == SOLID_GROUP, [True, False])  # for each of the palette
        throwing = self._full_mask * group_mask(AGENT_GROUP, GOAL_GROUP, MARKER_GROUP)
        self._casters = throwing[self._model.geom_group].nonzero()[0]
        self._hazards = (self._model.geom_group == HAZARD_GROUP).nonzero()[0]
        self._hazard_squares = self._model.geom_size[self._hazards, 0] ** 2
        pixels = size * size
        self._geoms = np.empty(pixels, np.int32)
        self._distances = np.empty(pixels, np.float64)
        self._normals = np.empty(pixels * 3, np.float64)
        self._world_rays: NDArray[np.float64] | None = None
        self._background: Picture | None = None

    def begin_episode(self) -> None:
        self._background = None

    def close(self) -> None:
        self._background = None

    def draw(self) -> Picture:
        mujoco.mj_camlight(self._model, self._data)
        rotation = self._data.cam_xmat[self._camera].reshape(3, 3)
        origin = self._data.cam_xpos[self._camera]
        size = self._size
        if self._moves:
            return self._shade(origin, self._rays @ rotation.T, self._full_mask).reshape(size, size, 3)
        if self._world_rays is None:
            self._world_rays = self._rays @ rotation.T
        if self._background is None:
            background = self._shade(origin, self._world_rays, self._static_mask, without=self._body)
            self._background = background.reshape(size, size, 3)
        picture = self._background.copy()
        rows, columns = self._window(origin, rotation)
        rays = self._world_rays.reshape(size, size, 3)[rows, columns]
        if rays.size:
            picture[rows, columns] = self._shade(origin, rays.reshape(-1, 3), self._full_mask).reshape(rays.shape)
        return picture

    def _window(self, origin: NDArray[np.float64], rotation: NDArray[np.float64]) -> tuple[slice, slice]:
        """Rows and columns of the pixels that may show the body or its shadow."""
        body = self._data.qpos
        shadow = body - _LIGHT * ((body[2] - ROOM_LOW[2]) / _LIGHT[2])  # on the floor, if nothing is in the way
        rows: list[float] = []
        columns: list[float] = []
        for centre, radius in ((body, self._radius), (shadow, self._radius / _LIGHT[2])):
            right, up, back = (rotation.T @ (centre - origin)).tolist()
            row = 0.5 * self._size + self._focal * up / back
            column = 0.5 * self._size - self._focal * right / back
            reach = self._focal * radius / max(-back - radius, 0.1) * 1.2 + 1.0
            rows += (row - reach, row + reach)
            columns += (column - reach, column + reach)
        return self._span(rows), self._span(columns)

    def _span(self, marks: list[float]) -> slice:
        """The pixels from the lowest mark to the highest."""
        return slice(max(int(min(marks)), 0), min(int(max(marks)) + 1, self._size))

    def _shade(
        self, origin: NDArray[np.float64], rays: NDArray[np.float64], mask: NDArray[np.uint8], without: int = -1
    ) -> Picture:
        """Colours [n, 3] of the pixels whose unit rays [n, 3] start at `origin` and pass the body `without`."""
        count = len(rays)
        flat = np.ascontiguousarray(rays).reshape(-1)
        geoms, distances, normals = self._geoms[:count], self._distances[:count], self._normals[: 3 * count]
        mujoco.mj_multiRay(
            self._model, self._data, origin, flat, mask, True, without, geoms, distances, normals, count, _FAR
        )
        self._checker_floor(origin, rays, geoms, distances)
        light = np.abs(normals.reshape(-1, 3) @ _LIGHT)
        shade = (_AMBIENT + _DIFFUSE * light) * np.exp(-_FOG_PER_METRE * distances)
        shade[geoms < 0] = 1.0
        colours: NDArray[np.float32] = self._palette.take(geoms, axis=0, mode="wrap")
        colours *= shade[:, None].astype(np.float32)
        solid = self._solid.take(geoms, mode="wrap").nonzero()[0]
        dark = self._in_shadow(origin + rays[solid] * distances[solid, None], without)
        colours[solid[dark]] *= _SHADOW_DARKENING
        self._tint_hazards(origin, rays, distances, colours)
        return np.minimum(colours, 255.0, out=colours).astype(np.uint8)

    def _checker_floor(
        self,
        origin: NDArray[np.float64],
        rays: NDArray[np.float64],
        geoms: NDArray[np.int32],
        distances: NDArray[np.float64],
    ) -> None:
        """Send every other square metre of the floor to the palette's dark tile."""
        hits = (geoms == self._floor).nonzero()[0]
        tile = np.floor(origin[:2] + rays[hits, :2] * distances[hits, None]).astype(np.int32)
        geoms[hits[((tile[:, 0] ^ tile[:, 1]) & 1) == 1]] = len(self._palette) - 2

    def _in_shadow(self, points: NDArray[np.float64], without: int) -> NDArray[np.bool_]:
        """Which of the points [n, 3] a sphere hides from the lamp, of any body but `without`."""
        aside, above, along = _LAMP_AXES @ points.T
        dark = np.zeros(len(points), np.bool_)
        for caster in self._casters[self._model.geom_bodyid[self._casters] != without]:
            x, y, z = (_LAMP_AXES @ self._data.geom_xpos[caster]).tolist()
            square = self._model.geom_size[caster, 0].item() ** 2
            dark |= ((aside - x) ** 2 + (above - y) ** 2 < square) & (along < z)
        return dark

    def _tint_hazards(
        self,
        origin: NDArray[np.float64],
        rays: NDArray[np.float64],
        distances: NDArray[np.float64],
        colours: NDArray[np.float32],
    ) -> None:
        """Blend the hazard spheres in front of what the unit rays [n, 3] hit into `colours` [n, 3]."""
        offsets = self._data.geom_xpos[self._hazards] - origin  # [K, 3]
        nearest = offsets @ rays.T  # [K, n] distance along each ray to the point nearest to each centre
        gaps = np.sum(offsets**2, axis=1) - self._hazard_squares
        tinted = np.zeros(len(rays), np.bool_)
        for along, gap in zip(nearest, gaps, strict=True):
            hit = (along * along > gap).nonzero()[0]
            half, middle, limit = np.sqrt(along[hit] ** 2 - gap), along[hit], distances[hit]
            tinted[hit] |= (middle + half > 0) & ((middle - half < limit) | (limit < 0))
        colours[tinted] += _HAZARD_OPACITY * (_HAZARD_TINT - colours[tinted])


def _pinhole_rays(size: int, focal: float) -> NDArray[np.float64]:
    """Unit rays [size * size, 3] of a camera that looks along -z with +y up, row by row from the top."""
    offset = (np.arange(size) + 0.5 - 0.5 * size) / focal
    right, down = np.meshgrid(offset, offset)
    rays = np.stack([right, -down, -np.ones_like(right)], axis=-1).reshape(-1, 3)
    unit: NDArray[np.float64] = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return unit


def _palette(model: Any) -> NDArray[np.float32]:
    """Colours [geoms + 2, 3] in [0, 255]: every geom, then the floor's dark tiles, then (at index -1) the sky."""
    colours = model.geom_rgba[:, :3] * 255.0
    floor = colours[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "floor")]
    return np.concatenate([colours, [floor * _CHECKER_DARKENING], [_SKY]]).astype(np.float32)
