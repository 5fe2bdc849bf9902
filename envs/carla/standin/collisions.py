"""Contacts of oriented boxes in the plane, and the impulses that part them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """Boxes on the ground.

    Args:
        x, y, yaw: [N] metres and radians.
        length, width: [N] half sizes, metres.
        low, high: [N] heights of bottom and top, metres.
    """

    x: Floats
    y: Floats
    yaw: Floats
    length: Floats
    width: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Contact:
    """Two boxes that overlap.

    Args:
        first, second: Their rows.
        normal: Unit vector (x, y) from the first to the second.
        depth: How far they overlap along it, metres.
        point: Where (x, y).
    """

    first: int
    second: int
    normal: tuple[float, float]
    depth: float
    point: tuple[float, float]


def contacts(boxes: Boxes, movers: int) -> list[Contact]:
    """Overlaps of the first `movers` boxes with each other and with the rest, by row."""
    if movers == 0 or len(boxes.x) < 2:
        return []
    radius = np.hypot(boxes.length, boxes.width)
    gap_x = boxes.x[:movers, None] - boxes.x
    gap_y = boxes.y[:movers, None] - boxes.y
    reach = radius[:movers, None] + radius
    near = gap_x * gap_x + gap_y * gap_y < reach * reach
    first, second = np.nonzero(near)
    pairs = first < second
    first, second = first[pairs], second[pairs]
    if not len(first):
        return []
    touching = _not_parted(boxes, first, second) & _not_parted(boxes, second, first)
    touching &= (boxes.low[first] < boxes.high[second]) & (boxes.low[second] < boxes.high[first])
    found = (overlap(boxes, i, j) for i, j in zip(first[touching].tolist(), second[touching].tolist(), strict=True))
    return [contact for contact in found if contact is not None]


def _not_parted(boxes: Boxes, one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of pairs of boxes, which are not parted by a line along a side of the first."""
    cos, sin = np.cos(boxes.yaw[one]), np.sin(boxes.yaw[one])
    dx, dy = boxes.x[two] - boxes.x[one], boxes.y[two] - boxes.y[one]
    turned = boxes.yaw[two] - boxes.yaw[one]
    same, across = np.abs(np.cos(turned)), np.abs(np.sin(turned))
    length = boxes.length[one] + boxes.length[two] * same + boxes.width[two] * across
    width = boxes.width[one] + boxes.length[two] * across + boxes.width[two] * same
    meets: NDArray[np.bool_] = (np.abs(dx * cos + dy * sin) < length) & (np.abs(dy * cos - dx * sin) < width)
    return meets


def overlap(boxes: Boxes, i: int, j: int) -> Contact | None:
    """The contact of two boxes, None where a line parts them (separating axes of the four sides)."""
    axes, corners = [], []
    for row in (i, j):
        cos, sin = float(np.cos(boxes.yaw[row])), float(np.sin(boxes.yaw[row]))
        length, width = float(boxes.length[row]), float(boxes.width[row])
        axes += [(cos, sin), (-sin, cos)]
        x, y = float(boxes.x[row]), float(boxes.y[row])
        corners.append(
            [
                (x + a * length * cos - b * width * sin, y + a * length * sin + b * width * cos)
                for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
            ]
        )
    best, normal = np.inf, (1.0, 0.0)
    for ax, ay in axes:
        one = [x * ax + y * ay for x, y in corners[0]]
        two = [x * ax + y * ay for x, y in corners[1]]
        ahead, behind = max(one) - min(two), max(two) - min(one)
        if ahead <= 0 or behind <= 0:
            return None
        if min(ahead, behind) < best:
            best = min(ahead, behind)
            normal = (ax, ay) if ahead <= behind else (-ax, -ay)
    touching = [corner for corner in corners[1] if _inside(boxes, i, corner)]
    touching += [corner for corner in corners[0] if _inside(boxes, j, corner)]
    touching = touching or [((boxes.x[i] + boxes.x[j]) / 2, (boxes.y[i] + boxes.y[j]) / 2)]
    point = tuple(float(np.mean([corner[k] for corner in touching])) for k in (0, 1))
    return Contact(i, j, normal, float(best), (point[0], point[1]))


def _inside(boxes: Boxes, row: int, corner: tuple[float, float]) -> bool:
    cos, sin = np.cos(boxes.yaw[row]), np.sin(boxes.yaw[row])
    x, y = corner[0] - boxes.x[row], corner[1] - boxes.y[row]
    return bool(abs(x * cos + y * sin) <= boxes.length[row] and abs(y * cos - x * sin) <= boxes.width[row])


@dataclass
class Body:
    """What an impulse changes: velocity in the world, m/s, and turning, rad/s; no mass is an immovable thing."""

    x: float
    y: float
    velocity_x: float
    velocity_y: float
    rate: float
    inverse_mass: float
    inverse_inertia: float


_RESTITUTION = 0.15
_RUBBING = 0.4


def part(contact: Contact, one: Body, two: Body) -> float:
    """Give both bodies the impulse that ends their approach; returns its size in newton seconds, 0 if they part."""
    nx, ny = contact.normal
    arms = [(contact.point[0] - body.x, contact.point[1] - body.y) for body in (one, two)]
    velocities = [
        (body.velocity_x - body.rate * ay, body.velocity_y + body.rate * ax)
        for body, (ax, ay) in zip((one, two), arms, strict=True)
    ]
    dx, dy = velocities[1][0] - velocities[0][0], velocities[1][1] - velocities[0][1]
    approach = dx * nx + dy * ny
    if approach >= 0 or one.inverse_mass + two.inverse_mass == 0:
        return 0.0
    size = -(1 + _RESTITUTION) * approach / _resistance(one, two, arms, nx, ny)
    tx, ty = -ny, nx
    rubbing = -(dx * tx + dy * ty) / _resistance(one, two, arms, tx, ty)
    rubbing = max(-_RUBBING * size, min(_RUBBING * size, rubbing))
    px, py = size * nx + rubbing * tx, size * ny + rubbing * ty
    for body, (ax, ay), sign in ((one, arms[0], -1.0), (two, arms[1], 1.0)):
        body.velocity_x += sign * px * body.inverse_mass
        body.velocity_y += sign * py * body.inverse_mass
        body.rate += sign * (ax * py - ay * px) * body.inverse_inertia
    return size


def _resistance(one: Body, two: Body, arms: list[tuple[float, float]], x: float, y: float) -> float:
    total = 0.0
    for body, (ax, ay) in zip((one, two), arms, strict=True):
        total += body.inverse_mass + (ax * y - ay * x) ** 2 * body.inverse_inertia
    return total
