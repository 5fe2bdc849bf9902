"""The last frames of a video as one observation, for algorithms that remember nothing between two steps.

Letters: N environments, C channels of a frame, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.faults import Fault
from envs.specs import ArraySpec, EnvSpec, StepBatch, VectorEnv

OPTION = "frame_stack"
"""The option of `envs.registry` that stacks frames."""
MAX_FRAMES = 64


def stacked_spec(spec: EnvSpec, frames: Any) -> EnvSpec:
    """`spec` with F times the channels in every image; the oldest frame is first.

    Raises:
        ValueError: The number is none or too large, or there is no image.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"{OPTION} must be a whole number from 1 to {MAX_FRAMES}, got {frames!r}")
    keys = _images(spec.observation)
    if not keys:
        raise ValueError(f"{OPTION} needs an image: {spec.name} observes {', '.join(spec.observation)}")
    return replace(spec, observation={**spec.observation, **{k: _widened(spec.observation[k], frames) for k in keys}})


def _images(observation: Mapping[str, ArraySpec]) -> list[str]:
    return [key for key, spec in observation.items() if spec.dtype == "uint8" and len(spec.shape) == 3]


def _widened(image: ArraySpec, frames: int) -> ArraySpec:
    *size, channels = image.shape
    low, high = float(np.min(image.low)), float(np.max(image.high))
    return replace(image, shape=(*size, channels * frames), low=low, high=high)


class FrameStackVectorEnv:
    """See envs.specs.VectorEnv: the images of `env`, each with the F - 1 before it on the channel axis.

    Before the first step of an episode its frame counts as having stood still: it is there F times.

    Args:
        env: The environments.
        frames: F.

    Raises:
        ValueError: As `stacked_spec`.
    """

    def __init__(self, env: VectorEnv, frames: int) -> None:
        self.spec, self.num_envs, self.env = stacked_spec(env.spec, frames), env.num_envs, env
        self._frames, self._keys = frames, _images(env.spec.observation)
        self._last: dict[str, NDArray[Any]] = {}

    @property
    def remakes(self) -> Sequence[int]:
        """As `envs.specs.VectorEnv`."""
        return self.env.remakes

    def take_faults(self) -> list[Fault]:
        """As `envs.specs.VectorEnv`."""
        return self.env.take_faults()

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """As `envs.specs.VectorEnv`."""
        return self._stack(self.env.reset(seeds, options))

    def origins(self) -> list[dict[str, Any]]:
        """As `envs.specs.VectorEnv`."""
        return self.env.origins()

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """As `envs.specs.VectorEnv`; an episode is played once for every frame of the stack."""
        self._last = {}
        for missing in reversed(range(self._frames)):
            step = self.env.redo(origins, [taken[: max(0, len(taken) - missing)] for taken in actions])
            out = self._stack(step)
        return out

    def step(self, actions: NDArray[Any]) -> StepBatch:
        """As `envs.specs.VectorEnv`."""
        return self._stack(self.env.step(actions))

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """As `envs.specs.VectorEnv`."""
        return self.env.render(index)

    def close(self) -> None:
        """As `envs.specs.VectorEnv`."""
        self.env.close()

    def _stack(self, step: StepBatch) -> StepBatch:
        first = step.is_first
        for key in self._keys:
            frame = step.observation[key]
            if first.all() or key not in self._last:
                self._last[key] = np.tile(frame, self._frames)
                continue
            stack = np.concatenate([self._last[key][..., frame.shape[-1] :], frame], -1)
            stack[first] = np.tile(frame[first], self._frames)
            self._last[key] = stack
        return replace(step, observation={**step.observation, **{key: self._last[key].copy() for key in self._keys}})
