"""Routes: where a car is along one, and what is drawn on the towns of the stand-in."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("carla")

from envs.carla.lane_graph import shortest_path
from envs.carla.roads import Roads
from envs.carla.route import Route, route_along
from envs.carla.route_choice import RouteChooser
from envs.carla.simulation import read_roads
from envs.carla.standin.towns import TOWN_FILES


def town(name: str) -> Roads:
    return read_roads(name, (TOWN_FILES / f"{name}.xodr").read_text())


def line(points: list[tuple[float, float]]) -> Route:
    count = len(points)
    return Route(np.array(points), np.full(count, 10.0), np.full(count, 3.5), np.zeros(count))


def test_a_car_to_the_right_of_a_straight_route_has_a_positive_lateral_and_heading() -> None:
    route = line([(0.0, 0.0), (100.0, 0.0)])
    assert route.length == pytest.approx(100.0)
    place = route.locate(3.3, 1.5, 0.2)  # y grows to the right, yaw turns right
    assert (place.along, place.lateral, place.heading) == pytest.approx((3.3, 1.5, 0.2))
    assert route.locate(5.0, -2.0, -0.1).lateral == pytest.approx(-2.0)


def test_the_place_moves_on_and_never_jumps_to_where_the_route_comes_back() -> None:
    route = line([(0.0, 0.0), (50.0, 0.0), (50.0, 1.0), (0.0, 1.0)])
    for x in np.arange(0.0, 40.0, 2.0):
        assert route.locate(float(x), 0.9, 0.0).along == pytest.approx(x, abs=0.6)


def test_curvature_is_one_over_the_radius_and_positive_to_the_right() -> None:
    angles = np.linspace(0.0, math.pi, 200)
    right = line([(20.0 * math.sin(a), 20.0 - 20.0 * math.cos(a)) for a in angles])
    middle = right.curvature[10:-10]
    assert middle == pytest.approx(np.full(len(middle), 1 / 20.0), rel=0.1)


def test_points_lie_between_and_end_at_the_ends() -> None:
    route = line([(0.0, 0.0), (10.0, 0.0)])
    assert route.point_at(2.5) == pytest.approx((2.5, 0.0))
    assert route.point_at(99.0) == pytest.approx((10.0, 0.0))


def test_the_shortest_path_follows_lanes_and_changes_them_where_it_must() -> None:
    roads = town("highway")
    ramp_end = next(i for i, lane in enumerate(roads.lanes) if not lane.successors and max(lane.left, lane.right) >= 0)
    beside = max(roads.lanes[ramp_end].left, roads.lanes[ramp_end].right)
    assert shortest_path(roads, ramp_end, beside) == [ramp_end, beside]
    after = roads.lanes[beside].successors[0]
    assert shortest_path(roads, ramp_end, after) == [ramp_end, beside, after]
    assert shortest_path(roads, after, after) == [after]


def test_a_change_of_lanes_is_spread_over_some_way() -> None:
    roads = town("highway")
    ramp_end = next(i for i, lane in enumerate(roads.lanes) if not lane.successors and max(lane.left, lane.right) >= 0)
    beside = max(roads.lanes[ramp_end].left, roads.lanes[ramp_end].right)
    route = route_along(roads, [ramp_end, beside], 0)
    assert np.abs(np.diff(route.yaw)).max() < 0.2
    assert np.abs(route.points[-1] - roads.lanes[beside].points[-1, :2]).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "kind", "turn"),
    [("grid", "right", 90.0), ("grid", "left", -90.0), ("oval", "lane", None), ("highway", "straight", None)],
)
def test_routes_turn_as_their_kind_says(name: str, kind: str, turn: float | None) -> None:
    chooser = RouteChooser(town(name), kind, 60.0)  # type: ignore[arg-type]
    for seed in range(10):
        route = chooser.draw(np.random.default_rng(seed))
        assert 55.0 < route.length < 80.0
        if turn is not None:
            turned = np.degrees(route.yaw - route.yaw[0])
            assert np.abs(turned - turn).min() < 8.0


def test_roundabout_and_merge_routes_lead_through_what_they_are_named_after() -> None:
    roads = town("roundabout")
    chooser = RouteChooser(roads, "roundabout", 150.0)
    route = chooser.draw(np.random.default_rng(0))
    assert np.hypot(*route.points.T).min() < 30.0  # the round is in the middle of the map
    assert np.hypot(*route.points[0]) > 40.0
    merge = RouteChooser(town("highway"), "merge", 250.0).draw(np.random.default_rng(0))
    assert abs(merge.points[0, 1] - merge.points[-1, 1]) > 3.0


def test_equal_seeds_give_equal_routes_and_others_do_not() -> None:
    chooser = RouteChooser(town("grid"), "navigation", 300.0)
    one, two, other = (chooser.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.points, two.points)
    assert not np.array_equal(one.points, other.points)
    assert 150.0 <= one.length <= 610.0


def test_a_map_without_what_is_asked_for_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="map oval has nothing for a route of the kind 'roundabout'"):
        RouteChooser(town("oval"), "roundabout", 100.0)
