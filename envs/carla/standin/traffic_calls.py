"""Calls about traffic: the client's traffic managers, lights and objects of the town."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.carla.standin.calls import call

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
    """No town has lights yet."""


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
