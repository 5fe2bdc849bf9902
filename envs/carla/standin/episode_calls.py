"""Calls about the server, the episode, its map, its settings and its weather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.carla.standin.calls import call
from envs.carla.standin.layouts import DEFAULT_SETTINGS, EPISODE_STREAM, token, transform
from envs.carla.standin.town_files import town_names

if TYPE_CHECKING:
    from envs.carla.standin.server import Server


@call()
def version(server: Server) -> str:
    return server.options.version


@call()
def get_episode_info(server: Server) -> list[Any]:
    return [server.episode, [token(EPISODE_STREAM, server.stream_address())]]


@call()
def get_sensor_token(server: Server, stream: int) -> list[Any]:
    server.streams.expect(stream)
    return [token(stream, server.stream_address())]


@call()
def get_episode_settings(server: Server) -> list[Any]:
    return server.settings


@call()
def set_episode_settings(server: Server, settings: list[Any]) -> int:
    if len(settings) != len(DEFAULT_SETTINGS):
        raise ValueError(f"settings of CARLA 0.9.16 have {len(DEFAULT_SETTINGS)} fields, not {len(settings)}")
    server.apply_settings(settings)
    return server.world.frame


@call()
def get_required_files(server: Server, folder: str = "", download: bool = True) -> list[str]:
    return []


@call()
def request_file(server: Server, name: str) -> bytes:
    raise ValueError(f"the stand-in server has no file {name!r}")


@call()
def get_map_info(server: Server) -> list[Any]:
    return [f"Carla/Maps/{server.map_name}", [transform(pose) for pose in server.town.spawn_points]]


@call()
def get_map_data(server: Server) -> str:
    return server.town.xodr


@call()
def get_navigation_mesh(server: Server) -> bytes:
    return b""


@call()
def get_available_maps(server: Server) -> list[str]:
    return [f"Carla/Maps/{name}" for name in town_names()]


@call("void")
def load_new_episode(server: Server, name: str, reset_settings: bool = True, layers: int = 0xFFFF) -> None:
    server.load(name, reset_settings)


@call("void")
def copy_opendrive_to_file(server: Server, xodr: str, parameters: list[Any]) -> None:
    server.keep_opendrive(xodr)


@call()
def get_weather_parameters(server: Server) -> list[float]:
    return server.world.weather


@call("void")
def set_weather_parameters(server: Server, weather: list[float]) -> None:
    if len(weather) != len(server.world.weather):
        raise ValueError(f"weather has {len(server.world.weather)} numbers, not {len(weather)}")
    server.world.weather = [float(value) for value in weather]


@call("void")
def load_map_layer(server: Server, layers: int) -> None:
    """The towns have no layers."""


@call("void")
def unload_map_layer(server: Server, layers: int) -> None:
    """The towns have no layers."""
