"""CarRacing-v3 of EnvPool: N simulators in C++, stepped in one call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import envpool
import numpy as np
from numpy.typing import NDArray

from envs.adapters import ActionCheck
from envs.car_racing.config import DISCRETE_CONTROLS, OFF_FIELD_REWARD, CarRacingConfig
from envs.faults import Fault, SimulatorError, instance_seed, note, one_line
from envs.resize import AreaResize
from envs.specs import StepBatch
from envs.step_arrays import allocate

_MAX_SEED = 2**31 - 1


class CarRacingPool:
    """A vector environment on EnvPool.

    EnvPool too resets an environment in the step after its last one, so the true last picture is seen. Tracks follow
    from the seed and the number of the episode, whatever was driven before; they are not Gymnasium's.

    Args:
        name: What `envs.registry.make_vector_env` calls it.
        num_envs: Environments, N.
        config: The task.
        discrete: Five actions instead of a box.
        num_threads: Threads that step the simulators.
    """

    def __init__(
        self, name: str, num_envs: int, config: CarRacingConfig, discrete: bool = False, num_threads: int = 1
    ) -> None:
        self.spec = config.spec(name, discrete)
        self.num_envs = num_envs
        self._config = config
        self._num_threads = num_threads
        self._check = ActionCheck(self.spec.action)
        self._low, self._high = self.spec.action.bounds()
        self._resize = AreaResize(config.frame_shape, (config.image_size, config.image_size))
        self._everyone = np.arange(num_envs, dtype=np.int32)
        self._pool: Any = None
        self._roots: list[int] = []
        self._seeds: list[int] = []
        self._episodes = np.zeros(num_envs, np.int64)
        self._ended: NDArray[np.bool_] | None = None
        self._frames: NDArray[np.uint8] = np.zeros((num_envs, *config.frame_shape), np.uint8)
        self._remakes = 0
        self._faults: list[Fault] = []

    @property
    def remakes(self) -> Sequence[int]:
        """As `envs.specs.VectorEnv`; EnvPool fails, and is made again, as a whole."""
        return [self._remakes] * self.num_envs

    def take_faults(self) -> list[Fault]:
        """As `envs.specs.VectorEnv`; told of row 0."""
        taken, self._faults = self._faults, []
        return taken

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """Start the first episode of every seed.

        Args:
            seeds: One per environment, in [0, 2^31).
            options: None; the task takes none.

        Raises:
            ValueError: For a wrong number of seeds, a seed out of range, or options.
        """
        if options:
            raise ValueError(f"this environment takes no reset options, got {sorted(options)}")
        if len(seeds) != self.num_envs:
            raise ValueError(f"seeds must hold one seed per environment ({self.num_envs}), got {len(seeds)}")
        self._roots, self._remakes = [int(seed) for seed in seeds], 0
        return self._begin(self._roots, np.zeros(self.num_envs, np.int64))

    def origins(self) -> list[dict[str, Any]]:
        """Seed of the row, how often it was made again, and number of every present episode."""
        episodes = self._episodes.tolist()
        return [
            {"seed": root, "remakes": self._remakes, "episode": episode}
            for root, episode in zip(self._roots, episodes, strict=True)
        ]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """As `SerialVectorEnv.redo`; costs the tracks of the earlier episodes too, 2 ms each.

        Raises:
            ValueError: If an action is invalid, an episode ends before its last action, or an origin is not EnvPool's.
        """
        if any(origin.keys() | {"remakes"} != {"seed", "remakes", "episode"} for origin in origins):
            raise ValueError("the episodes were not simulated by EnvPool, so it cannot play them again")
        for taken in actions:
            self._check(taken, (len(taken),))
        self._roots, self._remakes = [origin["seed"] for origin in origins], max(o.get("remakes", 0) for o in origins)
        seeds = [instance_seed(root, self._remakes) for root in self._roots]
        out = self._begin(seeds, np.array([origin["episode"] for origin in origins], np.int64))
        lengths = np.array([len(taken) for taken in actions])
        ended = np.zeros(self.num_envs, np.bool_)
        for t in range(int(lengths.max())):
            rows = self._everyone[lengths > t]
            if ended[rows].any():
                row = int(rows[ended[rows]][0])
                raise ValueError(f"the episode of environment {row} ends before the last of {lengths[row]} actions")
            self._ended = None
            self._advance(out, np.stack([actions[row][t] for row in rows]), rows)
            ended |= out.is_last
        self._ended = ended
        return out

    def step(self, actions: NDArray[Any]) -> StepBatch:
        """Act everywhere; an environment whose last step was `is_last` starts its next episode instead.

        Args:
            actions: [N, *spec.action.shape].

        Raises:
            ValueError: If an action is invalid; no environment has stepped then.
            RuntimeError: Before the first `reset`.
        """
        actions = np.asarray(actions)
        self._check(actions, (self.num_envs,))
        ended = self._ended
        if ended is None:
            raise RuntimeError("call reset before step, also after an error")
        self._ended = None
        out = allocate(self.spec, self.num_envs)
        self._episodes += ended
        try:
            self._advance(out, actions, self._everyone, ended)
        except Exception as error:  # noqa: BLE001 (whatever EnvPool raises)
            return self._make_again(error)
        self._ended = out.is_last.copy()
        return out

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """The picture that environment `index` was last observed from, not shrunk."""
        return np.copy(self._frames[index])

    def close(self) -> None:
        """End the simulators; a second call does nothing."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._ended = None

    def _make_again(self, error: Exception) -> StepBatch:
        """Note a failure and start every environment with a seed of its own; EnvPool cannot start one of them."""
        self._faults.append(note(0, self._seeds[0], int(self._episodes[0]), 1, error))
        self._remakes += 1
        try:
            seeds = [instance_seed(root, self._remakes) for root in self._roots]
            return self._begin(seeds, np.zeros(self.num_envs, np.int64))
        except Exception as again:
            raise SimulatorError(f"{self.spec.name}: EnvPool cannot be started again: {one_line(again)}") from again

    def _begin(self, seeds: Sequence[int], episodes: NDArray[np.int64]) -> StepBatch:
        """Open new simulators and start the episode with the number `episodes` [N] of every seed."""
        self._seeds = [int(seed) for seed in seeds]
        for seed in self._seeds:
            if not 0 <= seed <= _MAX_SEED:
                raise ValueError(f"a seed of EnvPool must be in [0, {_MAX_SEED}], got {seed}")
        self.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of Gymnasium, that bounds become float32
            self._pool = envpool.make(
                "CarRacing-v3",
                env_type="gymnasium",
                num_envs=self.num_envs,
                num_threads=self._num_threads,
                env_seed=self._seeds,
                max_episode_steps=self._config.max_episode_frames,
                lap_complete_percent=self._config.lap_complete_percent,
            )
        out = allocate(self.spec, self.num_envs)
        out.reward[:] = 0.0
        out.is_first[:] = True
        out.is_last[:] = False
        out.is_terminal[:] = False
        out.info["is_success"][:] = 0.0
        for episode in range(int(episodes.max()) + 1):
            pictures, info = self._pool.reset(self._everyone[episodes >= episode])
            self._observe(out, pictures, info["env_id"])
        self._episodes = episodes
        self._ended = np.zeros(self.num_envs, np.bool_)
        return out

    def _advance(
        self, out: StepBatch, actions: NDArray[Any], rows: NDArray[np.int32], first: NDArray[np.bool_] | None = None
    ) -> None:
        """Act in the environments `rows`, and write their steps to `out`.

        Args:
            out: Steps of all environments.
            actions: [len(rows), *spec.action.shape].
            rows: Ascending.
            first: [len(rows)], those that start an episode instead.
        """
        out.is_first[rows] = False if first is None else first
        out.reward[rows] = 0.0
        controls = np.empty((self.num_envs, 3), np.float32)
        controls[rows] = self._controls(actions)
        for repeat in range(1, self._config.action_repeat + 1):
            pictures, reward, terminated, truncated, info = self._pool.step(controls[rows], rows)
            rows = info["env_id"]
            out.reward[rows] += reward
            out.is_last[rows] = terminated | truncated
            out.is_terminal[rows] = terminated
            out.info["is_success"][rows] = terminated & (reward > OFF_FIELD_REWARD)
            if repeat == self._config.action_repeat:
                self._observe(out, pictures, rows)
                return
            done = out.is_last[rows] | out.is_first[rows]
            self._observe(out, pictures[done], rows[done])
            rows = rows[~done]
            if not rows.size:
                return

    def _controls(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Steer, gas and brake [n, 3]; rounding at the edge of the box is forgiven."""
        if self.spec.action.is_discrete:
            return np.take(DISCRETE_CONTROLS, actions, axis=0)
        controls: NDArray[np.float32] = np.clip(actions, self._low, self._high).astype(np.float32)
        return controls

    def _observe(self, out: StepBatch, pictures: NDArray[np.uint8], rows: NDArray[np.int32]) -> None:
        observed = pictures[:, : self._config.frame_shape[0]]
        for row, picture in zip(rows.tolist(), observed, strict=True):
            self._resize(picture, out.observation["image"][row])
            self._frames[row] = picture
