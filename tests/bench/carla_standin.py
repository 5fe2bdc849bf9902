"""The stand-in CARLA server for longer: speed, memory, frames, traffic manager; python -m tests.bench.carla_standin.

Prints one JSON object a line. What runs on the stand-in server is an integration result, never a CARLA result.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carla

from tests.envs.carla.standin.processes import TIMEOUT, standin

_VEHICLE = "vehicle.tesla.model3"


def main(names: list[str]) -> None:
    """Run the named cases, all without a name."""
    for case in CASES:
        if not names or case.__name__ in names:
            for row in case():
                sys.stdout.write(json.dumps({"case": case.__name__, **row}) + "\n")
                sys.stdout.flush()


def _connect(port: int) -> tuple[Any, Any]:
    client = carla.Client("127.0.0.1", port)
    client.set_timeout(TIMEOUT)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    return client, world


def _spawn(world: Any, count: int, role: str = "autopilot") -> list[Any]:
    blueprint = world.get_blueprint_library().find(_VEHICLE)
    blueprint.set_attribute("role_name", role)
    actors: list[Any] = []
    for place in world.get_map().get_spawn_points():
        if len(actors) < count and (actor := world.try_spawn_actor(blueprint, place)) is not None:
            actors.append(actor)
    world.tick(TIMEOUT)
    return actors


def _cpu(pid: int) -> float:
    """CPU seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _megabytes(pid: int | str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024.0


def ticks() -> list[dict[str, Any]]:
    """Ticks per CPU-second of the server, and of client and server together."""
    rows = []
    for cars in (0, 20, 100):
        with standin("--town", "highway") as server:
            _, world = _connect(server.port)
            found = len(_spawn(world, cars))
            for _ in range(100):
                world.tick(TIMEOUT)
            before, own, count = _cpu(server.pid), time.process_time(), 1000
            for _ in range(count):
                world.tick(TIMEOUT)
            used, both = _cpu(server.pid) - before, time.process_time() - own
            row = {"cars": found, "ticks_per_server_cpu_s": count / used, "ticks_per_cpu_s": count / (used + both)}
            rows.append({**row, "server_mb": _megabytes(server.pid)})
    return rows


def sensors() -> list[dict[str, Any]]:
    """Ticks per CPU-second of client and server together with 20 cars and a 64 x 64 camera and a lidar."""
    rows = []
    settings: dict[str, dict[str, str]] = {
        "sensor.camera.rgb": {"image_size_x": "64", "image_size_y": "64"},
        "sensor.camera.semantic_segmentation": {"image_size_x": "128", "image_size_y": "128"},
        "sensor.lidar.ray_cast": {"range": "32", "rotation_frequency": "20", "points_per_second": "60000"},
    }
    camera, masks, lidar = settings
    for chosen in ([camera], [masks], [lidar], [camera, lidar]):
        with standin("--town", "grid") as server:
            _, world = _connect(server.port)
            parent = _spawn(world, 20)[0]
            received: list[int] = []
            kept = []  # the client stops a sensor that nobody refers to
            for name in chosen:
                blueprint = world.get_blueprint_library().find(name)
                for key, value in settings[name].items():
                    blueprint.set_attribute(key, value)
                roof = carla.Transform(carla.Location(x=0.5, z=2.2))
                sensor = world.spawn_actor(blueprint, roof, attach_to=parent)
                sensor.listen(lambda data, received=received: received.append(data.frame))
                kept.append(sensor)
            world.tick(TIMEOUT)
            before, own, count = _cpu(server.pid), time.process_time(), 400
            for _ in range(count):
                world.tick(TIMEOUT)
            used = _cpu(server.pid) - before + time.process_time() - own
            assert len(received) > len(chosen) * count // 2
            for sensor in kept:
                sensor.stop()
            rows.append({"sensors": chosen, "ticks_per_cpu_s": count / used, "server_mb": _megabytes(server.pid)})
    return rows


def frames(count: int = 10_000) -> list[dict[str, Any]]:
    """10,000 ticks with every kind of sensor: frames that did not come, or not with the tick's number."""
    names = ["camera.rgb", "camera.semantic_segmentation", "camera.depth", "lidar.ray_cast", "other.imu", "other.gnss"]
    with standin("--town", "oval") as server:
        _, world = _connect(server.port)
        parent = _spawn(world, 1)[0]
        seen: dict[str, list[int]] = {name: [] for name in names}
        kept = []  # the client stops a sensor that nobody refers to
        for name in names:
            blueprint = world.get_blueprint_library().find(f"sensor.{name}")
            if name.startswith("camera"):
                blueprint.set_attribute("image_size_x", "8")
                blueprint.set_attribute("image_size_y", "8")
            if name.startswith("lidar"):
                blueprint.set_attribute("points_per_second", "2000")
            sensor = world.spawn_actor(blueprint, carla.Transform(), attach_to=parent)
            sensor.listen(lambda data, frames=seen[name]: frames.append(data.frame))
            kept.append(sensor)
        expected = [world.tick(TIMEOUT) for _ in range(count)]
        time.sleep(1.0)
        # The client hands measurements to a pool of threads, which may swap neighbours.
        return [
            {
                "sensor": name,
                "ticks": len(expected),
                "lost": len(set(expected) - set(got)),
                "strange": len(set(got) - set(expected)),
                "swapped": sum(a > b for a, b in itertools.pairwise(got)),
            }
            for name, got in seen.items()
        ]


def fresh_cameras() -> list[dict[str, Any]]:
    """Of 200 fresh cameras, how many lose their first frame."""
    with standin("--town", "oval") as server:
        _, world = _connect(server.port)
        parent, lost = _spawn(world, 1)[0], 0
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        blueprint.set_attribute("image_size_x", "8")
        blueprint.set_attribute("image_size_y", "8")
        for _ in range(200):
            received: list[int] = []
            camera = world.spawn_actor(blueprint, carla.Transform(), attach_to=parent)
            camera.listen(lambda data, received=received: received.append(data.frame))
            frame, end = world.tick(TIMEOUT), time.monotonic() + 5.0
            while not received and time.monotonic() < end:
                time.sleep(0.001)
            lost += received[:1] != [frame]
            camera.stop()
            camera.destroy()
        return [{"cameras": 200, "lost": lost}]


def episodes() -> list[dict[str, Any]]:
    """Memory of client and server over 500 episodes that spawn cars and sensors anew."""
    rows = []
    with standin("--town", "oval") as server:
        client, world = _connect(server.port)
        library = world.get_blueprint_library()
        camera = library.find("sensor.camera.rgb")
        camera.set_attribute("image_size_x", "64")
        camera.set_attribute("image_size_y", "64")
        for episode in range(501):
            cars = _spawn(world, 3)
            sensor = world.spawn_actor(camera, carla.Transform(), attach_to=cars[0])
            sensor.listen(lambda data: None)
            for _ in range(5):
                world.tick(TIMEOUT)
            sensor.stop()
            client.apply_batch_sync([carla.command.DestroyActor(actor) for actor in [sensor, *cars]], True)
            if episode % 100 == 0:
                rows.append({"episode": episode, "client_mb": _megabytes("self"), "server_mb": _megabytes(server.pid)})
    return rows


def traffic_manager() -> list[dict[str, Any]]:
    """Three cars of the client's TrafficManager, in a process of its own with a time limit and one retry."""
    with standin("--town", "oval") as server:
        for attempt in (1, 2):
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=_drive_by_manager, args=(server.port, queue), daemon=True)
            process.start()
            process.join(240.0)
            if process.exitcode == 0:
                return [{"attempt": attempt, **queue.get(timeout=10.0)}]
            process.kill()
            process.join()
    return [{"attempt": 2, "error": "the traffic manager froze twice"}]


def _drive_by_manager(port: int, queue: Any) -> None:
    client, world = _connect(port)
    manager = client.get_trafficmanager(0)
    manager.set_synchronous_mode(True)
    manager.set_random_device_seed(0)
    cars = _spawn(world, 3, role="default")
    for car in cars:
        car.set_autopilot(True, manager.get_port())
    farthest, town = 0.0, world.get_map()
    for step in range(300):
        world.tick(TIMEOUT)
        if step > 50:
            places = [car.get_location() for car in cars]
            gaps = [town.get_waypoint(place).transform.location.distance(place) for place in places]
            farthest = max(farthest, *gaps)
    speeds = [car.get_velocity().length() for car in cars]
    queue.put({"ticks": 300, "farthest_from_lane_m": farthest, "speeds_m_s": speeds})


CASES: list[Callable[[], list[dict[str, Any]]]] = [
    ticks,
    sensors,
    fresh_cameras,
    frames,
    episodes,
    traffic_manager,
]

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(sys.argv[1:])
