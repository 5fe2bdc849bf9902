"""Pictures: what is drawn where, checked against pinhole projections done by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs.nav3d.config import Nav3DImageConfig
from envs.nav3d.env import Nav3DEnv
from envs.nav3d.image import Nav3DImageEnv
from envs.nav3d.render import RayRenderer

CAMERA_HEIGHT, FOCAL = 14.0, 32.0 / math.tan(math.radians(53.0) / 2)


def top_down_pixel(x: float, y: float, z: float) -> tuple[int, int]:
    """Row and column of a point in the 64 x 64 top-down view."""
    scale = FOCAL / (CAMERA_HEIGHT - z)
    return int(32 - scale * y), int(32 + scale * x)


def hue(pixel: np.ndarray) -> str:
    """Name of a saturated colour."""
    red, green, blue = pixel.astype(int)
    if red > 1.5 * green and green > 2 * blue:
        return "orange"
    if red > 1.3 * max(green, blue):
        return "red"
    if green > 1.5 * max(red, blue):
        return "green"
    if blue > 1.4 * max(red, green):
        return "blue"
    return "grey"


def look(view: Any, start: tuple[float, ...], goal: tuple[float, ...], **options: Any) -> np.ndarray:
    env = Nav3DImageEnv(Nav3DImageConfig(view=view, **options))
    observation, _ = env.reset(seed=0, options={"start": start, "goal": goal})
    env.close()
    return observation["image"]


@pytest.mark.parametrize("start", [(-4.0, -3.5, 1.0), (-1.2, -1.2, 3.0), (4.4, 0.0, 0.5)])
def test_top_down_shows_everything_where_it_is(start: tuple[float, float, float]) -> None:
    goal = (-4.0, 4.0, 1.0)
    image = look("top_down", start, goal)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert hue(image[top_down_pixel(*start)]) == "orange"
    assert hue(image[top_down_pixel(*goal)]) == "green"
    assert hue(image[top_down_pixel(0.0, 0.2, 1.8)]) == "red"  # a hazard
    assert hue(image[top_down_pixel(-2.3, 1.9, 4.0)]) == "blue"  # the top of a pillar
    assert hue(image[top_down_pixel(1.5, -0.7, 0.0)]) == "grey"  # the floor


def test_markers_show_body_and_goal_from_above_and_change_nothing_else() -> None:
    start, goal = (-4.0, 0.0, 2.0), (-4.0, 4.0, 1.0)
    widths: dict[float, list[int]] = {}
    for radius in (0.0, 0.5, 1.0):
        image = look("top_down", start, goal, marker_radius=radius)
        hues = [[hue(pixel) for pixel in row] for row in image]
        widths[radius] = [max(row.count(colour) for row in hues) for colour in ("orange", "green")]
        assert_array_equal(look("first_person", start, goal, marker_radius=radius), look("first_person", start, goal))
    # Pixels of 0.19 m at the body's height, of 0.20 m at the goal's.
    assert widths == {0.0: [3, 5], 0.5: [5, 5], 1.0: [11, 10]}
    bare, marked = (Nav3DImageEnv(Nav3DImageConfig(marker_radius=radius)) for radius in (0.0, 1.0))
    for env in (bare, marked):
        env.reset(seed=3)
    for action in np.random.default_rng(0).choice([-1.0, 1.0], (100, 3)):
        (_, *one), (_, *other) = bare.step(action), marked.step(action)
        assert one[:3] == other[:3]
        assert one[3].keys() == other[3].keys()
    with pytest.raises(ValueError, match="marker_radius"):
        Nav3DImageConfig(marker_radius=-1.0)


LAMP = np.array([0.35, -0.45, 0.82])


def shadow_on_floor(x: float, y: float, z: float) -> tuple[int, int]:
    """Row and column in the top-down view of where the light past a point reaches the floor."""
    return top_down_pixel(x - z * LAMP[0] / LAMP[2], y - z * LAMP[1] / LAMP[2], 0.0)


def test_shadows_show_how_high_body_and_goal_are() -> None:
    goal = (-4.0, 4.0, 1.0)
    low, high = (look("top_down", (-1.0, -4.3, height), goal, marker_radius=0.0).astype(float) for height in (0.5, 2.5))
    under_low, under_high = (shadow_on_floor(-1.0, -4.3, height) for height in (0.5, 2.5))
    assert abs(under_low[0] - under_high[0]) > 4  # the shadow of a body two metres higher is elsewhere
    np.testing.assert_allclose(high[under_high], 0.5 * low[under_high], atol=1.0)
    assert hue(low[under_high].astype(np.uint8)) == "grey"
    assert low[under_low].mean() < high[under_low].mean()
    # The goal throws one too, and what reaches no floor falls on a wall, here the northern one, 1.2 m high.
    far = look("top_down", (-1.0, -4.3, 0.5), (0.0, 4.3, 2.475)).astype(float)
    x, z = -0.7 * LAMP[0] / -LAMP[1], 2.475 - 0.7 * LAMP[2] / -LAMP[1]
    on_wall = top_down_pixel(x, 5.0, z)
    np.testing.assert_allclose(far[on_wall], 0.5 * low[on_wall], atol=1.0)


def test_hazards_are_see_through() -> None:
    inside = look("top_down", (0.0, 0.2, 1.2), (-4.0, 4.0, 1.0))[top_down_pixel(0.0, 0.2, 1.2)].astype(int)
    outside = look("top_down", (1.5, -0.7, 1.2), (-4.0, 4.0, 1.0))[top_down_pixel(1.5, -0.7, 1.2)].astype(int)
    assert hue(outside) == "orange"
    assert inside[1] < outside[1]  # tinted red
    assert inside[0] > 150


@pytest.mark.parametrize("marker_radius", [0.0, 0.5, 1.0])
def test_redrawing_only_around_the_body_equals_drawing_all(
    marker_radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = np.random.default_rng(0).choice([-1.0, 1.0], (60, 3))

    def pictures() -> list[np.ndarray]:
        env = Nav3DImageEnv(Nav3DImageConfig(marker_radius=marker_radius))
        env.reset(seed=2)
        return [env.step(action)[0]["image"] for action in actions]

    partial = pictures()
    monkeypatch.setattr(RayRenderer, "_window", lambda *_: (slice(0, 64), slice(0, 64)))
    for ours, full in zip(partial, pictures(), strict=True):
        assert_array_equal(ours, full)


def test_first_person_looks_at_the_goal_first() -> None:
    image = look("first_person", (-4.0, 0.0, 1.0), (-4.0, 4.0, 1.0))
    assert hue(image[32, 32]) == "green"
    radius = math.tan(math.asin(0.5 / 4.0)) * 32  # the goal's outline, 90 degree field of view
    assert hue(image[32, 32 + round(radius) - 2]) == "green"
    assert hue(image[32, 32 + round(radius) + 2]) == "grey"


def test_first_person_inside_a_hazard_is_tinted() -> None:
    clear = look("first_person", (1.5, -0.7, 1.5), (-4.0, -0.7, 1.5))
    inside = look("first_person", (0.0, 0.2, 1.8), (-4.0, 0.2, 1.8))
    assert (inside[..., 0].astype(int) - inside[..., 2]).min() > 20
    assert (clear[..., 0].astype(int) - clear[..., 2]).min() < 0


def test_first_person_follows_the_direction_of_travel() -> None:
    env = Nav3DImageEnv(Nav3DImageConfig(view="first_person"))
    _, info = env.reset(seed=0, options={"start": (-4.0, -3.5, 1.0), "goal": (-4.0, 4.0, 1.0)})
    assert info["yaw"] == pytest.approx(math.pi / 2)
    for _ in range(10):
        *_, info = env.step(np.array([1.0, 0.0, 0.0]))
    assert info["yaw"] == pytest.approx(0.0, abs=0.01)


def test_grey_is_the_luminance() -> None:
    colour = look("top_down", (-4.0, 0.0, 1.0), (-4.0, 4.0, 1.0)).astype(float)
    grey = look("top_down", (-4.0, 0.0, 1.0), (-4.0, 4.0, 1.0), grey=True)
    assert grey.shape == (64, 64, 1)
    assert grey.dtype == np.uint8
    assert np.abs(colour @ [0.299, 0.587, 0.114] - grey[..., 0]).max() < 2.5


def test_pictures_are_the_receivers_own() -> None:
    env = Nav3DImageEnv()
    observation, _ = env.reset(seed=0)
    kept = observation["image"].copy()
    for _ in range(5):
        env.step(np.ones(3))
    assert_array_equal(observation["image"], kept)


def test_overview_shows_body_and_goal() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": (-4.0, 0.0, 1.0), "goal": (-4.0, 4.0, 1.0)})
    picture = env.render()
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    assert ((green > 1.5 * red) & (green > 1.5 * blue)).sum() > 100
    assert ((red > 1.5 * green) & (green > 2 * blue)).sum() > 30
    before = picture.copy()
    env.step(np.ones(3))
    assert not np.array_equal(env.render(), before)


SHOW_GL_MODULES = 'print(any(name.startswith(("OpenGL", "mujoco.egl", "mujoco.osmesa")) for name in sys.modules))\n'


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, where no display was opened before."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_gl_agrees_with_the_rays(tmp_path: Path) -> None:
    result = run_alone(f"""
import sys
import numpy as np
from mujoco.rendering.classic import gl_context
from envs.nav3d.config import Nav3DImageConfig
from envs.nav3d.image import Nav3DImageEnv
from envs.nav3d.render_gl import _bind_headless_backend
try:
    _bind_headless_backend()
    gl_context.GLContext(64, 64).free()
except Exception as error:
    sys.exit(f"no GL: {{error}}")
env = Nav3DImageEnv(Nav3DImageConfig(renderer="gl"))
observation, _ = env.reset(seed=0, options={{"start": (-4.0, -3.5, 1.0), "goal": (-4.0, 4.0, 1.0)}})
np.save({str(tmp_path / "gl.npy")!r}, observation["image"])
env.close()
{SHOW_GL_MODULES}""")
    if result.stderr.startswith("no GL: "):
        pytest.skip(result.stderr.strip())
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr
    drawn = np.load(tmp_path / "gl.npy")
    rays = look("top_down", (-4.0, -3.5, 1.0), (-4.0, 4.0, 1.0))
    for colour in ("green", "orange"):  # the goal and the body
        ours, theirs = (np.array([[hue(p) == colour for p in row] for row in image]) for image in (rays, drawn))
        assert (ours & theirs).sum() > 0.8 * (ours | theirs).sum() > 0, colour


def test_importing_and_stepping_opens_no_display() -> None:
    result = run_alone(f"""
import sys, numpy as np
from envs.registry import make_env
env = make_env("nav3d_image"); env.reset(0); env.step(np.zeros(3)); env.render()
{SHOW_GL_MODULES}""")
    assert (result.returncode, result.stdout) == (0, "False\n"), result.stderr
