"""Frames on the channel axis: order, resets, replayed episodes, every backend, and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from cluster import build
from cluster.config import resolve
from envs.frame_stack import FrameStackVectorEnv, stacked_spec
from envs.registry import env_spec, make_env, make_vector_env
from envs.specs import ArraySpec, EnvSpec, StepBatch

FRAME = ArraySpec((2, 2, 1), "uint8", 0, 255)
SPEC = EnvSpec("video", {"image": FRAME, "state": ArraySpec((1,), "float32")}, ArraySpec((), "int64", num_values=2))


class Video:
    """Rows whose frames show 10 * row + step; row 1 has episodes of three steps."""

    spec, num_envs = SPEC, 2
    remakes: Sequence[int] = (0, 0)

    def __init__(self) -> None:
        self.at = np.zeros(2, int)

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        self.at = np.zeros(2, int)
        return self._step()

    def step(self, actions: NDArray[Any]) -> StepBatch:
        self.at = (self.at + 1) % np.array([100, 3])
        return self._step()

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        self.at = np.array([len(taken) for taken in actions])
        return self._step()

    def _step(self) -> StepBatch:
        shown = (self.at + np.array([0, 10])).astype(np.uint8)
        image = np.broadcast_to(shown[:, None, None, None], (2, 2, 2, 1)).copy()
        first = self.at == 0
        no = np.zeros(2, bool)
        return StepBatch(
            {"image": image, "state": image[:, 0, 0].astype(np.float32)}, no.astype(np.float32), first, no, no
        )


def shown(step: StepBatch) -> list[list[int]]:
    """[N, F] what the frames of a stack show."""
    image = step.observation["image"]
    assert (image == image[:, :1, :1]).all()
    stack: list[list[int]] = image[:, 0, 0].tolist()
    return stack


def test_the_newest_frame_is_last_and_an_episode_begins_with_its_first_frame_repeated() -> None:
    env = FrameStackVectorEnv(Video(), 3)
    steps = [env.reset([0, 1]), *(env.step(np.zeros(2, np.int64)) for _ in range(4))]
    assert [shown(step)[0] for step in steps] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [shown(step)[1] for step in steps] == [[10] * 3, [10, 10, 11], [10, 11, 12], [10] * 3, [10, 10, 11]]
    assert steps[4].observation["state"].tolist() == [[4.0], [11.0]]
    steps[4].observation["image"][:] = 0  # the receiver's own
    assert shown(env.step(np.zeros(2, np.int64)))[0] == [3, 4, 5]


def test_an_episode_that_is_played_again_has_the_frames_before() -> None:
    env = FrameStackVectorEnv(Video(), 3)
    assert shown(env.redo([{}, {}], [np.zeros(7, np.int64), np.zeros(1, np.int64)])) == [[5, 6, 7], [10, 10, 11]]
    assert shown(env.step(np.zeros(2, np.int64))) == [[6, 7, 8], [10, 11, 12]]


def test_a_spec_has_the_channels_of_all_frames() -> None:
    stacked = stacked_spec(SPEC, 4)
    assert stacked.observation["image"] == ArraySpec((2, 2, 4), "uint8", 0, 255)
    assert stacked.observation["state"] == SPEC.observation["state"]


@pytest.mark.parametrize("mode", ["serial", "subprocess"])
def test_registered_environments_stack_frames_and_play_episodes_again(mode: Any) -> None:
    options = {"image_size": 16, "frame_stack": 2}
    rng = np.random.default_rng(0)
    env, again = (make_vector_env("nav3d_image", 2, mode, 1, **options) for _ in range(2))
    try:
        assert env.spec == env_spec("nav3d_image", **options)
        assert env.spec.observation["image"].shape == (16, 16, 6)
        before, origins, actions = env.reset([3, 4]), env.origins(), []
        for _ in range(3):
            actions.append(rng.uniform(-1, 1, (2, *env.spec.action.shape)).astype(np.float32))
            step = env.step(actions[-1])
            assert_array_equal(step.observation["image"][..., :3], before.observation["image"][..., 3:])
            before = step
        redone = again.redo(origins, [np.stack(actions)[:, row] for row in range(2)])
        assert_array_equal(redone.observation["image"], before.observation["image"])
    finally:
        env.close()
        again.close()


@pytest.mark.parametrize(
    ("algo", "env", "channels"),
    [("efficientzero", "car_racing_discrete", 12), ("muzero", "car_racing_discrete", 12), ("visual", "nav3d_image", 6)],
)
def test_models_of_single_observations_have_stacked_frames_by_default(algo: str, env: str, channels: int) -> None:
    config = resolve(algo, env, "debug")
    assert build.env_spec(config).observation["image"].shape[-1] == channels
    assert build.algorithm(config) is not None


@pytest.mark.parametrize("frames", [0, -1, 65, 1.5, True, "4"])
def test_a_number_of_frames_that_is_none_is_refused(frames: Any) -> None:
    with pytest.raises(ValueError, match="frame_stack must be a whole number from 1 to 64"):
        env_spec("nav3d_image", frame_stack=frames)


def test_what_has_no_image_or_is_one_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="frame_stack needs an image: nav3d observes"):
        make_vector_env("nav3d", 1, frame_stack=2)
    with pytest.raises(ValueError, match="frame_stack is an option of many environments together"):
        make_env("nav3d_image", frame_stack=2)
