"""What is observed: the bird's-eye view, the state, the lidar's histogram, times to collision."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("carla")

from envs.carla.actions import Pedals
from envs.carla.birdeye import LAYERS, BirdeyeView
from envs.carla.canvas import Canvas, StopLine
from envs.carla.lidar import histogram
from envs.carla.road_raster import draw_road
from envs.carla.route import Route
from envs.carla.scene import Body, Ego, Scene, time_to_collision
from envs.carla.state import NO_LIGHT, STATE_FIELDS, LightAhead, neighbours, state_vector
from tests.envs.carla.test_route import line, town

LAYER = {name: index for index, (name, _, _) in enumerate(LAYERS)}
HALF = (2.4, 1.0)


def scene(ego: Ego, others: list[tuple[float, float, float, float, float]]) -> Scene:
    bodies = [Body(index, 2.3, 0.9) for index in range(len(others))]
    return Scene(1, ego, bodies, np.array(others, np.float64).reshape(-1, 5))


def ego(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, speed: float = 0.0) -> Ego:
    return Ego(x, y, 0.0, yaw, speed, 0.0, 0.0, 0.0, 0.0)


def state(view: Scene, route: Route, light: LightAhead = NO_LIGHT) -> dict[str, float]:
    route.restart(view.ego.x)
    place = route.locate(view.ego.x, view.ego.y, view.ego.yaw)
    relative = view.relative()
    vector = state_vector(view.ego, Pedals(), route, place, light, relative, neighbours(relative, route, place))
    return dict(zip(STATE_FIELDS, vector.tolist(), strict=True))


@pytest.fixture(scope="module")
def view() -> BirdeyeView:
    """Of the oval's lower straight, whose lanes lead along y = 1.75 and 5.25 to larger x."""
    canvas = Canvas(draw_road(town("oval"), 0.25, 40.0))
    canvas.set_route(np.array([(0.0, 1.75), (200.0, 1.75)]))
    canvas.set_lines([StopLine((110.0, 0.0), (110.0, 3.5))])
    canvas.show_lines([False])
    return BirdeyeView(canvas, 64, 32.0, 8.0, HALF, as_masks=True)


def test_the_car_looks_up_and_its_right_is_right(view: BirdeyeView) -> None:
    masks = view.draw(100.0, 1.75, 0.0, [], np.zeros((0, 5)))
    assert masks.shape == (64, 64, 8)
    mask = {name: masks[:, :, index] > 0 for name, index in LAYER.items()}
    rows, columns = np.nonzero(mask["ego"])
    assert rows.mean() == pytest.approx(47.5)  # 8 of 32 m are behind
    assert columns.mean() == pytest.approx(31.5)
    assert mask["road"][20, 31 : 31 + 9].all()  # another lane to the right
    assert not mask["road"][20, 45]  # and grass beyond it
    assert mask["route"][:, 31].all()
    assert not mask["route"][:, 36].any()
    assert mask["light_red"][28, 29:34].any()  # the stop line 10 m ahead
    assert not mask["light_green"].any()


def test_a_turned_car_sees_the_same_turned(view: BirdeyeView) -> None:
    masks = view.draw(100.0, 1.75, math.pi / 2, [], np.zeros((0, 5)))  # across the road, to the right
    assert masks[47, :, LAYER["route"]].all()


def test_vehicles_are_where_they_are(view: BirdeyeView) -> None:
    where = scene(ego(100.0, 1.75), [(110.0, 5.25, 0.0, 0.0, 0.0), (300.0, 0.0, 0.0, 0.0, 0.0)])
    mask = view.draw(100.0, 1.75, 0.0, where.bodies, where.relative())[:, :, LAYER["vehicle"]]
    rows, columns = np.nonzero(mask)
    assert rows.mean() == pytest.approx(2 * (24.0 - 10.0) - 0.5, abs=0.6)
    assert columns.mean() == pytest.approx(31.5 + 2 * 3.5, abs=0.6)
    assert len(rows) == pytest.approx(4 * 4.6 * 1.8, rel=0.3)  # four pixels a square metre, without gaps


def test_a_light_changes_its_line_and_a_new_route_wipes_the_old_one() -> None:
    canvas = Canvas(draw_road(town("oval"), 0.5, 10.0))
    empty = canvas.bits.copy()
    canvas.set_route(np.array([(0.0, 1.75), (50.0, 1.75)]))
    canvas.set_lines([StopLine((110.0, 0.0), (110.0, 3.5))])
    for colour in (True, False, None):
        canvas.show_lines([colour])
    canvas.set_route(np.array([(60.0, 1.75), (90.0, 1.75)]))
    canvas.set_lines([])
    assert (canvas.bits != empty).sum() < 30 * 4 * 5
    canvas.flat[canvas._route] &= 255 - 4
    assert np.array_equal(canvas.bits, empty)


def test_the_state_says_where_the_leader_is_and_who_else() -> None:
    route = line([(0.0, 0.0), (200.0, 0.0)])
    fields = state(scene(ego(50.0, 0.5, 0.1, 6.0), [(70.0, 0.0, 0.0, 4.0, 0.0), (52.0, 3.5, 0.0, 8.0, 0.0)]), route)
    assert fields["lateral"] == pytest.approx(0.5)
    assert fields["heading"] == pytest.approx(0.1)
    assert fields["speed_limit"] == 10.0
    assert fields["leader_forward"] == pytest.approx(20.0 * math.cos(0.1) - 0.5 * math.sin(0.1), abs=0.05)
    assert fields["leader_speed"] == pytest.approx(4.0 * math.cos(0.1) - 6.0, abs=1e-5)
    assert fields["nearest_forward"] == pytest.approx(2.0 * math.cos(0.1) + 3.0 * math.sin(0.1), abs=0.05)
    assert fields["nearest_right"] > 2.5
    assert fields["route_20_forward"] == pytest.approx(20.0 * math.cos(0.1), abs=0.1)


def test_the_state_of_an_empty_road_says_so() -> None:
    route = line([(0.0, 0.0), (200.0, 0.0)])
    fields = state(scene(ego(150.0), [(150.0, 60.0, 0.0, 0.0, 0.0)]), route, LightAhead(1.0, 12.0))
    assert (fields["leader_forward"], fields["nearest_forward"]) == (50.0, 50.0)
    assert (fields["light"], fields["stop_line"]) == (1.0, 12.0)
    assert fields["to_go"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("other", "seconds"),
    [
        ((30.0, 0.0, 0.0, 0.0, 0.0), (30.0 - 2.4 - 2.3) / 10.0),  # standing ahead
        ((30.0, 0.0, 0.0, 10.0, 0.0), 10.0),  # as fast
        ((30.0, 3.5, 0.0, 0.0, 0.0), 10.0),  # in the next lane
        ((-30.0, 0.0, 0.0, 0.0, 0.0), 10.0),  # behind
        ((3.0, 0.0, 0.0, 0.0, 0.0), 0.0),  # touching
    ],
)
def test_times_to_collision(other: tuple[float, ...], seconds: float) -> None:
    view = scene(ego(speed=10.0), [other])  # type: ignore[list-item]
    assert time_to_collision(view.relative(), view.bodies, HALF, 10.0) == pytest.approx(seconds, abs=1e-6)
    assert time_to_collision(np.zeros((0, 5)), [], HALF, 10.0) == 10.0


def test_the_histogram_counts_ground_and_obstacles_apart() -> None:
    points = np.array(
        [[10.0, 0.1, -2.0, 1.0], [10.0, 0.1, 0.0, 1.0], [0.0, 5.0, -1.0, 1.0], [99.0, 0, 0, 1]], np.float32
    )
    cells = histogram(points, 64, 32.0)
    assert cells.shape == (64, 64, 3)
    assert cells[12, 32].tolist() == [63, 63, 127]  # 20 cells ahead
    assert cells[32, 42].tolist() == [0, 63, 63]  # 10 cells to the right
    assert np.count_nonzero(cells.any(axis=2)) == 2
