"""The kernel that casts rays against its NumPy twin, and against pictures that can be worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import native
from native.reference_rays import RaySceneReference

_LIGHT = np.array([0.3, -0.4, math.sqrt(0.75), 0.9, 0.002])


def _scene(rng: np.random.Generator, kind: Any, heights: bool, threads: int = 1) -> Any:
    classes = rng.integers(0, 25, (90, 70)).astype(np.uint8)
    bumps = rng.uniform(0.0, 1.5, (10, 8)).astype(np.float32) if heights else np.zeros((0, 0), np.float32)
    palette = rng.integers(0, 256, (32, 3)).astype(np.uint8)
    scene = kind(classes, np.array([-40.0, -30.0]), 1.0, 10, bumps, 10.0, palette, threads)
    boxes = np.zeros((12, 15))
    boxes[:, :3] = rng.uniform((-30, -30, 0.5), (30, 30, 3.0), (12, 3))
    boxes[:, 3:6] = rng.uniform(0.4, 2.5, (12, 3))
    for row in boxes:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        row[6:] = q.ravel()
    labels = np.stack([np.arange(1, 13), rng.integers(0, 25, 12)], axis=1).astype(np.uint32)
    scene.set_boxes(boxes, labels, rng.integers(0, 256, (12, 3)).astype(np.uint8))
    return scene


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    directions = rng.normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("heights", [False, True])
def test_rays_are_those_of_the_twin(heights: bool) -> None:
    origin, directions = np.array([1.0, 2.0, 4.0]), _directions(np.random.default_rng(1), 1500)
    ours = _scene(np.random.default_rng(0), native.RayScene, heights).cast(origin, directions, 60.0, 3)
    twin = _scene(np.random.default_rng(0), RaySceneReference, heights).cast(origin, directions, 60.0, 3)
    assert np.isfinite(ours[0]).any()
    assert not np.isfinite(ours[0]).all()
    assert not (ours[2] == 3).any(), "the ignored box is seen"
    # At the edge of a cell, or on ground that a ray just touches, a rounding decides.
    assert np.isclose(ours[0], twin[0], rtol=1e-5).mean() > 0.998
    assert (ours[1] == twin[1]).mean() > 0.998
    assert (ours[2] == twin[2]).mean() > 0.998
    assert np.isclose(ours[3], twin[3], atol=1e-5).mean() > 0.998


@pytest.mark.parametrize("kind", ["color", "tags", "depth"])
def test_pictures_are_those_of_the_twin(kind: str) -> None:
    origin, axes = np.array([0.5, 0.5, 3.0]), np.eye(3).ravel()
    ours = _scene(np.random.default_rng(0), native.RayScene, False).draw(origin, axes, 37, 21, 1.6, kind, _LIGHT)
    twin = _scene(np.random.default_rng(0), RaySceneReference, False).draw(origin, axes, 37, 21, 1.6, kind, _LIGHT)
    assert ours.shape == (21, 37, 4)
    close = np.abs(ours.astype(int) - twin.astype(int)).max(axis=-1) <= 1
    assert close.mean() > 0.99


def test_threads_do_not_change_a_picture() -> None:
    pictures = [
        _scene(np.random.default_rng(0), native.RayScene, True, threads).draw(
            np.array([0.0, 0.0, 5.0]), np.eye(3).ravel(), 50, 33, 1.5, "color", _LIGHT
        )
        for threads in (1, 3)
    ]
    np.testing.assert_array_equal(*pictures)


def test_a_box_ahead_is_as_far_as_it_stands() -> None:
    scene = native.RayScene(
        np.full((4, 4), 1, np.uint8), np.array([-2.0, -2.0]), 1.0, 10, np.zeros((0, 0), np.float32), 1.0,
        np.zeros((32, 3), np.uint8),
    )  # fmt: skip
    box = np.array([[20.0, 0.0, 1.0, 2.0, 1.0, 1.0, *np.eye(3).ravel()]])
    scene.set_boxes(box, np.array([[7, 14]], np.uint32), np.array([[9, 9, 9]], np.uint8))
    depth = scene.draw(np.array([0.0, 0.0, 1.0]), np.eye(3).ravel(), 9, 9, 0.2, "depth", _LIGHT)
    blue, green, red = depth[4, 4, :3].astype(int).tolist()
    assert (red + 256 * green + 65536 * blue) / (2**24 - 1) * 1000 == pytest.approx(18.0, abs=1e-3)
    tags = scene.draw(np.array([0.0, 0.0, 1.0]), np.eye(3).ravel(), 9, 9, 0.2, "tags", _LIGHT)
    assert tags[4, 4, 2] == 14
    assert tags[0, 0, 2] == 11  # sky


def test_bad_arguments_are_named() -> None:
    scene = _scene(np.random.default_rng(0), native.RayScene, False)
    with pytest.raises(ValueError, match="range must be positive, not 0"):
        scene.cast(np.zeros(3), np.zeros((1, 3)), 0.0)
    with pytest.raises(ValueError, match="kind must be color, tags or depth, not heat"):
        scene.draw(np.zeros(3), np.eye(3).ravel(), 4, 4, 1.0, "heat", _LIGHT)
    with pytest.raises(ValueError, match="fov must lie in"):
        scene.draw(np.zeros(3), np.eye(3).ravel(), 4, 4, 4.0, "color", _LIGHT)
    with pytest.raises(ValueError, match="boxes must have shape"):
        scene.set_boxes(np.zeros((1, 3)), np.zeros((1, 2), np.uint32), np.zeros((1, 3), np.uint8))
    with pytest.raises(TypeError):
        scene.cast(np.zeros(3), np.zeros((1, 3), np.float32), 1.0)
