"""Whether what `reset` and `step` return has the form that the spaces and Gymnasium promise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.testing.report import Verdict

Complain = Callable[[str, Verdict, str], None]
"""Takes the check a complaint belongs to, the verdict and the text."""
_ROUNDING = 1e-5
"""How far a float may lie outside its bounds, relative to them."""


class StepForm:
    """Complains about each kind of deviation once.

    Args:
        space: The observation space.
        metrics: Names of the metrics that the environment declares.
        complain: Where complaints go.
    """

    def __init__(self, space: spaces.Space[Any], metrics: Iterable[str], complain: Complain) -> None:
        self._space = space
        self._metrics = tuple(metrics)
        self._send = complain
        self._told: set[tuple[str, str]] = set()

    def check_step(self, result: tuple[Any, Any, Any, Any, Any]) -> None:
        """Observation, reward, flags and info of a step."""
        observation, reward, terminated, truncated, info = result
        self.check_observation(observation)
        self._check_reward(reward)
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                self._complain("flags", "note", f"{name} is of type {type(flag).__name__}, not bool")
        self.check_info(info)

    def check_info(self, info: Any) -> None:
        """That info is a dict, with the declared metrics as numbers."""
        if not isinstance(info, dict):
            self._complain("info", "fault", f"info is a {type(info).__name__}, not a dict")
            return
        for key in self._metrics:
            if key in info and (np.ndim(info[key]) or not np.isfinite(info[key])):
                self._complain("info", "fault", f"the metric {key!r} is {_brief(info[key])}, not a number", key)

    def check_observation(self, observation: Any) -> None:
        """Keys, dtypes, shapes, ranges and finiteness."""
        for name, space, value in self._leaves(self._space, observation, ""):
            if isinstance(space, spaces.Box):
                self._check_array(name, space, value)
            elif not space.contains(_plain(value)):
                self._complain("observations", "fault", f"{name} is {_brief(value)}, which is not in {space}", name)

    def _leaves(self, space: spaces.Space[Any], value: Any, path: str) -> Iterator[tuple[str, spaces.Space[Any], Any]]:
        """Every part of an observation that is there, with its space."""
        name = f"observation {path!r}" if path else "the observation"
        if isinstance(space, spaces.Dict):
            if not isinstance(value, dict):
                self._complain("observations", "fault", f"{name} is a {type(value).__name__}, not a dict")
                return
            for key in value.keys() - space.keys():
                self._complain("observations", "fault", f"{name} has a key {key!r} that its space does not declare")
            for key, part in space.items():
                if key in value:
                    yield from self._leaves(part, value[key], f"{path}/{key}" if path else key)
                else:
                    self._complain("observations", "fault", f"{name} lacks the key {key!r}, which its space declares")
        elif isinstance(space, spaces.Tuple):
            if not isinstance(value, tuple) or len(value) != len(space.spaces):
                self._complain(
                    "observations", "fault", f"{name} is {_brief(value)}, not {len(space.spaces)} parts", name
                )
                return
            for index, part in enumerate(space.spaces):
                yield from self._leaves(part, value[index], f"{path}/{index}" if path else str(index))
        else:
            yield name, space, value

    def _check_array(self, name: str, space: spaces.Box, value: Any) -> None:
        if not isinstance(value, np.ndarray | np.generic):
            self._complain("observations", "note", f"{name} is a {type(value).__name__}, not an array")
        try:
            array = np.asarray(value)
        except ValueError:
            self._complain("observations", "fault", f"{name} has no array form: {_brief(value)}", name)
            return
        if array.shape != space.shape:
            self._complain("observations", "fault", f"{name} has shape {array.shape}, its space {space.shape}")
            return
        if array.dtype != space.dtype:
            fits = np.can_cast(array.dtype, space.low.dtype, "same_kind")
            text = f"{name} is {array.dtype}, its space {space.dtype}"
            self._complain("observations", "note" if fits else "fault", text)
        if array.dtype.kind not in "fiub":
            return
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            self._complain("finite", "fault", f"{name} holds {array[~np.isfinite(array)].flat[0]}", name)
        elif (outside := np.atleast_1d(self._outside(array, space))).any():
            at = tuple(np.argwhere(outside)[0].tolist()) if array.ndim else ()
            bounds = f"[{space.low[at]:g}, {space.high[at]:g}]"
            text = f"{name} lies outside its space: {array[at]:g}{f' at {list(at)}' if at else ''}, bounds {bounds}"
            self._complain("observations", "fault", text, f"{name} outside")

    @staticmethod
    def _outside(array: NDArray[Any], space: spaces.Box) -> NDArray[np.bool_]:
        if array.dtype.kind != "f":
            return np.asarray((array < space.low) | (array > space.high))
        with np.errstate(invalid="ignore"):
            margin_low = np.where(np.isfinite(space.low), _ROUNDING * np.maximum(1, np.abs(space.low)), 0)
            margin_high = np.where(np.isfinite(space.high), _ROUNDING * np.maximum(1, np.abs(space.high)), 0)
        return np.asarray((array < space.low - margin_low) | (array > space.high + margin_high))

    def _check_reward(self, reward: Any) -> None:
        if isinstance(reward, np.ndarray):
            verdict: Verdict = "note" if reward.shape == () else "fault"
            self._complain("rewards", verdict, f"the reward is an array of shape {reward.shape}, not a number")
        elif not isinstance(reward, float | int | np.floating | np.integer | np.bool_):
            self._complain("rewards", "fault", f"the reward is a {type(reward).__name__}, not a number")
            return
        if not np.isfinite(reward).all():
            self._complain("finite", "fault", f"the reward is {_brief(reward)}", "reward")

    def _complain(self, check: str, verdict: Verdict, text: str, kind: str | None = None) -> None:
        """Once for a kind, by default for a text: values that change from step to step are no new complaint."""
        if (check, kind or text) not in self._told:
            self._told.add((check, kind or text))
            self._send(check, verdict, text)


def _plain(value: Any) -> Any:
    """An array without axes as the number it holds, which Gymnasium's discrete spaces want."""
    return value[()] if isinstance(value, np.ndarray) and value.shape == () else value


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
