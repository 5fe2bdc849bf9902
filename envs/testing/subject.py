"""The environment under test, and a watched instance of it that checks every step's form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.registry import make_bare_env, make_env
from envs.specs import ArraySpec, Env
from envs.testing.form import StepForm
from envs.testing.process import Channel
from envs.testing.report import Finding, Verdict

Step = tuple[Any, Any, Any, Any, dict[str, Any]]
"""What a Gymnasium environment's `step` returns."""


def bare_env(name: str, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The Gymnasium environment behind `name`, without worldfleet's adapter and Gymnasium's own checker.

    Raises:
        ValueError: For an unknown name or option, or an invalid value.
    """
    return make_bare_env(name, **{key: value for key, value in options.items() if key != "metrics"})


@dataclass(frozen=True)
class Subject:
    """What a process needs to make the environment."""

    name: str
    options: Mapping[str, Any]


class Trial:
    """One check in its process: makes instances, says what it does, sends what it finds.

    Args:
        check: Its name.
        subject: The environment.
        channel: To the process that waits.
        seconds: How long it may play.
    """

    def __init__(self, check: str, subject: Subject, channel: Channel, seconds: float) -> None:
        self.check, self.subject, self.seconds = check, subject, seconds
        self._channel = channel
        self.place = channel.place
        self._made: list[Watched | Env] = []

    def found(self, verdict: Verdict, text: str, where: str = "", check: str | None = None) -> None:
        """Send a finding."""
        self._channel.send(Finding(check or self.check, verdict, text, where))

    def fact(self, name: str, value: Any) -> None:
        """Send a measured number, an answer, or the spec."""
        self._channel.send((name, value))

    def watch(self) -> Watched:
        """A new instance, its steps checked."""
        self.place("making it")
        env = Watched(self, bare_env(self.subject.name, self.subject.options))
        self._made.append(env)
        return env

    def adapt(self) -> Env:
        """A new instance behind worldfleet's adapter."""
        self.place("making it")
        env = make_env(self.subject.name, **self.subject.options)
        self._made.append(env)
        return env

    def forget(self, env: Watched) -> None:
        """Leave an instance to whoever closes it."""
        self._made.remove(env)

    def close(self) -> None:
        """Close all instances; what close raises is for the check `close` to find."""
        for env in list(self._made):
            with contextlib.suppress(Exception):
                env.close()


class Watched:
    """A bare environment whose every step is checked, and which says what it is doing.

    Args:
        trial: Whose it is.
        env: The environment.
    """

    def __init__(self, trial: Trial, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.steps = 0  # of the present episode
        self.complaints = 0  # about the form of what it returned
        self.last_seconds = 0.0  # that the last call took
        self._trial = trial
        self._form = StepForm(env.observation_space, getattr(env.unwrapped, "metrics", ()), self._complain)
        self._episode = "the first episode"
        env.action_space.seed(0)

    def samples(self) -> Iterator[Any]:
        """Random actions, for ever."""
        while True:
            yield self.env.action_space.sample()

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._trial.place("reset()" if seed is None else f"reset(seed={seed})")
        self._episode = "an episode" if seed is None else f"the episode of reset(seed={seed})"
        self.steps = 0
        began = perf_counter()
        result = self.env.reset(seed=seed)
        self.last_seconds = perf_counter() - began
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"reset returns a {type(result).__name__}, not a pair of observation and info")
        self._form.check_observation(result[0])
        self._form.check_info(result[1])
        return result

    def step(self, action: Any) -> Step:
        """Act."""
        self.steps += 1
        self._trial.place(self.where)
        began = perf_counter()
        result = self.env.step(action)
        self.last_seconds = perf_counter() - began
        if not isinstance(result, tuple) or len(result) != 5:
            raise TypeError("step does not return (observation, reward, terminated, truncated, info)")
        self._form.check_step(result)
        return result

    @property
    def where(self) -> str:
        """The step under way."""
        return f"step {self.steps} of {self._episode}"

    def close(self) -> None:
        """End it."""
        self._trial.forget(self)
        self._trial.place("close()")
        self.env.close()  # type: ignore[no-untyped-call]

    def _complain(self, check: str, verdict: Verdict, text: str) -> None:
        self.complaints += 1
        self._trial.found(verdict, text, self.where if self.steps else f"reset of {self._episode}", check)


def adapted_action(spec: ArraySpec, rng: np.random.Generator) -> NDArray[Any]:
    """A random action as worldfleet's policies give it; from a box without bounds, a small one."""
    if spec.num_values is not None:
        return np.asarray(rng.integers(spec.num_values), np.int64)
    low, high = (bound.astype(np.float64) for bound in spec.bounds())
    finite = np.isfinite(low) & np.isfinite(high)
    drawn = np.where(
        finite,
        np.where(finite, low, 0) + rng.random(spec.shape) * np.where(finite, high - low, 0),
        np.clip(rng.normal(size=spec.shape), low, high),
    )
    return drawn.astype(spec.dtype)
