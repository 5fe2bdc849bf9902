"""Calls about actors: blueprints, spawning, looking, moving and driving; and the same as commands of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import native
from envs.carla.pose import Pose
from envs.carla.standin.actors import VEHICLE
from envs.carla.standin.blueprints import VEHICLES, definitions
from envs.carla.standin.calls import call
from envs.carla.standin.layouts import ok, read_pose, read_vector, refused
from envs.carla.standin.vehicles import Control

if TYPE_CHECKING:
    from envs.carla.standin.server import Server


@call()
def get_actor_definitions(server: Server) -> list[Any]:
    return definitions()


@call()
def get_spectator(server: Server) -> list[Any]:
    return server.world.spectator.wire()


@call()
def get_actors_by_id(server: Server, numbers: list[int]) -> list[Any]:
    actors = server.world.actors
    return [actors[number].wire() for number in numbers if number in actors]


@call()
def get_actor_bounding_box(server: Server, number: int) -> list[Any]:
    return server.world.find(number).box()


@call()
def spawn_actor(server: Server, description: list[Any], pose: list[Any]) -> list[Any]:
    return server.spawn(description, read_pose(pose)).wire()


@call()
def spawn_actor_with_parent(
    server: Server, description: list[Any], pose: list[Any], parent: int, attachment: int = 0, socket: str = ""
) -> list[Any]:
    return server.spawn(description, read_pose(pose), parent).wire()


@call()
def destroy_actor(server: Server, number: int) -> bool:
    return server.destroy(number)


@call("void")
def apply_control_to_vehicle(server: Server, number: int, control: list[Any]) -> None:
    throttle, steer, brake, hand_brake, reverse, manual, gear = control
    wanted = Control(float(throttle), float(steer), float(brake), hand_brake, reverse, manual, gear)
    if not all(abs(value) < float("inf") for value in (wanted.throttle, wanted.steer, wanted.brake)):
        raise ValueError(f"a control must be finite, not {control}")
    server.world.control(number, wanted)


@call("void")
def apply_control_to_walker(server: Server, number: int, control: list[Any]) -> None:
    direction, speed, jump = control
    server.world.walker(number).control(read_vector(direction), float(speed), bool(jump))


@call("void")
def apply_ackermann_control_to_vehicle(server: Server, number: int, control: list[Any]) -> None:
    steer, _, speed, _, _ = (float(value) for value in control)
    server.world.ackermann(number, steer, speed)


@call("void")
def set_actor_transform(server: Server, number: int, pose: list[Any]) -> None:
    server.world.move(number, read_pose(pose))


@call("void")
def set_actor_location(server: Server, number: int, location: list[float]) -> None:
    world = server.world
    actor = world.find(number)
    place = read_vector(location)
    turned = actor.pose if actor.parent else world.pose(actor)
    world.move(number, Pose(*place, turned.pitch, turned.yaw, turned.roll))


@call("void")
def set_actor_target_velocity(server: Server, number: int, velocity: list[float]) -> None:
    x, y, _ = read_vector(velocity)
    server.world.vehicles.push(server.world.vehicle(number), x, y)


@call("void")
def set_actor_target_angular_velocity(server: Server, number: int, velocity: list[float]) -> None:
    server.world.vehicles.yaw_rate[server.world.vehicle(number)] = read_vector(velocity)[2] * 0.017453292519943295


@call("void")
def enable_actor_constant_velocity(server: Server, number: int, velocity: list[float]) -> None:
    row, vehicles = server.world.vehicle(number), server.world.vehicles
    vehicles.constant_forward[row], vehicles.constant_side[row], _ = read_vector(velocity)
    vehicles.is_constant[row] = 1.0


@call("void")
def disable_actor_constant_velocity(server: Server, number: int) -> None:
    server.world.vehicles.is_constant[server.world.vehicle(number)] = 0.0


def _push(server: Server, number: int, impulse: list[float], seconds: float) -> None:
    row, vehicles = server.world.vehicle(number), server.world.vehicles
    x, y, _ = read_vector(impulse)
    share = seconds / float(vehicles.mass[row])
    vehicles.push(row, float(vehicles.velocity_x[row]) + x * share, float(vehicles.velocity_y[row]) + y * share)


@call("void")
def add_actor_impulse(server: Server, number: int, impulse: list[float]) -> None:
    _push(server, number, impulse, 1.0)


@call("void")
def add_actor_force(server: Server, number: int, force: list[float]) -> None:
    _push(server, number, force, server.delta)


@call("void")
def add_actor_angular_impulse(server: Server, number: int, impulse: list[float]) -> None:
    row, vehicles = server.world.vehicle(number), server.world.vehicles
    vehicles.yaw_rate[row] += read_vector(impulse)[2] / float(vehicles.inertia[row])


@call("void")
def add_actor_torque(server: Server, number: int, torque: list[float]) -> None:
    row, vehicles = server.world.vehicle(number), server.world.vehicles
    vehicles.yaw_rate[row] += server.delta * read_vector(torque)[2] / float(vehicles.inertia[row])


@call("void")
def set_actor_simulate_physics(server: Server, number: int, enabled: bool) -> None:
    if server.world.find(number).kind == VEHICLE:
        server.world.vehicles.physics[server.world.vehicle(number)] = enabled


@call("void")
def set_actor_collisions(server: Server, number: int, enabled: bool) -> None:
    server.world.find(number).collides = enabled


@call("void")
def set_actor_enable_gravity(server: Server, number: int, enabled: bool) -> None:
    server.world.find(number)


@call("void")
def set_actor_dead(server: Server, number: int) -> None:
    server.world.find(number)


@call("void")
def set_actor_autopilot(server: Server, number: int, enabled: bool) -> None:
    server.world.vehicle(number)
    server.world.set_autopilot(number, enabled)


@call("void")
def set_vehicle_light_state(server: Server, number: int, lights: Any) -> None:
    server.world.find(number).lights = int(lights[0] if isinstance(lights, list) else lights)


@call()
def get_vehicle_light_state(server: Server, number: int) -> list[int]:
    return [server.world.find(number).lights]


@call()
def get_vehicle_light_states(server: Server) -> list[Any]:
    return [[actor.number, actor.lights] for actor in server.world.vehicle_actors]


@call()
def get_wheel_steer_angle(server: Server, number: int, wheel: int) -> float:
    row = server.world.vehicle(number)
    return float(server.world.vehicles.steer_angle[row]) * 57.29577951308232 if wheel < 2 else 0.0


@call()
def get_physics_control(server: Server, number: int) -> list[Any]:
    model = VEHICLES[server.world.find(number).blueprint]
    half = model.wheelbase * 50.0
    width = model.half_size[1] * 80.0
    places = [(x > 0, [x, y, 35.0]) for x in (half, -half) for y in (-width, width)]
    wheels = [
        [3.5, 0.25, model.max_steer if front else 0.0, 35.0, 1500.0, 0.0 if front else 3000.0, 2.0, 17.0, 1000.0, place]
        for front, place in places
    ]
    gears = [[ratio, 0.5, 0.65] for ratio in (3.59, 2.19, 1.41, 1.0, 0.83)]
    torque = [[0.0, 400.0], [1890.0, 500.0], [5729.0, 400.0]]
    curve = [list(point) for point in native.steering_curve]
    return [
        torque,
        5800.0,
        1.0,
        0.15,
        2.0,
        0.35,
        True,
        0.5,
        10.0,
        4.0,
        gears,
        model.mass,
        0.3,
        [0.0] * 3,
        curve,
        wheels,
        True,
    ]


@call("void")
def apply_physics_control(server: Server, number: int, physics: list[Any]) -> None:
    server.world.vehicles.mass[server.world.vehicle(number)] = float(physics[11])


# Commands of a batch.


def _spawn(server: Server, payload: list[Any]) -> int:
    description, pose, parent, _, _, after = payload
    owner = parent[1] if parent and parent[0] else 0
    number = server.spawn(description, read_pose(pose), owner).number
    for command in after:
        run(server, command, number)
    return number


def _walker_state(server: Server, number: int, pose: list[Any], speed: float) -> None:
    set_actor_transform(server, number, pose)
    server.world.walker(number).speed = float(speed)


def _autopilot(server: Server, number: int, enabled: bool, port: int = 0) -> None:
    """The client drives the car by its own traffic manager."""


_COMMANDS: dict[int, Callable[..., None]] = {
    2: apply_control_to_vehicle,
    3: apply_ackermann_control_to_vehicle,
    4: apply_control_to_walker,
    5: apply_physics_control,
    6: set_actor_transform,
    7: _walker_state,
    8: set_actor_target_velocity,
    9: set_actor_target_angular_velocity,
    10: add_actor_impulse,
    11: add_actor_force,
    12: add_actor_angular_impulse,
    13: add_actor_torque,
    14: set_actor_simulate_physics,
    15: set_actor_enable_gravity,
    16: _autopilot,
    18: set_vehicle_light_state,
    19: set_actor_location,
}
_SPAWN, _DESTROY = 0, 1


def run(server: Server, command: list[Any], spawned: int = 0) -> int:
    """Run one command of a batch; returns the id of its actor.

    Args:
        server: The server.
        command: [[index, payload]].
        spawned: The actor that id 0 means.

    Raises:
        ValueError: It is refused.
    """
    ((index, payload),) = command
    if index == _SPAWN:
        return _spawn(server, payload)
    number = int(payload[0]) or spawned
    if index == _DESTROY:
        if not server.destroy(number):
            raise ValueError(f"unable to destroy actor {number}: not found")
    elif index in _COMMANDS:
        _COMMANDS[index](server, number, *payload[1:])
    else:
        raise ValueError(f"the stand-in server has no command {index}")
    return number


def run_batch(server: Server, commands: list[Any]) -> list[Any]:
    """Results of the commands of a batch, each alone."""
    results = []
    for command in commands:
        try:
            results.append(ok(run(server, command)))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            results.append(refused(str(error)))
    return results
