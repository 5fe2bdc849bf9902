"""One episode: where the car is on its route, what has happened, and whether it is over. Knows no server."""

from __future__ import annotations

import math
from collections.abc import Sequence

from envs.carla.actions import Pedals
from envs.carla.config import CarlaConfig
from envs.carla.lights import RouteLights
from envs.carla.metrics import TTC_MOST, EpisodeFigures
from envs.carla.rewards import StepFacts
from envs.carla.route import Route, RoutePoint
from envs.carla.scene import Floats, Scene, time_to_collision
from envs.carla.sensors import Impact
from envs.carla.state import LightAhead, Neighbours, neighbours

_ARRIVED = 2.0
"""Way to the end of the route at which it is reached, m."""
_LANE_MARGIN = 0.3
"""How far the middle of the car may be beyond the edge of its lane and still be taken to be in it, m."""
_CAUSE_GAP = 15.0
"""A vehicle or a red light nearer than this is a cause to stand, m."""


class Episode:
    """What is known of the present episode.

    Args:
        config: When it ends.
        route: To be driven.
        lights: Along the route.
        half_size: Of the car, m.
    """

    def __init__(self, config: CarlaConfig, route: Route, lights: RouteLights, half_size: tuple[float, float]) -> None:
        self.config, self.route, self.half_size = config, route, half_size
        self.figures = EpisodeFigures()
        self.pedals = Pedals()
        self.steps = 0
        self.collided_now = False
        self.is_terminated = self.is_truncated = False
        self._lights = lights
        self._farthest = 0.0
        self._stuck_ticks = self._blocked_ticks = 0

    @property
    def is_over(self) -> bool:
        return self.is_terminated or self.is_truncated

    def begin(self, scene: Scene) -> None:
        """Look for the first time."""
        self.route.restart()
        self._look(scene)
        self._start = self._farthest = self.place.along
        self._lights.begin(self.place.along)

    def advance(self, scene: Scene, pedals: Pedals, impacts: Sequence[Impact]) -> StepFacts:
        """Take in a tick.

        Args:
            scene: After it.
            pedals: During it.
            impacts: Collisions of the car in it.
        """
        before, self.collided_now = self.scene, bool(impacts)
        steer_change, self.pedals = pedals.steer - self.pedals.steer, pedals
        self._look(scene)
        figures, config = self.figures, self.config
        for kind in {_kind(impact.other) for impact in impacts}:
            figures.collisions[kind] += 1
        advance = max(0.0, self.place.along - self._farthest)
        self._farthest += advance
        self._count_way(before, scene)
        left_route = abs(self.place.lateral) > config.off_route_metres and not figures.off_route
        red = self._lights.passed_red(self.place.along)
        figures.red_lights += red
        figures.off_route = figures.off_route or left_route
        figures.arrived = self.route.length - self.place.along <= _ARRIVED
        whole = max(self.route.length - _ARRIVED - self._start, 1e-6)
        figures.completion = min((self._farthest - self._start) / whole, 1.0)
        is_stuck = self._is_stuck(scene)
        figures.stuck = figures.stuck or is_stuck
        happened = {
            "collision": bool(impacts),
            "off_route": left_route,
            "red_light": red,
            "stuck": is_stuck,
        }
        self.is_terminated = figures.arrived or any(happened[ending] for ending in config.ends_on)
        along = scene.ego.speed * math.cos(self.place.heading)
        here = self.route.index_at(self.place.along)
        return StepFacts(
            advance=advance,
            route_length=whole,
            speed=along,
            wanted_speed=min(config.target_speed, float(self.route.limit[here])),
            lateral=self.place.lateral,
            half_width=0.5 * float(self.route.width[here]),
            heading=self.place.heading,
            steer_change=steer_change,
            impact_speed=before.ego.speed if impacts else None,
            off_route=left_route,
            red_light=red,
            stuck=is_stuck,
            arrived=figures.arrived,
        )

    def end_step(self) -> None:
        """A step of the environment is done."""
        self.steps += 1
        self.is_truncated = not self.is_terminated and self.steps >= self.config.max_episode_steps

    def cut(self) -> None:
        """The server is lost."""
        self.is_terminated, self.is_truncated = False, True

    def _look(self, scene: Scene) -> None:
        self.scene = scene
        ego = scene.ego
        self.place: RoutePoint = self.route.locate(ego.x, ego.y, ego.yaw)
        self.light: LightAhead = self._lights.ahead(self.place.along)
        self.relative: Floats = scene.relative()
        self.around: Neighbours = neighbours(self.relative, self.route, self.place)
        self.ttc = time_to_collision(self.relative, scene.bodies, self.half_size, TTC_MOST)
        self.figures.ttc_min = min(self.figures.ttc_min, self.ttc)

    def _count_way(self, before: Scene, scene: Scene) -> None:
        way = math.hypot(scene.ego.x - before.ego.x, scene.ego.y - before.ego.y)
        self.figures.driven += way
        half_width = 0.5 * float(self.route.width[self.route.index_at(self.place.along)])
        if abs(self.place.lateral) > half_width + _LANE_MARGIN:
            self.figures.outside += way

    def _is_stuck(self, scene: Scene) -> bool:
        """Whether the car has stood or crawled for too long."""
        config = self.config
        if scene.ego.speed > config.stuck_speed:
            self._stuck_ticks = self._blocked_ticks = 0
            return False
        self._blocked_ticks += 1
        waits = self.around.gap < _CAUSE_GAP or (self.light.redness > 0.0 and self.light.distance < _CAUSE_GAP)
        self._stuck_ticks = 0 if waits else self._stuck_ticks + 1
        seconds = config.tick_seconds
        return (
            self._stuck_ticks * seconds >= config.stuck_seconds
            or self._blocked_ticks * seconds >= config.blocked_seconds
        )


def _kind(blueprint: str) -> str:
    """Vehicle, walker or static."""
    kind = blueprint.partition(".")[0]
    return kind if kind in ("vehicle", "walker") else "static"
