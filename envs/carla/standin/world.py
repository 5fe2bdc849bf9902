"""The state of one episode: actors, their motion and their collisions, step by step."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.carla.pose import Pose
from envs.carla.standin.actors import LIGHT, PROP, SENSOR, SIGN, SPECTATOR, TAGS, VEHICLE, WALKER, Actor
from envs.carla.standin.blueprints import PROPS, VEHICLES, WALKER_HALF_SIZE
from envs.carla.standin.collisions import Body, Boxes, Contact, contacts, overlap, part
from envs.carla.standin.geometry import compose
from envs.carla.standin.layouts import DEFAULT_WEATHER, NO_TOKEN
from envs.carla.standin.lights import Light, LightCycle
from envs.carla.standin.towns import Town
from envs.carla.standin.vehicles import Control, Vehicles
from envs.carla.standin.walkers import MASS as WALKER_MASS
from envs.carla.standin.walkers import Walker

Floats = NDArray[np.float64]

AUTOPILOT = "autopilot"
"""Role name of vehicles that the server drives."""


@dataclass(frozen=True)
class Hit:
    """A collision that a sensor tells of: impulse in newton seconds on the first actor."""

    actor: Actor
    other: Actor
    impulse: tuple[float, float, float]


class World:
    """One episode on one town; the same calls with the same seed give the same states.

    Args:
        town: The map.
        seed: Of all that is random.
        first_number: The first actor's id.
        frame: Steps that the server has made before.
    """

    def __init__(self, town: Town, seed: int, first_number: int = 1, frame: int = 0) -> None:
        self.town, self.seed = town, seed
        self.frame, self.seconds, self.delta = frame, 0.0, 0.0
        self.weather = list(DEFAULT_WEATHER)
        self.actors: dict[int, Actor] = {}
        self.vehicles = Vehicles()
        self.vehicle_actors: list[Actor] = []
        self.hits: list[Hit] = []
        self.next_number = first_number
        self.version = 0
        """Changes when actors come or go."""
        self.traffic = town.roads.traffic(town.lights.gate)
        self.lights = LightCycle(town.lights)
        self._drivers: list[Actor] = []
        self._walkers: list[Walker] = []
        self._nearest = np.zeros(0, np.int64)
        self._located = -1
        self.spectator = self._register(SPECTATOR, [0, "spectator", []], Pose(z=20.0, pitch=-60.0))
        self.light_actors = [self._register_light(light) for light in town.lights.lights]

    # Coming and going.

    def _register_light(self, light: Light) -> Actor:
        """The actor of a traffic light; its box is the stop line, in its own frame."""
        actor = self._register(LIGHT, [0, "traffic.traffic_light", []], light.pose, None, (light.half_width, 1.0, 1.0))
        x, y, z, _ = light.line
        turned = math.radians(light.pose.yaw)
        dx, dy = x - light.pose.x, y - light.pose.y
        along = dx * math.cos(turned) + dy * math.sin(turned)
        across = dy * math.cos(turned) - dx * math.sin(turned)
        actor.box_pose = Pose(along, across, z - light.pose.z + 1.0, 0.0, 0.0, 0.0)
        return actor

    def spawn(self, description: list[Any], pose: Pose, parent: int = 0) -> Actor:
        """A new actor.

        Args:
            description: uid, blueprint, attributes.
            pose: Relative to the parent where there is one.
            parent: Id of the actor that it is fixed to, 0 for none.

        Raises:
            ValueError: There is no such blueprint or parent, or the place is taken.
        """
        blueprint = description[1]
        owner = self._find(parent) if parent else None
        if blueprint in VEHICLES:
            return self._spawn_vehicle(description, pose)
        if blueprint.startswith("sensor."):
            return self._register(SENSOR, description, pose, owner)
        if blueprint.startswith("walker."):
            self._refuse_taken(pose, WALKER_HALF_SIZE)
            actor = self._register(WALKER, description, pose, None, WALKER_HALF_SIZE)
            self._walkers.append(Walker(actor))
            return actor
        if blueprint in PROPS:
            return self._register(PROP, description, pose, owner, PROPS[blueprint])
        if blueprint == "controller.ai.walker":
            raise ValueError(
                "controller.ai.walker needs a navigation mesh, which the stand-in server has not; "
                "move walkers with carla.WalkerControl"
            )
        raise ValueError(f"the stand-in server cannot spawn {blueprint!r}")

    def _spawn_vehicle(self, description: list[Any], pose: Pose) -> Actor:
        model = VEHICLES[description[1]]
        self._refuse_taken(pose, model.half_size)
        actor = self._register(VEHICLE, description, pose, None, model.half_size)
        actor.row = self.vehicles.add(model, pose, self.ground(pose))
        self.vehicle_actors.append(actor)
        self.vehicles.limit[actor.row] = self._limit(pose)
        if actor.attributes.get("role_name") == AUTOPILOT:
            self.set_autopilot(actor.number, True)
        return actor

    def set_autopilot(self, number: int, enabled: bool) -> None:
        """Let the server drive a vehicle, or no longer."""
        actor = self.actors[number]
        if actor in self._drivers:
            self._drivers.remove(actor)
            self.traffic.remove(number)
        if enabled:
            self._drivers.append(actor)
            self.traffic.add(number, self._driver_seed(actor))

    def _driver_seed(self, actor: Actor) -> int:
        """Depends on where a driver begins and not on what came before, so that an episode can be played again."""
        pose = self.pose(actor)
        place = f"{pose.x:.2f} {pose.y:.2f} {pose.yaw:.1f} {actor.blueprint} {self.seed}"
        return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "little")

    def _register(
        self,
        kind: str,
        description: list[Any],
        pose: Pose,
        parent: Actor | None = None,
        half_size: tuple[float, float, float] | None = None,
    ) -> Actor:
        actor = Actor(self.next_number, kind, description, pose, half_size, parent, NO_TOKEN, tag=TAGS.get(kind, 0))
        color = actor.attributes.get("color")
        if color:
            actor.color = _color(color)
        self.next_number += 1
        self.actors[actor.number] = actor
        if parent is not None:
            parent.children.append(actor)
        self.version += 1
        return actor

    def destroy(self, number: int) -> list[Actor]:
        """Take an actor and what is fixed to it out of the world; returns those, none where there is no such actor."""
        actor = self.actors.get(number)
        if actor is None or actor.kind in (SPECTATOR, LIGHT, SIGN):
            return []
        gone = [actor]
        for child in list(actor.children):
            gone += self.destroy(child.number)
        if actor.parent is not None:
            actor.parent.children.remove(actor)
        if actor.kind == VEHICLE:
            self.set_autopilot(number, False)
            self.vehicles.remove(actor.row)
            self.vehicle_actors.remove(actor)
            for row, other in enumerate(self.vehicle_actors):
                other.row = row
        self._walkers = [walker for walker in self._walkers if walker.actor is not actor]
        del self.actors[number]
        self.version += 1
        return gone

    def _refuse_taken(self, pose: Pose, half_size: tuple[float, float, float]) -> None:
        boxes = self._boxes(extra=(pose, half_size))
        last = len(boxes.x) - 1
        reach = np.hypot(boxes.length, boxes.width)
        gap = np.hypot(boxes.x - pose.x, boxes.y - pose.y)
        near = np.nonzero(gap < reach + reach[last])[0].tolist()
        for row in near:
            apart = boxes.low[row] >= boxes.high[last] or boxes.low[last] >= boxes.high[row]
            if row != last and not apart and overlap(boxes, row, last) is not None:
                raise ValueError("Spawn failed because of collision at spawn position")

    # Looking.

    def find(self, number: int) -> Actor:
        """The actor of a number; ValueError where there is none."""
        return self._find(number)

    def _find(self, number: int) -> Actor:
        actor = self.actors.get(number)
        if actor is None:
            raise ValueError(f"unable to find actor {number}")
        return actor

    def vehicle(self, number: int) -> int:
        """The row of a vehicle; ValueError where there is none of this number."""
        actor = self._find(number)
        if actor.kind != VEHICLE:
            raise ValueError(f"actor {number} is no vehicle but {actor.blueprint}")
        return actor.row

    def pose(self, actor: Actor) -> Pose:
        """Where an actor is in the world."""
        if actor.kind == VEHICLE:
            v, row = self.vehicles, actor.row
            return Pose(
                float(v.x[row]),
                float(v.y[row]),
                float(v.z[row]),
                math.degrees(v.pitch[row]),
                (math.degrees(v.yaw[row]) + 180.0) % 360.0 - 180.0,
                math.degrees(v.roll[row]),
            )
        return actor.pose if actor.parent is None else compose(self.pose(actor.parent), actor.pose)

    def velocity(self, actor: Actor) -> tuple[float, float, float]:
        """Metres per second in the world."""
        body = actor.parent or actor
        if body.kind == VEHICLE:
            v, row = self.vehicles, body.row
            return float(v.velocity_x[row]), float(v.velocity_y[row]), float(v.up[row])
        if body.kind == WALKER:
            return self.walker(body.number).velocity
        return 0.0, 0.0, 0.0

    def walker(self, number: int) -> Walker:
        """The walker of a number; ValueError where there is none."""
        for walker in self._walkers:
            if walker.actor.number == number:
                return walker
        raise ValueError(f"actor {number} is no walker")

    def motion(self, actor: Actor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Acceleration, m/s^2, and turning, rad/s, in the world."""
        body = actor.parent or actor
        if body.kind != VEHICLE:
            return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        v, row = self.vehicles, body.row
        acceleration = float(v.acceleration_x[row]), float(v.acceleration_y[row]), float(v.acceleration_z[row])
        return acceleration, (0.0, 0.0, float(v.yaw_rate[row]))

    def ground(self, pose: Pose) -> float:
        """Height of the ground, metres."""
        if self.town.is_flat:
            return 0.0
        near = self._near(pose)
        return float(self.town.roads.point[near, 2]) if near >= 0 else 0.0

    def _near(self, pose: Pose) -> int:
        x, y, yaw = (np.array([value]) for value in (pose.x, pose.y, math.radians(pose.yaw)))
        return int(self.traffic.nearest(x, y, yaw, use_yaw=True)[0])

    def _limit(self, pose: Pose) -> float:
        near = self._near(pose)
        return float(self.town.roads.limit[self.town.roads.point_lane[near]]) * 3.6 if near >= 0 else 30.0

    # Acting.

    def control(self, number: int, control: Control) -> None:
        """Drive a vehicle; the server stops to drive it."""
        self.vehicles.control(self.vehicle(number), control)
        if self.actors[number] in self._drivers:
            self.set_autopilot(number, False)

    def ackermann(self, number: int, steer: float, speed: float) -> None:
        """Drive at a steering angle in radians and toward a speed in m/s, for the coming step."""
        row, v = self.vehicle(number), self.vehicles
        gap = abs(speed) - abs(float(v.forward[row]))
        share = min(1.0, max(-1.0, 0.5 * gap))
        turned = steer / float(v.max_steer[row])
        self.control(number, Control(max(0.0, share), turned, max(0.0, -share), reverse=speed < 0))

    def move(self, number: int, pose: Pose) -> None:
        """Put an actor elsewhere."""
        actor = self._find(number)
        if actor.kind == VEHICLE:
            self.vehicles.place(actor.row, pose, self.ground(pose))
            self.vehicles.limit[actor.row] = self._limit(pose)
        else:
            actor.pose = pose

    # Time.

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self.hits = []
        self.lights.step(seconds)
        v = self.vehicles
        if self._drivers:
            rows = np.array([actor.row for actor in self._drivers])
            green = self.lights.is_green()
            self.traffic.step(v.table, v.count, rows, self.nearest, self._obstacles(), green, seconds)
        v.step(seconds)
        for walker in self._walkers:
            walker.step(seconds, self.ground(walker.actor.pose))
        self._collide()
        self._locate()
        self.frame += 1
        self.seconds += seconds
        self.delta = seconds

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Lane point of each vehicle, -1 for none near."""
        if self._located != self.version:
            self._locate()
        return self._nearest

    def _locate(self) -> None:
        """Find the vehicles on the lanes: limit, height of the ground and its slope."""
        v, roads = self.vehicles, self.town.roads
        near = self._nearest = self.traffic.nearest(v.x, v.y, v.yaw, use_yaw=True)
        self._located = self.version
        v.limit[:] = roads.limit[roads.point_lane[near]] * 3.6  # off the roads: of some lane
        if not self.town.is_flat:
            on_road = near >= 0
            v.ground[:] = np.where(on_road, roads.point[near, 2], v.ground)
            slope = roads.slope[near] * np.cos(v.yaw - roads.yaw[near])
            v.pitch[:] = np.where(on_road & (v.z <= v.ground + 0.05), np.arctan(slope), 0.0)

    def _obstacles(self) -> Floats:
        """What drivers see beside the vehicles: [N, 5] x, y, velocity and radius."""
        rows = []
        for actor in self._props():
            pose, (length, width, _) = actor.pose, actor.half_size or WALKER_HALF_SIZE
            rows.append((pose.x, pose.y, *self.velocity(actor)[:2], max(length, width)))
        return np.array(rows, np.float64).reshape(-1, 5)

    def _props(self) -> list[Actor]:
        return [actor for actor in self.actors.values() if actor.kind in (PROP, WALKER)]

    def _boxes(self, extra: tuple[Pose, tuple[float, float, float]] | None = None) -> Boxes:
        v = self.vehicles
        rows = [(actor.pose, actor.half_size or WALKER_HALF_SIZE) for actor in self._props()]
        if extra is not None:
            rows.append(extra)
        if not rows:
            return Boxes(v.x, v.y, v.yaw, v.half_length, v.half_width, v.z, v.z + 2 * v.half_height)
        # A walker's origin is in its middle, those of the others are on the ground.
        lift = [size[2] if size == WALKER_HALF_SIZE else 0.0 for _, size in rows]
        more = np.array([[p.x, p.y, math.radians(p.yaw), size[0], size[1], p.z, 2 * size[2]] for p, size in rows]).T
        more[5] -= lift
        return Boxes(
            np.concatenate([v.x, more[0]]),
            np.concatenate([v.y, more[1]]),
            np.concatenate([v.yaw, more[2]]),
            np.concatenate([v.half_length, more[3]]),
            np.concatenate([v.half_width, more[4]]),
            np.concatenate([v.z, more[5]]),
            np.concatenate([v.z + 2 * v.half_height, more[5] + more[6]]),
        )

    def _collide(self) -> None:
        boxes = self._boxes()
        for contact in contacts(boxes, self.vehicles.count):
            self._resolve(contact)

    def _resolve(self, contact: Contact) -> None:
        actors = self.vehicle_actors + self._props()
        one, two = actors[contact.first], actors[contact.second]
        if not (one.collides and two.collides):
            return
        bodies = self._body(one), self._body(two)
        size = part(contact, *bodies)
        nx, ny = contact.normal
        movable = [body.inverse_mass for body in bodies]
        total = sum(movable) or 1.0
        for actor, body, share, sign in ((one, bodies[0], movable[0], -1.0), (two, bodies[1], movable[1], 1.0)):
            if actor.kind == VEHICLE:
                v, row = self.vehicles, actor.row
                v.x[row] += sign * nx * contact.depth * share / total
                v.y[row] += sign * ny * contact.depth * share / total
                v.push(row, body.velocity_x, body.velocity_y)
                v.yaw_rate[row] = body.rate
            elif actor.kind == WALKER:
                moved = sign * contact.depth * share / total
                self.walker(actor.number).push(nx * moved, ny * moved, body.velocity_x, body.velocity_y)
        self.hits.append(Hit(one, two, (-nx * size, -ny * size, 0.0)))
        self.hits.append(Hit(two, one, (nx * size, ny * size, 0.0)))

    def _body(self, actor: Actor) -> Body:
        if actor.kind != VEHICLE:
            x, y, _ = self.velocity(actor)
            return Body(actor.pose.x, actor.pose.y, x, y, 0.0, 1.0 / WALKER_MASS if actor.kind == WALKER else 0.0, 0.0)
        v, row = self.vehicles, actor.row
        moves = float(v.physics[row] > 0)
        return Body(
            float(v.x[row]),
            float(v.y[row]),
            float(v.velocity_x[row]),
            float(v.velocity_y[row]),
            float(v.yaw_rate[row]),
            moves / float(v.mass[row]),
            moves / float(v.inertia[row]),
        )


def _color(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(part) for part in text.split(","))
    except ValueError:
        return 150, 150, 150
    return red, green, blue
