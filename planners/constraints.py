"""Constraints over the particles of plans: margins of predicted states, and by how much a plan violates them.

Letters: B problems, N candidates, P particles, H horizon, S state size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planners import risk
from planners.base import Rollouts
from planners.constraint_config import Bounds, Clearance, ConstraintConfig, Cost, Signal, TimeToCollision

Floats = NDArray[np.float32]

_FAR = np.float32(1e6)
"""Margin where nothing is ahead."""


@dataclass(frozen=True)
class Verdict:
    """What a constraint says of plans; NaN where their paths are not finite."""

    excess: Floats  # [...] by how much they violate it; 0 where they are feasible
    probability: Floats  # [...] of a violation within the horizon
    first_step: Floats  # [...] the first step (from 1) by which it violates the constraint; H where it does not


def margins(signal: Signal, rollouts: Rollouts) -> Floats:
    """Margin [B, N, P, H] of every step after an action; negative is a violation.

    Raises:
        ValueError: The model does not predict what the signal needs.
    """
    match signal:
        case Cost():
            if rollouts.costs is None:
                raise ValueError("planner.constraint.signal cost needs a model that predicts cost")
            return np.float32(signal.most) - rollouts.costs
        case _:
            if rollouts.states is None:
                raise ValueError(f"planner.constraint.signal {signal.kind} needs a model that predicts states")
            return state_margins(signal, rollouts.states)


def state_margins(signal: Signal, states: Floats) -> Floats:
    """Margin [...] of states [..., S].

    Raises:
        ValueError: An index is outside the state.
    """
    size = states.shape[-1]
    match signal:
        case Clearance():
            _check_index(size, *signal.position)
            return clearance(signal, states[..., list(signal.position)])
        case TimeToCollision():
            _check_index(size, signal.gap, signal.closing)
            return time_to_collision(states[..., signal.gap], states[..., signal.closing]) - np.float32(signal.least)
        case Bounds():
            _check_index(size, signal.index)
            value = states[..., signal.index]
            inside: Floats = np.minimum(value - np.float32(signal.least), np.float32(signal.most) - value)
            return inside
    raise TypeError(f"no margin of {type(signal).__name__}")


def clearance(signal: Clearance, points: Floats) -> Floats:
    """Distance [...] of points [..., 3] to the nearest obstacle or wall, less the margin; signed for spheres and walls.

    Inside a box or a pillar it is minus the way out.
    """
    parts = []
    for x, y, z, radius in signal.spheres:
        offset = points - np.array([x, y, z], np.float32)
        parts.append(np.sqrt(np.sum(offset * offset, axis=-1)) - np.float32(radius))
    for block in signal.boxes:
        outside = np.abs(points - np.array(block[:3], np.float32)) - np.array(block[3:], np.float32)
        parts.append(_signed(outside))
    for block in signal.pillars:
        offset = points - np.array(block[:3], np.float32)
        radial = np.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2) - np.float32(block[3])
        parts.append(_signed(np.stack([radial, np.abs(offset[..., 2]) - np.float32(block[5])], axis=-1)))
    if signal.low:
        inside = np.minimum(points - np.array(signal.low, np.float32), np.array(signal.high, np.float32) - points)
        parts.append(inside.min(axis=-1))
    nearest: Floats = np.minimum.reduce(parts) - np.float32(signal.margin)
    return nearest


def time_to_collision(gap: Floats, closing: Floats) -> Floats:
    """Seconds until gaps [m] close at the speeds `closing` [m/s]; 1e6 at most, 0 where they are closed."""
    approaching = closing > 0.0
    seconds = np.where(approaching, np.maximum(gap, 0.0) / np.where(approaching, closing, 1.0), _FAR)
    seconds = np.where(gap <= 0.0, 0.0, np.minimum(seconds, _FAR))
    return np.where(np.isnan(gap) | np.isnan(closing), np.nan, seconds).astype(np.float32)


def judge(config: ConstraintConfig, margin: Floats) -> Verdict:
    """What the constraint says of plans with margins [..., P, H].

    A plan is feasible up to the limit. The excess of one that is not is what lies above it; of a chance, which few
    particles resolve coarsely, with the mean depth of the violations over particles and steps added, so that a search
    that starts where nothing is feasible finds the way out.
    """
    depth = np.maximum(-margin, np.float32(0.0))
    known = np.isfinite(margin).all(axis=(-1, -2))
    hit = np.logical_or.accumulate(margin < 0.0, axis=-1)  # [..., P, H] violated by then
    chance = hit.mean(axis=-2, dtype=np.float32)  # [..., H]
    limit = np.float32(config.limit)
    if config.form == "chance":
        over = chance > limit
        mean_depth = depth.mean(axis=(-1, -2), dtype=np.float64).astype(np.float32)
        excess = np.where(over[..., -1], chance[..., -1] - limit + mean_depth, np.float32(0.0))
    else:
        deepest = np.moveaxis(np.maximum.accumulate(depth, axis=-1), -1, -2)  # [..., H, P]
        tail = -risk.cvar(-deepest, config.alpha)
        over = tail > limit
        excess = np.maximum(tail[..., -1] - limit, np.float32(0.0))
    first = np.where(over.any(axis=-1), over.argmax(axis=-1) + 1, margin.shape[-1])
    verdict = (excess, chance[..., -1], first)
    return Verdict(*(np.where(known, part, np.nan).astype(np.float32) for part in verdict))


def _signed(outside: Floats) -> Floats:
    """Signed distance [...] of a box from how far beyond its faces a point is along each axis [..., axes]."""
    beyond = np.maximum(outside, np.float32(0.0))
    distance: Floats = np.sqrt(np.sum(beyond * beyond, axis=-1)) + np.minimum(outside.max(axis=-1), np.float32(0.0))
    return distance


def _check_index(size: int, *indices: int) -> None:
    for index in indices:
        if index >= size:
            raise ValueError(f"planner.constraint.signal reads number {index} of a state that has {size}")
