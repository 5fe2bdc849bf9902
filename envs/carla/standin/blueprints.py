"""What can be spawned: identifiers, attributes and sizes of vehicles, walkers, sensors and props."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envs.carla.standin.layouts import SENSOR_TYPES

BOOL, INT, FLOAT, STRING, COLOR = range(1, 6)
"""Types of attributes."""


@dataclass(frozen=True)
class VehicleModel:
    """Sizes and forces of a vehicle.

    Args:
        half_size: Half of length, width and height, metres.
        mass: Kilograms.
        wheelbase: Distance of the axles, metres.
        power: Most power at the wheels, watts.
        max_steer: Angle of the front wheels at full steering, degrees.
        wheels: 2 or 4.
    """

    half_size: tuple[float, float, float]
    mass: float
    wheelbase: float
    power: float
    max_steer: float = 45.0
    wheels: int = 4
    special: str = ""


VEHICLES = {
    "vehicle.tesla.model3": VehicleModel((2.396, 1.082, 0.744), 1845.0, 2.875, 200e3),
    "vehicle.lincoln.mkz_2020": VehicleModel((2.446, 1.066, 0.755), 1700.0, 2.86, 180e3),
    "vehicle.lincoln.mkz_2017": VehicleModel((2.451, 1.064, 0.755), 1700.0, 2.86, 180e3),
    "vehicle.audi.a2": VehicleModel((1.853, 0.895, 0.775), 1000.0, 2.4, 75e3),
    "vehicle.audi.tt": VehicleModel((2.091, 0.997, 0.693), 1300.0, 2.5, 150e3),
    "vehicle.audi.etron": VehicleModel((2.428, 1.016, 0.825), 2200.0, 2.93, 220e3),
    "vehicle.bmw.grandtourer": VehicleModel((2.305, 1.121, 0.834), 1550.0, 2.78, 110e3),
    "vehicle.chevrolet.impala": VehicleModel((2.679, 1.017, 0.705), 1650.0, 2.84, 150e3),
    "vehicle.citroen.c3": VehicleModel((1.994, 0.925, 0.812), 1100.0, 2.54, 80e3),
    "vehicle.dodge.charger_2020": VehicleModel((2.503, 1.049, 0.767), 1950.0, 3.05, 270e3),
    "vehicle.ford.mustang": VehicleModel((2.359, 0.947, 0.65), 1500.0, 2.74, 230e3),
    "vehicle.mercedes.coupe_2020": VehicleModel((2.337, 1.001, 0.721), 1600.0, 2.84, 190e3),
    "vehicle.mini.cooper_s": VehicleModel((1.903, 0.985, 0.738), 1200.0, 2.47, 130e3),
    "vehicle.nissan.micra": VehicleModel((1.817, 0.923, 0.75), 1000.0, 2.45, 65e3),
    "vehicle.nissan.patrol_2021": VehicleModel((2.782, 1.087, 1.022), 2700.0, 3.07, 290e3),
    "vehicle.seat.leon": VehicleModel((2.096, 0.908, 0.737), 1250.0, 2.62, 110e3),
    "vehicle.toyota.prius": VehicleModel((2.257, 1.003, 0.762), 1400.0, 2.7, 90e3),
    "vehicle.volkswagen.t2": VehicleModel((2.24, 1.034, 1.019), 1600.0, 2.4, 50e3),
    "vehicle.carlamotors.firetruck": VehicleModel((4.234, 1.446, 1.914), 12000.0, 4.5, 260e3, special="emergency"),
    "vehicle.ford.ambulance": VehicleModel((3.178, 1.176, 1.215), 4500.0, 3.9, 160e3, special="emergency"),
    "vehicle.bh.crossbike": VehicleModel((0.744, 0.43, 0.89), 90.0, 1.1, 0.6e3, wheels=2),
    "vehicle.kawasaki.ninja": VehicleModel((1.017, 0.398, 0.727), 280.0, 1.4, 45e3, wheels=2),
}

_COLORS = ("17,37,103", "180,20,20", "235,235,235", "40,40,44", "150,154,160", "30,110,60")
_WALKERS = 14
PROPS = {
    "static.prop.streetbarrier": (0.6, 0.19, 0.56),
    "static.prop.trafficcone01": (0.26, 0.26, 0.43),
    "static.prop.constructioncone": (0.17, 0.17, 0.29),
    "static.prop.box01": (0.33, 0.33, 0.33),
    "static.prop.container": (0.96, 0.96, 1.1),
    "static.prop.barrel": (0.25, 0.25, 0.4),
}
"""Half sizes of the props, metres."""
WALKER_HALF_SIZE = (0.188, 0.188, 0.93)

_TICK = ("sensor_tick", FLOAT, "0.0")
_IMAGE = [
    ("image_size_x", INT, "800"),
    ("image_size_y", INT, "600"),
    ("fov", FLOAT, "90.0"),
    ("lens_circle_falloff", FLOAT, "5.0"),
    ("lens_circle_multiplier", FLOAT, "0.0"),
    ("lens_k", FLOAT, "-1.0"),
    ("lens_kcube", FLOAT, "0.0"),
    ("lens_x_size", FLOAT, "0.08"),
    ("lens_y_size", FLOAT, "0.08"),
    _TICK,
]
_LIDAR = [
    ("channels", INT, "32"),
    ("range", FLOAT, "10.0"),
    ("points_per_second", INT, "56000"),
    ("rotation_frequency", FLOAT, "10.0"),
    ("upper_fov", FLOAT, "10.0"),
    ("lower_fov", FLOAT, "-30.0"),
    ("horizontal_fov", FLOAT, "360.0"),
    _TICK,
]
_SENSORS: dict[str, list[tuple[str, int, str]]] = {
    "sensor.camera.rgb": [
        *_IMAGE,
        *((name, FLOAT, value) for name, value in (("gamma", "2.2"), ("fstop", "1.4"), ("iso", "100.0"))),
        *((name, FLOAT, value) for name, value in (("shutter_speed", "200.0"), ("exposure_compensation", "0.0"))),
        ("exposure_mode", STRING, "histogram"),
        ("enable_postprocess_effects", BOOL, "true"),
        ("motion_blur_intensity", FLOAT, "0.45"),
    ],
    "sensor.camera.semantic_segmentation": _IMAGE,
    "sensor.camera.depth": _IMAGE,
    "sensor.lidar.ray_cast": [
        *_LIDAR,
        ("atmosphere_attenuation_rate", FLOAT, "0.004"),
        ("dropoff_general_rate", FLOAT, "0.45"),
        ("dropoff_intensity_limit", FLOAT, "0.8"),
        ("dropoff_zero_intensity", FLOAT, "0.4"),
        ("noise_stddev", FLOAT, "0.0"),
        ("noise_seed", INT, "0"),
    ],
    "sensor.lidar.ray_cast_semantic": _LIDAR,
    "sensor.other.radar": [
        ("horizontal_fov", FLOAT, "30.0"),
        ("vertical_fov", FLOAT, "30.0"),
        ("range", FLOAT, "100.0"),
        ("points_per_second", INT, "1500"),
        ("noise_seed", INT, "0"),
        _TICK,
    ],
    "sensor.other.imu": [
        *((f"noise_accel_stddev_{axis}", FLOAT, "0.0") for axis in "xyz"),
        *((f"noise_gyro_{kind}_{axis}", FLOAT, "0.0") for kind in ("stddev", "bias") for axis in "xyz"),
        ("noise_seed", INT, "0"),
        _TICK,
    ],
    "sensor.other.gnss": [
        *((f"noise_{axis}_{kind}", FLOAT, "0.0") for axis in ("alt", "lat", "lon") for kind in ("stddev", "bias")),
        ("noise_seed", INT, "0"),
        _TICK,
    ],
    "sensor.other.collision": [],
    "sensor.other.lane_invasion": [],
}
assert set(SENSOR_TYPES) | {"sensor.other.lane_invasion"} == set(_SENSORS)

Definition = list[Any]


def definitions() -> list[Definition]:
    """Every blueprint, as the wire has it."""
    library: list[Definition] = []

    def add(name: str, attributes: list[Definition], role: str = "default") -> None:
        common = _attribute("role_name", STRING, role, ["default"])
        uid = len(library) + 1
        library.append([uid, name, name.replace(".", ","), [*attributes, common]])

    for name, model in VEHICLES.items():
        add(name, _vehicle_attributes(model), role="autopilot")
    for number in range(1, _WALKERS + 1):
        add(f"walker.pedestrian.{number:04d}", _walker_attributes(number), role="pedestrian")
    add("controller.ai.walker", [])
    for name, attributes in _SENSORS.items():
        add(name, [_attribute(*attribute) for attribute in attributes], role="front")
    for name in PROPS:
        add(name, [_fixed("size", STRING, "small")], role="prop")
    add("static.trigger.friction", [_attribute("friction", FLOAT, "3.5")], role="none")
    return library


def _vehicle_attributes(model: VehicleModel) -> list[Definition]:
    kind = "bicycle" if model.power < 5e3 else "motorcycle" if model.wheels == 2 else "car"
    return [
        _attribute("color", COLOR, _COLORS[0], list(_COLORS), restrict=False),
        _attribute("sticky_control", BOOL, "True"),
        _attribute("terramechanics", BOOL, "False"),
        _fixed("number_of_wheels", INT, str(model.wheels)),
        _fixed("object_type", STRING, ""),
        _fixed("base_type", STRING, kind),
        _fixed("special_type", STRING, model.special),
        _fixed("generation", INT, "1"),
        _fixed("has_dynamic_doors", BOOL, "false"),
        _fixed("has_lights", BOOL, "true"),
    ]


def _walker_attributes(number: int) -> list[Definition]:
    return [
        _attribute("is_invincible", BOOL, "True"),
        _attribute("speed", FLOAT, "1.4", ["0.0", "1.4", "2.8"]),
        _attribute("can_use_wheelchair", BOOL, "False"),
        _fixed("gender", STRING, "female" if number % 2 else "male"),
        _fixed("age", STRING, "adult"),
        _fixed("generation", INT, "1"),
    ]


def _attribute(
    name: str, kind: int, value: str, recommended: list[str] | None = None, restrict: bool = False
) -> Definition:
    return [name, kind, value, recommended or [], True, restrict]


def _fixed(name: str, kind: int, value: str) -> Definition:
    return [name, kind, value, [], False, False]
