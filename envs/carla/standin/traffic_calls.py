"""Calls about traffic: the client's traffic managers, lights and objects of the town."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.carla.standin.actors import LIGHT
from envs.carla.standin.calls import call
from envs.carla.standin.layouts import GREEN, RED, UNKNOWN, YELLOW

if TYPE_CHECKING:
    from envs.carla.standin.server import Server


@call()
def is_traffic_manager_running(server: Server, port: int) -> bool:
    return port in server.traffic_managers


@call()
def get_traffic_manager_running(server: Server, port: int) -> list[Any]:
    return [server.traffic_managers.get(port, ""), port]


@call()
def add_traffic_manager_running(server: Server, address: list[Any]) -> bool:
    host, port = address
    if port in server.traffic_managers:
        return False
    server.traffic_managers[port] = host
    return True


@call()
def destroy_traffic_manager(server: Server, port: int) -> bool:
    return server.traffic_managers.pop(port, None) is not None


@call("void")
def reset_all_traffic_lights(server: Server) -> None:
    server.world.lights.reset()


@call("void")
def reset_traffic_light_group(server: Server, number: int) -> None:
    server.world.lights.reset_group(_light(server, number))


@call("void")
def freeze_all_traffic_lights(server: Server, frozen: bool) -> None:
    server.world.lights.frozen = frozen


@call("void")
def freeze_traffic_light(server: Server, number: int, frozen: bool) -> None:
    _light(server, number)
    server.world.lights.frozen = frozen  # as in CARLA, one light stops them all


@call("void")
def set_traffic_light_state(server: Server, number: int, state: int) -> None:
    if not RED <= state <= UNKNOWN:
        raise ValueError(f"a traffic light has states 0 to 4, not {state}")
    server.world.lights.set(_light(server, number), state)


def _set_duration(server: Server, number: int, state: int, seconds: float) -> None:
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"a traffic light cannot last {seconds} s")
    server.world.lights.durations[state][_light(server, number)] = seconds


@call("void")
def set_traffic_light_green_time(server: Server, number: int, seconds: float) -> None:
    _set_duration(server, number, GREEN, seconds)


@call("void")
def set_traffic_light_yellow_time(server: Server, number: int, seconds: float) -> None:
    _set_duration(server, number, YELLOW, seconds)


@call("void")
def set_traffic_light_red_time(server: Server, number: int, seconds: float) -> None:
    _set_duration(server, number, RED, seconds)


@call()
def get_group_traffic_lights(server: Server, number: int) -> list[int]:
    actors = server.world.light_actors
    return [actors[light].number for light in server.world.lights.group(_light(server, number))]


@call()
def get_light_boxes(server: Server, number: int) -> list[Any]:
    _light(server, number)
    return [server.world.find(number).box()]


def _light(server: Server, number: int) -> int:
    actor = server.world.find(number)
    if actor.kind != LIGHT:
        raise ValueError(f"actor {number} is no traffic light but {actor.blueprint}")
    return server.world.light_actors.index(actor)


@call()
def query_lights_state(server: Server, client: str) -> list[Any]:
    return []


@call("void")
def update_lights_state(server: Server, client: str, lights: list[Any], discard: bool = False) -> None:
    """The towns have no street lights."""


@call()
def get_environment_objects(server: Server, tag: int = 0xFF) -> list[Any]:
    return []


@call()
def get_all_level_BBs(server: Server, tag: int = 0xFF) -> list[Any]:
    return []


@call()
def get_names_of_all_objects(server: Server) -> list[str]:
    return []


@call("void")
def draw_debug_shape(server: Server, shape: list[Any]) -> None:
    """Nobody looks at the server."""
