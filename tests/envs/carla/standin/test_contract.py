"""What an environment needs of a server, asked with CARLA's own unmodified client.

The same tests run on a real server: CARLA_HOST=... pytest tests/envs/carla/standin/test_contract.py. On the stand-in
server they are integration tests, and say nothing about CARLA.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from tests.envs.carla.standin.conftest import DELTA, VEHICLE, Site
from tests.envs.carla.standin.processes import TIMEOUT

carla = pytest.importorskip("carla", reason="needs worldfleet[carla]")


def _wait(received: list[Any], count: int) -> None:
    """Measurements come on a thread of the client."""
    end = time.monotonic() + TIMEOUT
    while len(received) < count and time.monotonic() < end:
        time.sleep(0.002)
    assert len(received) >= count


def _speed(actor: Any) -> float:
    return float(actor.get_velocity().length())


def test_versions_agree_and_maps_are_listed(site: Site) -> None:
    assert site.client.get_server_version() == site.client.get_client_version() == "0.9.16"
    town = site.world.get_map().name
    assert town in {name.removeprefix("/Game/") for name in site.client.get_available_maps()}


def test_ticks_count_frames_by_one_and_carry_the_step(site: Site) -> None:
    first = site.tick()
    for i in range(1, 6):
        assert site.tick() == first + i
        snapshot = site.world.get_snapshot()
        assert snapshot.frame == first + i
        assert snapshot.timestamp.delta_seconds == pytest.approx(DELTA)
    assert site.world.get_settings().synchronous_mode


def test_without_synchronous_mode_time_passes_by_itself(site: Site) -> None:
    settings = site.world.get_settings()
    settings.synchronous_mode = False
    site.world.apply_settings(settings)
    first = site.world.wait_for_tick(TIMEOUT).frame
    assert site.world.wait_for_tick(TIMEOUT).frame > first
    settings.synchronous_mode = True
    site.world.apply_settings(settings)


def test_the_map_has_lanes_and_places_to_spawn(site: Site) -> None:
    town = site.world.get_map()
    assert town.get_topology()
    for pose in town.get_spawn_points()[:20]:
        near = town.get_waypoint(pose.location)
        assert near.transform.location.distance(pose.location) < 1.5
        turned = math.cos(math.radians(near.transform.rotation.yaw - pose.rotation.yaw))
        assert turned > 0.9, "a spawn point looks along its lane"


def test_blueprints_have_attributes_that_are_kept(site: Site) -> None:
    library = site.world.get_blueprint_library()
    assert len(library.filter("vehicle.*")) >= 10
    blueprint = library.find(VEHICLE)
    assert int(blueprint.get_attribute("number_of_wheels")) == 4
    blueprint.set_attribute("role_name", "hero")
    actor = site.world.spawn_actor(blueprint, site.world.get_map().get_spawn_points()[0])
    site.tick()
    assert actor.attributes["role_name"] == "hero"
    assert [other.id for other in site.world.get_actors().filter("vehicle.*")] == [actor.id]


def test_a_taken_place_is_refused_and_a_destroyed_actor_is_gone(site: Site) -> None:
    actor = site.vehicle()
    blueprint = site.world.get_blueprint_library().find(VEHICLE)
    place = site.world.get_map().get_spawn_points()[0]
    assert site.world.try_spawn_actor(blueprint, place) is None
    with pytest.raises(RuntimeError, match="collision"):
        site.world.spawn_actor(blueprint, place)
    extent = actor.bounding_box.extent
    assert extent.x > extent.y > 0.5
    assert actor.destroy()
    site.tick()
    assert actor.id not in [other.id for other in site.world.get_actors()]
    assert site.world.try_spawn_actor(blueprint, place) is not None


def test_a_car_accelerates_brakes_and_steers_to_the_right(site: Site) -> None:
    actor = site.vehicle()
    yaw = actor.get_transform().rotation.yaw
    actor.apply_control(carla.VehicleControl(throttle=0.8))
    site.tick(40)
    assert _speed(actor) > 4.0
    assert actor.get_control().throttle == pytest.approx(0.8)
    actor.apply_control(carla.VehicleControl(throttle=0.3, steer=0.4))
    site.tick(10)
    assert (actor.get_transform().rotation.yaw - yaw + 180) % 360 - 180 > 3.0
    actor.apply_control(carla.VehicleControl(brake=1.0))
    site.tick(60)
    assert _speed(actor) < 0.1
    assert actor.get_speed_limit() > 0


def test_poses_and_velocities_can_be_set(site: Site) -> None:
    actor = site.vehicle()
    place = site.world.get_map().get_spawn_points()[5]
    actor.set_transform(place)
    site.tick(2)
    assert actor.get_location().distance(place.location) < 1.0
    ahead = place.get_forward_vector()
    actor.set_target_velocity(carla.Vector3D(8 * ahead.x, 8 * ahead.y, 0))
    site.tick(2)
    assert _speed(actor) == pytest.approx(8.0, abs=1.0)
    actor.enable_constant_velocity(carla.Vector3D(3.0, 0, 0))
    site.tick(20)
    assert _speed(actor) == pytest.approx(3.0, abs=0.3)
    actor.disable_constant_velocity()
    actor.set_simulate_physics(False)
    before = actor.get_location()
    site.tick(5)
    assert actor.get_location().distance(before) < 0.3


def test_a_batch_spawns_commands_and_ticks(site: Site) -> None:
    places = site.world.get_map().get_spawn_points()
    blueprint = site.world.get_blueprint_library().find(VEHICLE)
    command = carla.command
    drive = command.ApplyVehicleControl(command.FutureActor, carla.VehicleControl(throttle=1.0))
    frame = site.tick()
    batch = [command.SpawnActor(blueprint, places[i]).then(drive) for i in (0, 3)]
    results = site.client.apply_batch_sync([*batch, command.SpawnActor(blueprint, places[0])], True)
    assert [result.has_error() for result in results] == [False, False, True]
    assert site.world.get_snapshot().frame == frame + 1
    site.tick(30)
    actors = site.world.get_actors([result.actor_id for result in results[:2]])
    assert all(_speed(actor) > 1.0 for actor in actors)
    gone = site.client.apply_batch_sync([command.DestroyActor(actor) for actor in actors], True)
    assert not any(result.has_error() for result in gone)


SENSORS = {
    "sensor.camera.rgb": {"image_size_x": 64, "image_size_y": 48},
    "sensor.camera.semantic_segmentation": {"image_size_x": 64, "image_size_y": 64},
    "sensor.camera.depth": {"image_size_x": 32, "image_size_y": 32},
    "sensor.lidar.ray_cast": {"range": 40, "rotation_frequency": 20},
    "sensor.lidar.ray_cast_semantic": {"range": 40, "rotation_frequency": 20},
    "sensor.other.radar": {},
    "sensor.other.imu": {},
    "sensor.other.gnss": {},
}


def test_every_sensor_measures_every_frame(site: Site) -> None:
    actor = site.vehicle()
    roof = carla.Transform(carla.Location(x=0.5, z=2.4))
    sensors = {name: site.sensor(name, actor, roof, **settings) for name, settings in SENSORS.items()}
    frames = [site.tick() for _ in range(10)]
    for name, (_, received) in sensors.items():
        _wait(received, 10)
        seen = [measured.frame for measured in received]
        if site.is_real:  # it may lose the first ones: see the subscription race in docs/carla.md
            assert set(seen) <= set(frames), name
            assert frames[-1] in seen, name
        else:
            assert seen == frames, name
    last = {name: received[-1] for name, (_, received) in sensors.items()}
    image = last["sensor.camera.rgb"]
    assert (image.width, image.height, image.fov) == (64, 48, 90.0)
    assert np.frombuffer(image.raw_data, np.uint8).std() > 5
    tags = np.frombuffer(last["sensor.camera.semantic_segmentation"].raw_data, np.uint8).reshape(64, 64, 4)[..., 2]
    assert {1, 11} <= set(np.unique(tags).tolist()), "road and sky are in the picture"
    cloud = np.frombuffer(last["sensor.lidar.ray_cast"].raw_data, np.float32).reshape(-1, 4)
    assert len(cloud) > 100
    assert np.linalg.norm(cloud[:, :3], axis=1).max() < 41
    assert np.median(cloud[cloud[:, 2] < -1.0][:, 2]) == pytest.approx(-2.4, abs=0.5), "most of the low points are road"
    assert last["sensor.other.imu"].accelerometer.z == pytest.approx(9.81, abs=1.0)
    place = site.world.get_map().transform_to_geolocation(actor.get_location())
    assert last["sensor.other.gnss"].latitude == pytest.approx(place.latitude, abs=1e-4)


def test_fresh_cameras_lose_no_first_frame(site: Site) -> None:
    if site.is_real:
        pytest.skip("a real server has the subscription race")
    actor = site.vehicle()
    lost = 0
    for _ in range(15):
        camera, received = site.sensor("sensor.camera.rgb", actor, image_size_x=8, image_size_y=8)
        frame = site.tick()
        _wait(received, 1)
        lost += received[0].frame != frame
        camera.stop()
        camera.destroy()
    assert lost == 0


def test_cars_that_meet_report_a_collision_and_part(site: Site) -> None:
    place = site.world.get_map().get_spawn_points()[0]
    actor = site.vehicle()
    ahead = carla.Transform(place.location + 12 * place.get_forward_vector(), place.rotation)
    other = site.world.spawn_actor(site.world.get_blueprint_library().find(VEHICLE), ahead)
    _, received = site.sensor("sensor.other.collision", actor)
    site.tick(3)
    actor.apply_control(carla.VehicleControl(throttle=1.0))
    site.tick(60)
    _wait(received, 1)
    assert received[0].other_actor.id == other.id
    assert received[0].normal_impulse.length() > 100
    gap = actor.get_location().distance(other.get_location())
    assert gap > 2 * actor.bounding_box.extent.x - 0.5, "the cars do not lie in each other"


def test_leaving_the_lane_is_noticed(site: Site) -> None:
    actor = site.vehicle()
    _, received = site.sensor("sensor.other.lane_invasion", actor)
    site.tick(2)
    actor.apply_control(carla.VehicleControl(throttle=0.6, steer=-0.15))
    site.tick(60)
    _wait(received, 1)
    assert received[0].crossed_lane_markings


def test_two_clients_see_the_same_frames(site: Site) -> None:
    actor = site.vehicle()
    second = carla.Client(*site.address)
    second.set_timeout(TIMEOUT)
    world = second.get_world()
    frame = site.tick()
    end = time.monotonic() + TIMEOUT
    while world.get_snapshot().frame < frame and time.monotonic() < end:
        time.sleep(0.002)
    assert world.get_snapshot().frame == frame
    assert world.get_actor(actor.id).get_location().distance(actor.get_location()) < 1e-3


def test_weather_is_kept(site: Site) -> None:
    before = site.world.get_weather()
    weather = carla.WeatherParameters(cloudiness=55.0, precipitation=10.0, sun_altitude_angle=30.0)
    site.world.set_weather(weather)
    site.tick()
    assert site.world.get_weather().cloudiness == pytest.approx(55.0)
    assert site.world.get_weather().sun_altitude_angle == pytest.approx(30.0)
    site.world.set_weather(before)


def test_traffic_lights_have_states_times_and_groups(site: Site) -> None:
    lights = list(site.world.get_actors().filter("traffic.traffic_light*"))
    if not lights:
        pytest.skip("this town has no traffic light")
    light = lights[0]
    group = light.get_group_traffic_lights()
    assert light.id in [other.id for other in group]
    light.set_green_time(2.0)
    light.set_state(carla.TrafficLightState.Green)
    site.tick(2)
    assert light.get_state() == carla.TrafficLightState.Green
    assert light.get_green_time() == pytest.approx(2.0)
    for other in group:
        if other.id != light.id:
            other.set_state(carla.TrafficLightState.Red)
    site.tick(50)
    assert light.get_state() != carla.TrafficLightState.Green
    light.freeze(True)
    site.tick(2)
    assert light.is_frozen()
    state = light.get_state()
    site.tick(100)
    assert light.get_state() == state
    light.freeze(False)
    site.world.reset_all_traffic_lights()
    assert light.get_stop_waypoints()


def test_a_car_before_a_light_knows_it(site: Site) -> None:
    town = site.world.get_map()
    lights = list(site.world.get_actors().filter("traffic.traffic_light*"))
    if not lights:
        pytest.skip("this town has no traffic light")
    stop = lights[0].get_stop_waypoints()[0]
    before = stop.previous(3.0)[0].transform
    before.location.z += 0.5
    actor = site.world.spawn_actor(site.world.get_blueprint_library().find(VEHICLE), before)
    site.tick(3)
    assert actor.is_at_traffic_light()
    assert actor.get_traffic_light().id == lights[0].id
    assert actor.get_traffic_light_state() == lights[0].get_state()
    assert town.get_waypoint(actor.get_location()).road_id == stop.road_id


def test_a_walker_goes_where_it_is_told(site: Site) -> None:
    place = site.world.get_map().get_spawn_points()[0]
    beside = carla.Transform(place.location + 5 * place.get_right_vector(), place.rotation)
    beside.location.z += 0.6
    walker = site.world.spawn_actor(site.world.get_blueprint_library().find("walker.pedestrian.0001"), beside)
    site.tick(5)
    before = walker.get_location()
    ahead = place.get_forward_vector()
    walker.apply_control(carla.WalkerControl(ahead, 1.5))
    site.tick(20)
    assert walker.get_location().distance(before) == pytest.approx(1.5, abs=0.3)
    assert walker.get_control().speed == pytest.approx(1.5)


def test_lights_physics_and_ackermann_of_a_vehicle(site: Site) -> None:
    actor = site.vehicle()
    actor.set_light_state(carla.VehicleLightState(carla.VehicleLightState.Brake))
    site.tick()
    assert actor.get_light_state() == carla.VehicleLightState.Brake
    physics = actor.get_physics_control()
    assert physics.mass > 500
    assert physics.wheels[0].max_steer_angle > 20
    for _ in range(60):
        actor.apply_ackermann_control(carla.VehicleAckermannControl(speed=5.0))
        site.tick()
    assert _speed(actor) == pytest.approx(5.0, abs=1.5)


def test_a_new_world_keeps_the_settings_if_asked_to(site: Site) -> None:
    actor = site.vehicle()
    old = site.world.id
    world = site.client.load_world(site.world.get_map().name, False)
    assert world.id != old
    assert world.get_settings().synchronous_mode
    world.tick(TIMEOUT)
    assert actor.id not in [other.id for other in world.get_actors()]
    site.world = world


def test_refusals_reach_the_client_as_errors(site: Site) -> None:
    with pytest.raises(RuntimeError):
        site.client.load_world("NoSuchTown")
    controller = site.world.get_blueprint_library().find("controller.ai.walker")
    if not site.is_real:
        with pytest.raises(RuntimeError, match="WalkerControl"):
            site.world.spawn_actor(controller, carla.Transform())
    blueprint = site.world.get_blueprint_library().find(VEHICLE)
    responses = site.client.apply_batch_sync([carla.command.DestroyActor(999_999)], True)
    assert responses[0].has_error()
    assert blueprint is not None
