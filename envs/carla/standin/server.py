"""The server: clients, ticks and streams around one world, in one thread.

What runs on it is an integration result, never a CARLA result.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envs.carla.pose import Pose
from envs.carla.standin import actor_calls, episode_calls, traffic_calls
from envs.carla.standin.actors import PROP, SENSOR, VEHICLE, Actor
from envs.carla.standin.calls import CALLS
from envs.carla.standin.connection import Connection, Reply
from envs.carla.standin.faults import Fault, Faults
from envs.carla.standin.layouts import (
    DEFAULT_SETTINGS,
    EPISODE_STREAM,
    MAP_CHANGED,
    SENSOR_TYPES,
    VERSION,
    refused,
    token,
)
from envs.carla.standin.scenery import Scenery
from envs.carla.standin.sensors.rig import Rig
from envs.carla.standin.snapshot import Snapshots
from envs.carla.standin.streams import Streams
from envs.carla.standin.towns import Town, load_town, try_town
from envs.carla.standin.world import Hit, World

logger = logging.getLogger(__name__)

assert actor_calls
assert episode_calls
assert traffic_calls

_FREE_DELTA = 0.05
"""Seconds of a step without a fixed one."""
_PENDING_SECONDS = 1.0
"""How long a step waits for the subscriptions that are under way."""
OPENDRIVE_MAP = "OpenDriveMap"


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs.

    Args:
        host: Address to listen on.
        port: Of the calls, 0 for a free one.
        seed: Of all that is random.
        threads: That cast rays.
        version: That the server claims to be.
        faults: What goes wrong.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    threads: int = 1
    version: str = VERSION
    faults: tuple[Fault, ...] = ()


class Server:
    """A headless server of CARLA's protocol.

    Args:
        town: The first map.
        options: See there.
    """

    def __init__(self, town: Town, options: ServerOptions) -> None:
        self.options = options
        self.settings = list(DEFAULT_SETTINGS)
        self._faults = Faults(options.faults)
        self._fresh: list[Actor] = []
        self._scenery: dict[str, Scenery] = {}
        self.streams = Streams(self._subscribed)
        self.traffic_managers: dict[int, str] = {}
        self.episode = 0
        self._connections: set[Connection] = set()
        self._waiting: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._kept_opendrive: Town | None = None
        self._next_stream = EPISODE_STREAM + 1
        self._rpc: asyncio.Server | None = None
        self._reached = "127.0.0.1"
        self.port = 0
        self._begin(town, town.name, World(town, options.seed))

    # Life.

    async def open(self) -> None:
        """Listen; OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        await self.streams.open(self.options.host)
        self._rpc = await loop.create_server(self._connection, self.options.host, self.options.port)
        self.port = self._rpc.sockets[0].getsockname()[1]
        self._run_free()

    def close(self) -> None:
        """Let every client go."""
        if self._timer is not None:
            self._timer.cancel()
        if self._rpc is not None:
            self._rpc.close()
        for connection in list(self._connections):
            connection.transport.abort()
        self.streams.close()

    def _connection(self) -> Connection:
        return Connection(self._handle, self._connections.add, self._connections.discard)

    def stream_address(self) -> tuple[str, int]:
        """Where the client of the present call subscribes to streams."""
        return self._reached, self.streams.port

    # Calls.

    def _handle(self, connection: Connection, method: str, arguments: list[Any], reply: Reply) -> None:
        self._reached = connection.address
        if method == "tick_cue":
            self._when_subscribed(lambda: reply([[1, self.step()]]))
        elif method == "apply_batch":
            commands, do_tick = arguments
            results = actor_calls.run_batch(self, commands)
            if do_tick:
                self._when_subscribed(lambda: self._step_and_reply(reply, results))
            else:
                reply(results)
        elif method in CALLS:
            reply(CALLS[method](self, arguments))
        else:
            logger.debug("unknown call %s", method)
            reply(refused(f"the stand-in server has no call {method!r}"))

    def _step_and_reply(self, reply: Reply, results: list[Any]) -> None:
        self.step()
        reply(results)

    def _when_subscribed(self, action: Callable[[], None]) -> None:
        """Act when no subscription is under way any more, or after a second."""
        if not self.streams.pending and not self._waiting:
            action()
            return
        self._waiting.append(action)
        asyncio.get_running_loop().call_later(_PENDING_SECONDS, self._give_up, action)

    def _subscribed(self, stream: int) -> None:
        if stream == EPISODE_STREAM:
            self.streams.send(EPISODE_STREAM, self._snapshots.pack())
        if not self.streams.pending:
            self._act()

    def _give_up(self, action: Callable[[], None]) -> None:
        if action in self._waiting:
            logger.warning("streams %s were asked for and not subscribed to", sorted(self.streams.pending))
            self.streams.pending.clear()
            self._act()

    def _act(self) -> None:
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()

    # Time.

    @property
    def delta(self) -> float:
        """Seconds of the next step."""
        fixed = self.settings[2]
        return float(fixed[1]) if fixed[0] and fixed[1] > 0 else _FREE_DELTA

    def step(self) -> int:
        """Let time pass and tell those who listen; returns the frame."""
        self._faults.before_step(self.world.frame + 1)
        self.world.step(self.delta)
        self._collide_fresh()
        self.streams.send(EPISODE_STREAM, self._snapshots.pack())
        self._measure()
        return self.world.frame

    def _collide_fresh(self) -> None:
        """The fault that new vehicles report a collision with the ground."""
        for actor in self._fresh:
            if actor.number in self.world.actors and self._faults.happens("first_tick_collision", self.world.frame):
                ground = Actor(0, PROP, [0, "static.road", []], Pose())
                self.world.hits.append(Hit(actor, ground, (0.0, 0.0, 1000.0)))
        self._fresh.clear()

    def apply_settings(self, settings: list[Any]) -> None:
        """Change between steps at the clients' word and steps by the clock, and their length."""
        fixed = settings[2]
        if fixed[0] and not 0 <= fixed[1] <= 10:
            raise ValueError(f"fixed_delta_seconds must be in [0, 10], not {fixed[1]}")
        self.settings = settings
        self._run_free()

    def _run_free(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.settings[0]:
            self._timer = asyncio.get_running_loop().call_later(self.delta, self._free_step)

    def _free_step(self) -> None:
        self._timer = None
        self.step()
        self._run_free()

    # Worlds.

    def _begin(self, town: Town, map_name: str, world: World) -> None:
        self.town, self.map_name, self.world = town, map_name, world
        self.episode += 1
        self._snapshots = Snapshots(world, self.episode)
        self._rig = Rig(world, self._paint)

    def _paint(self) -> Scenery:
        """What rays meet in this town: kept for the next episode on it, but not beside that of another."""
        if self.town.xodr not in self._scenery:
            self._scenery = {self.town.xodr: Scenery(self.town, self.options.threads)}
        return self._scenery[self.town.xodr]

    def keep_opendrive(self, xodr: str) -> None:
        """Remember the OpenDRIVE that the next episode is made of."""
        self._kept_opendrive = try_town(OPENDRIVE_MAP, xodr)

    def load(self, name: str, reset_settings: bool) -> None:
        """Begin a new episode; ValueError where there is no such town."""
        short = name.rsplit("/", 1)[-1] or self.map_name
        if short == OPENDRIVE_MAP:
            if self._kept_opendrive is None:
                raise ValueError("no OpenDRIVE has been sent for OpenDriveMap")
            town = self._kept_opendrive
        else:
            town = self.town if short == self.map_name else load_town(short)
        for actor in self.world.actors.values():
            self._forget(actor)
        self._fresh.clear()
        old = self.world
        self._begin(town, short, World(town, self.options.seed, old.next_number, old.frame))
        if reset_settings:
            self.settings = list(DEFAULT_SETTINGS)
            self._run_free()
        self.world.step(self.delta)
        self.streams.send(EPISODE_STREAM, self._snapshots.pack(MAP_CHANGED))

    # Actors.

    def spawn(self, description: list[Any], pose: Pose, parent: int = 0) -> Actor:
        """A new actor; a sensor gets a stream."""
        if description[1].startswith("vehicle.") and self._faults.happens("refuse_spawn", self.world.frame):
            raise ValueError("Spawn failed because of --fault refuse_spawn")
        actor = self.world.spawn(description, pose, parent)
        if actor.kind == VEHICLE:
            self._fresh.append(actor)
        if actor.kind == SENSOR and actor.blueprint in SENSOR_TYPES:
            try:
                self._rig.add(actor)
            except ValueError:
                self.world.destroy(actor.number)
                raise
            actor.token = token(self._next_stream, self.stream_address())
            self._next_stream += 1
        return actor

    def destroy(self, number: int) -> bool:
        """Whether there was such an actor."""
        gone = self.world.destroy(number)
        for actor in gone:
            self._forget(actor)
        return bool(gone)

    def _forget(self, actor: Actor) -> None:
        self._rig.remove(actor.number)
        if actor.token:
            self.streams.forget(_stream(actor))

    def _measure(self) -> None:
        if self._faults.happens("drop", self.world.frame):
            return
        for actor, parts in self._rig.measure(lambda actor: self.streams.wanted(_stream(actor))):
            self.streams.send(_stream(actor), *parts)


def _stream(actor: Actor) -> int:
    (number,) = struct.unpack_from("<I", actor.token)
    return int(number)
