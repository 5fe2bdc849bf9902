"""The motion of vehicles against its NumPy twin, and what a car does on the road."""

from __future__ import annotations

import numpy as np
import pytest

import native
from native.reference_vehicles import step_vehicles

_ROW = {name: i for i, name in enumerate(native.vehicle_columns)}


def _table(count: int = 1) -> np.ndarray:
    table = np.zeros((len(native.vehicle_columns), count + 2))
    for name, value in {
        "mass": 1845.0,
        "inertia": 4800.0,
        "front": 1.44,
        "rear": 1.44,
        "power": 200e3,
        "max_steer": np.radians(45.0),
        "physics": 1.0,
    }.items():
        table[_ROW[name]] = value
    return table


def _drive(table: np.ndarray, seconds: float, **controls: float) -> None:
    for name, value in controls.items():
        table[_ROW[name], 0] = value
    for _ in range(round(seconds / 0.05)):
        native.step_vehicles(table, 1, 0.05)


def test_kernel_and_twin_agree() -> None:
    rng = np.random.default_rng(0)
    ours = _table(30)
    for name, low, high in (
        ("forward", -8.0, 30.0),
        ("side", -3.0, 3.0),
        ("yaw_rate", -1.0, 1.0),
        ("yaw", -9.0, 9.0),
        ("throttle", 0.0, 1.0),
        ("steer", -1.0, 1.0),
        ("brake", -0.5, 0.5),
    ):
        ours[_ROW[name], :30] = rng.uniform(low, high, 30)
    ours[_ROW["brake"]] = ours[_ROW["brake"]].clip(0.0)
    ours[_ROW["hand_brake"], 3] = ours[_ROW["reverse"], 4] = ours[_ROW["manual"], 5] = 1.0
    ours[_ROW["is_constant"], 6], ours[_ROW["constant_forward"], 6] = 1.0, 7.0
    ours[_ROW["z"], 7] = 2.0
    twin = ours.copy()
    for _ in range(20):
        native.step_vehicles(ours, 30, 0.05)
        step_vehicles(twin, 30, 0.05)
    np.testing.assert_allclose(ours, twin, rtol=1e-6, atol=1e-6)


def test_a_car_drives_turns_right_and_stops() -> None:
    table = _table()
    _drive(table, 5.0, throttle=0.7)
    speed, x = table[_ROW["forward"], 0], table[_ROW["x"], 0]
    assert 10.0 < speed < 25.0
    assert table[_ROW["y"], 0] == 0.0
    _drive(table, 1.0, steer=0.2)
    assert table[_ROW["y"], 0] > 0.5  # to the right
    assert table[_ROW["yaw"], 0] > 0.05
    _drive(table, 6.0, throttle=0.0, brake=1.0, steer=0.0)
    assert abs(table[_ROW["forward"], 0]) < 1e-3
    assert table[_ROW["x"], 0] > x


def test_full_brakes_stop_within_the_grip_of_the_tyres() -> None:
    table = _table()
    table[_ROW["forward"], 0] = 20.0
    _drive(table, 8.0, brake=1.0)
    ideal = 20.0**2 / (2 * 9.81)
    assert 0.93 * ideal < table[_ROW["x"], 0] < 1.2 * ideal


def test_a_fast_bend_slides_instead_of_turning_as_tight_as_a_slow_one() -> None:
    table = _table()
    table[_ROW["forward"], 0] = 25.0
    _drive(table, 1.5, steer=1.0)
    sideways = abs(table[_ROW["forward"], 0] * table[_ROW["yaw_rate"], 0])
    assert sideways < 1.15 * 9.81


def test_a_car_at_rest_stays_where_it_is_whatever_the_steering() -> None:
    table = _table()
    _drive(table, 3.0, steer=1.0)
    assert abs(table[[_ROW["x"], _ROW["y"], _ROW["yaw"]], 0]).max() < 1e-9


def test_a_finer_step_gives_nearly_the_same_path() -> None:
    coarse, fine = _table(), _table()
    for table, step in ((coarse, 0.05), (fine, 0.005)):
        table[_ROW["throttle"]], table[_ROW["steer"]] = 0.5, 0.05
        for _ in range(round(4.0 / step)):
            native.step_vehicles(table, 1, step)
    gap = np.hypot(*(coarse[_ROW[name], 0] - fine[_ROW[name], 0] for name in "xy"))
    assert gap < 0.03 * np.hypot(fine[_ROW["x"], 0], fine[_ROW["y"], 0])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="count must lie in"):
        native.step_vehicles(_table(), 9, 0.05)
    with pytest.raises(ValueError, match="seconds must be positive"):
        native.step_vehicles(_table(), 1, 0.0)
    with pytest.raises(ValueError, match="table must have shape"):
        native.step_vehicles(np.zeros((3, 3)), 1, 0.1)
