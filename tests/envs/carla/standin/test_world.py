"""One episode without a network: traffic, collisions, lights, and that it can be played again."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("carla", reason="needs worldfleet[carla]")

from envs.carla.pose import Pose
from envs.carla.standin.layouts import GREEN, RED, YELLOW
from envs.carla.standin.lights import LightCycle
from envs.carla.standin.snapshot import Snapshots
from envs.carla.standin.towns import Town, load_town
from envs.carla.standin.vehicles import Control
from envs.carla.standin.world import World

DELTA = 0.05
AUTOPILOT = [["role_name", 4, "autopilot"]]


@cache
def _town(name: str) -> Town:
    return load_town(name)


def _world(name: str, cars: int, seed: int = 0) -> World:
    town = _town(name)
    world = World(town, seed)
    for place in town.spawn_points[:: max(1, len(town.spawn_points) // cars)][:cars]:
        world.spawn([1, "vehicle.tesla.model3", AUTOPILOT], place)
    return world


def _car(world: World, pose: Pose, **attributes: str) -> int:
    rows = [[name, 4, value] for name, value in attributes.items()]
    return world.spawn([1, "vehicle.tesla.model3", rows], pose).number


@pytest.mark.parametrize(("name", "fastest"), [("oval", 8.0), ("grid", 1.5), ("roundabout", 4.0), ("highway", 12.0)])
def test_traffic_keeps_lanes_and_gaps(name: str, fastest: float) -> None:
    world = _world(name, 16)
    way, points = 0.0, world.town.roads.point
    for step in range(900):
        before = world.vehicles.x.copy(), world.vehicles.y.copy()
        world.step(DELTA)
        v = world.vehicles
        assert not world.hits, f"two cars met at step {step}"
        way += float(np.hypot(v.x - before[0], v.y - before[1]).sum())
        assert (world.nearest >= 0).all()
        aside = np.hypot(v.x - points[world.nearest, 0], v.y - points[world.nearest, 1])
        assert aside.max() < 2.3, f"a car is {aside.max():.1f} m from its lane at step {step}"
    assert way / world.vehicles.count / (900 * DELTA) > fastest, "traffic stands"


def test_traffic_waits_at_red_and_goes_at_green() -> None:
    town = _town("grid")
    world = World(town, 0)
    world.lights.frozen = True
    world.lights.state[:] = RED
    lane = next(i for i, lane in enumerate(town.roads.lanes) if (town.lights.gate[list(lane.successors)] >= 0).all())
    record = town.roads.lanes[lane]
    x, y, z = record.points[-40]
    number = _car(world, Pose(x, y, z, 0.0, float(np.degrees(record.yaw[-40]))), role_name="autopilot")
    for _ in range(300):
        world.step(DELTA)
    row = world.vehicle(number)
    assert world.vehicles.forward[row] < 0.05
    gap = np.hypot(*(record.points[-1, :2] - (world.vehicles.x[row], world.vehicles.y[row])))
    assert 2.0 < gap < 7.0, "it stands before the line"
    world.lights.state[:] = GREEN
    for _ in range(120):
        world.step(DELTA)
    assert np.hypot(*(record.points[-1, :2] - (world.vehicles.x[row], world.vehicles.y[row]))) > 8.0


def test_traffic_stops_for_a_walker() -> None:
    world = World(_town("oval"), 0)
    number = _car(world, Pose(20.0, 1.75), role_name="autopilot")
    world.spawn([2, "walker.pedestrian.0001", []], Pose(70.0, 1.75, 0.93))
    for _ in range(300):
        world.step(DELTA)
        assert not world.hits
    assert world.vehicles.forward[world.vehicle(number)] < 0.1


def test_a_client_takes_the_wheel_by_a_control() -> None:
    world = World(_town("oval"), 0)
    number = _car(world, Pose(20.0, 1.75), role_name="autopilot")
    for _ in range(60):
        world.step(DELTA)
    row = world.vehicle(number)
    assert world.vehicles.forward[row] > 2.0
    world.control(number, Control(brake=1.0))
    for _ in range(60):
        world.step(DELTA)
    assert world.vehicles.forward[row] == 0.0


def test_the_same_calls_give_the_same_episode_whatever_came_before() -> None:
    def play(world: World) -> bytes:
        for place in world.town.spawn_points[:40:4]:
            world.spawn([1, "vehicle.tesla.model3", AUTOPILOT], place)
        world.lights.reset()
        for _ in range(200):
            world.step(DELTA)
        return world.vehicles.table[:, : world.vehicles.count].tobytes()

    world = World(_town("grid"), 3)
    first = play(world)
    for actor in list(world.vehicle_actors):
        world.destroy(actor.number)
    assert play(world) == first
    assert play(World(_town("grid"), 3)) == first
    assert play(World(_town("grid"), 4)) != first


def test_a_crash_gives_impulses_to_both_and_keeps_the_momentum() -> None:
    world = World(_town("oval"), 0)
    fast, slow = _car(world, Pose(20.0, 1.75)), _car(world, Pose(30.0, 1.75))
    row = world.vehicle(fast)
    world.vehicles.push(row, 15.0, 0.0)
    hits = []
    for _ in range(20):
        before = world.vehicles.velocity_x.copy()
        world.step(DELTA)
        if world.hits and not hits:
            hits = world.hits
            after = world.vehicles.velocity_x.copy()
            assert after.sum() == pytest.approx(before.sum(), rel=0.1)
    assert [(hit.actor.number, hit.other.number) for hit in hits] == [(fast, slow), (slow, fast)]
    assert hits[0].impulse[0] < -1000.0
    assert hits[1].impulse[0] == pytest.approx(-hits[0].impulse[0])
    gap = world.vehicles.x[world.vehicle(slow)] - world.vehicles.x[row]
    assert gap > 2 * 2.396 - 0.1


def test_lights_take_turns() -> None:
    town = _town("grid")
    cycle = LightCycle(town.lights)
    seen: set[int] = set()
    for _ in range(1300):
        green = np.flatnonzero(cycle.state != RED)
        junctions = [town.lights.lights[light].junction for light in green.tolist()]
        assert len(set(junctions)) == len(junctions), "two arms of a junction are open at once"
        seen |= set(green.tolist())
        cycle.step(DELTA)
    assert seen == set(range(len(town.lights.lights)))
    cycle.reset()
    light = int(np.flatnonzero(cycle.state == RED)[0])
    cycle.set(light, GREEN)
    assert [int(cycle.state[other]) for other in cycle.group(light)].count(GREEN) == 1
    for _ in range(round(10.0 / DELTA) + 1):
        cycle.step(DELTA)
    assert cycle.state[light] == YELLOW


def test_the_snapshot_has_every_actor_and_grows_with_them() -> None:
    world = World(_town("grid"), 0)
    packed = Snapshots(world, 1)
    empty = len(packed.pack())
    _car(world, Pose(45.0, 1.75))
    world.spawn([2, "walker.pedestrian.0001", []], Pose(45.0, 8.0, 0.93))
    assert len(packed.pack()) == empty + 2 * 119
    assert empty == 48 + 36 + 119 * (1 + len(world.light_actors))


def test_what_cannot_be_spawned_is_named() -> None:
    world = World(_town("oval"), 0)
    with pytest.raises(ValueError, match=r"cannot spawn 'vehicle\.no\.such'"):
        world.spawn([1, "vehicle.no.such", []], Pose())
    with pytest.raises(ValueError, match=r"carla\.WalkerControl"):
        world.spawn([1, "controller.ai.walker", []], Pose())
    with pytest.raises(ValueError, match="unable to find actor 77"):
        world.spawn([1, "sensor.other.imu", []], Pose(), parent=77)
