"""A world in synchronous mode for the tests of the protocol: on the stand-in server, or on a real one.

With CARLA_HOST (and CARLA_PORT, 2000 by default) set, the tests of test_contract.py run on that server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.envs.carla.standin.processes import TIMEOUT, standin

try:
    import carla
except ImportError:  # without worldfleet[carla] there is nothing to talk with
    collect_ignore_glob = ["test_*.py"]

DELTA = 0.05
VEHICLE = "vehicle.tesla.model3"


@dataclass
class Site:
    """A client and its world; `close` removes what was spawned."""

    client: Any
    world: Any
    address: tuple[str, int]
    is_real: bool

    def vehicle(self, spawn: int = 0, **attributes: str) -> Any:
        """A vehicle at one of the recommended places, settled on the road."""
        blueprint = self.world.get_blueprint_library().find(VEHICLE)
        for name, value in attributes.items():
            blueprint.set_attribute(name, value)
        actor = self.world.spawn_actor(blueprint, self.world.get_map().get_spawn_points()[spawn])
        self.tick(3)
        return actor

    def sensor(self, name: str, parent: Any, transform: Any = None, **attributes: object) -> tuple[Any, list[Any]]:
        """A listening sensor and the list that its measurements go to."""
        blueprint = self.world.get_blueprint_library().find(name)
        for key, value in attributes.items():
            blueprint.set_attribute(key, str(value))
        actor = self.world.spawn_actor(blueprint, transform or carla.Transform(), attach_to=parent)
        received: list[Any] = []
        actor.listen(received.append)
        return actor, received

    def tick(self, count: int = 1) -> int:
        """Let time pass; the frame."""
        frame = 0
        for _ in range(count):
            frame = self.world.tick(TIMEOUT)
        return frame

    def clear(self) -> None:
        """Remove every actor that a client has spawned."""
        self.tick()  # what was spawned since the last one is in no snapshot yet
        actors = self.world.get_actors()
        mine = [a for a in actors if a.type_id.split(".")[0] in ("vehicle", "walker", "sensor", "controller")]
        mine += [a for a in actors if a.type_id.startswith("static.prop")]
        for actor in mine:
            if hasattr(actor, "stop") and actor.type_id.startswith("sensor"):
                actor.stop()
        self.client.apply_batch_sync([carla.command.DestroyActor(actor) for actor in mine], True)


@pytest.fixture(scope="session")
def address() -> Iterator[tuple[str, int]]:
    """Host and port of the server under test."""
    if os.environ.get("CARLA_HOST"):
        yield os.environ["CARLA_HOST"], int(os.environ.get("CARLA_PORT", "2000"))
        return
    with standin("--town", "grid") as server:
        yield "127.0.0.1", server.port


@pytest.fixture(scope="session")
def shared_site(address: tuple[str, int]) -> Iterator[Site]:
    """One client for all tests of a process."""
    client = carla.Client(*address)
    client.set_timeout(TIMEOUT)
    world = client.get_world()
    before = world.get_settings()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, DELTA
    world.apply_settings(settings)
    yield Site(client, world, address, bool(os.environ.get("CARLA_HOST")))
    world.apply_settings(before)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """A world without actors of an earlier test."""
    yield shared_site
    shared_site.clear()
