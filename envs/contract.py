"""What an environment returns, checked against its spec: the one place that refuses it.

A wrong key, shape, dtype, id or flag is a broken contract (`ContractError`). A number that is not finite, and a reward
that is no number, are faults of the simulator (`StepFault`), which another instance may not have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.faults import StepFault
from envs.specs import ArraySpec, EnvSpec, StepBatch, TimeStep

logger = logging.getLogger(__name__)

ALWAYS_CHECKED_TICKS = 100
"""Ticks of a new vector environment at which ranges are checked, whatever the share of later ones."""
CHECK_SHARE = 0.01
"""Share of the later ticks."""

StepFields = tuple[Mapping[str, Any], Any, bool, bool, bool, Mapping[str, Any]]
"""The fields of a TimeStep, of which observation and reward are not checked yet."""

_ndarray = np.ndarray
_MOST = float(np.finfo(np.float32).max)
_FEW = 16
"""Numbers that Python adds up faster than NumPy."""


class ContractError(ValueError):
    """An environment returned what its spec rules out; the text names the environment, the key and both values."""


def to_arrays(observation: Mapping[str, Any], specs: Mapping[str, ArraySpec], name: str) -> dict[str, NDArray[Any]]:
    """An observation as arrays of the shapes and dtypes of its specs.

    Floats are rounded to the spec's width, integers and booleans are taken for floats, and integers of another width
    where every value fits.

    Args:
        observation: Key -> an array, or what NumPy makes one of.
        specs: What they should be.
        name: Name of the environment, for errors.

    Raises:
        ContractError: For a key that is missing or not declared, another shape, or a dtype whose values would change.
    """
    if observation.keys() != specs.keys():
        raise ContractError(f"{name}: observation has the keys {sorted(observation)}, its spec says {sorted(specs)}")
    return {key: _to_array(observation[key], spec, f"{name}: {key!r}") for key, spec in specs.items()}


def _to_array(value: Any, spec: ArraySpec, what: str) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ContractError(f"{what} is no array ({error}); its spec says shape {spec.shape}") from None
    if array.shape != spec.shape:
        raise ContractError(f"{what} has shape {array.shape}, its spec says {spec.shape}")
    if array.dtype.kind in ("fiub" if dtype.kind == "f" else "iub"):
        with np.errstate(over="ignore"):  # an infinity is found with the others
            cast = array.astype(dtype, copy=False)
        if dtype.kind == "f" or np.array_equal(cast, array):
            return cast
    raise ContractError(f"{what} is {brief(array)} of dtype {array.dtype}, its spec says {dtype}")


class Contract:
    """Takes the steps of environments of one spec, and refuses those that are not of it.

    In every step keys, shapes, dtypes, rewards and flags are checked, and that the numbers are finite (`nonfinite`);
    that they are in range in the first ticks of a vector environment, and then at a share of them. Floats that leave
    their range only later are told once and taken: they can be learned from, and many a box is not meant so exactly.

    Args:
        spec: What the environments say they return.
        check_share: Share of the ticks after the first ones whose ranges are checked; 0 checks none at all.
    """

    def __init__(self, spec: EnvSpec, check_share: float = CHECK_SHARE) -> None:
        self._spec = spec
        self._arrays = [(key, array.shape, np.dtype(array.dtype)) for key, array in spec.observation.items()]
        self._floats = [key for key, _, dtype in self._arrays if dtype.kind == "f"]
        bounds = {key: _bounds(array) for key, array in spec.observation.items()}
        self._ranges = {key: found for key, found in bounds.items() if found is not None and check_share}
        self._every = round(1 / check_share) if check_share else 0
        self._ticks = 0

    def fields(self, step: TimeStep) -> StepFields:
        """The fields of a step, with its flags as bools.

        Raises:
            ContractError: A flag is none.
        """
        flags = (self.flag(key, getattr(step, key)) for key in ("is_first", "is_last", "is_terminal"))
        is_first, is_last, is_terminal = flags
        return step.observation, step.reward, is_first, is_last, is_terminal, step.info

    def begin(self, out: StepBatch) -> None:
        """Start a tick: `write` sets only the flags and metrics that are not 0."""
        out.is_first[:] = out.is_last[:] = out.is_terminal[:] = False
        for values in out.info.values():
            values[:] = 0.0

    def write(
        self,
        out: StepBatch,
        row: int,
        observation: Mapping[str, Any],
        reward: Any,
        is_first: bool,
        is_last: bool,
        is_terminal: bool,
        info: Mapping[str, Any],
    ) -> bool:
        """Put the fields of a TimeStep, see `fields`, into their row of a batch; whether it is the last of its episode.

        Raises:
            ContractError: They are not of the spec.
            StepFault: The reward is no finite number, or a metric is not finite.
        """
        arrays = out.observation
        if len(observation) != len(arrays):
            to_arrays(observation, self._spec.observation, self._spec.name)
        for key, shape, dtype in self._arrays:
            value = observation.get(key)
            if value.__class__ is not _ndarray or value.dtype is not dtype or value.shape != shape:
                value = to_arrays(observation, self._spec.observation, self._spec.name)[key]
            arrays[key][row] = value
        out.reward[row] = reward if reward.__class__ is float and -_MOST <= reward <= _MOST else self.reward(reward)
        if is_first:
            out.is_first[row] = True
        if is_last:
            out.is_last[row] = True
            out.is_terminal[row] = is_terminal
        for key, values in out.info.items():
            try:
                if value := info.get(key):
                    if not math.isfinite(value):
                        raise StepFault("nonfinite", f"metric {key!r} is {value!r:.200}, no finite number")
                    values[row] = value
            except StepFault:
                raise
            except (TypeError, ValueError):
                raise ContractError(f"{self._spec.name}: metric {key!r} is {value!r:.200}, no number") from None
            except AttributeError:
                raise ContractError(f"{self._spec.name}: info is {info!r:.200}, Gymnasium says a dict") from None
        return is_last

    def nonfinite(self, out: StepBatch, rows: Sequence[int] | None = None) -> list[tuple[int, StepFault]]:
        """Rows of a batch with NaN or infinity in an observation; faster for all environments together.

        Args:
            out: The batch.
            rows: Look at these alone.
        """
        found: dict[int, StepFault] = {}
        for key in self._floats:
            values = out.observation[key]
            if rows is None and _all_finite(values):
                continue
            for row in range(len(values)) if rows is None else rows:
                if row not in found and not np.isfinite(values[row]).all():
                    found[row] = StepFault(
                        "nonfinite", f"{key!r} is {brief(values[row])}, its spec says finite numbers"
                    )
        return sorted(found.items())

    def clear(self, out: StepBatch, row: int) -> None:
        """Forget what was written of a row."""
        out.is_first[row] = out.is_last[row] = out.is_terminal[row] = False
        for values in out.info.values():
            values[row] = 0.0

    def end(self, out: StepBatch) -> None:
        """Check, where it is due, that finite numbers are in range; faster for all environments together.

        Raises:
            ContractError: One is not, and it is an integer or an early one.
        """
        early = self._ticks < ALWAYS_CHECKED_TICKS
        if early or (self._every and self._ticks % self._every == 0):
            for key, (low, high) in list(self._ranges.items()):
                values = out.observation[key]
                if not ((values >= low) & (values <= high)).all():
                    text = self._out_of_range(key, values, low, high)
                    if early or key not in self._floats:
                        raise ContractError(f"{text}; env.check_share=0 checks no ranges")
                    logger.warning("%s; it is not looked at any more", text)
                    del self._ranges[key]
        self._ticks += 1

    def reward(self, value: Any) -> float:
        """A reward as a number; an array of one element is one.

        Raises:
            StepFault: It is anything else, or not finite as float32.
        """
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.empty(0)
        if array.size != 1 or array.dtype.kind not in "fiub":
            raise StepFault("reward", f"reward is {value!r:.200}, its spec says one number")
        number = float(array.item())
        if not -_MOST <= number <= _MOST:
            raise StepFault("reward", f"reward is {number}, its spec says a finite float32")
        return number

    def flag(self, key: str, value: Any) -> bool:
        """A flag as a bool.

        Raises:
            ContractError: It is none.
        """
        if not isinstance(value, bool | np.bool_):
            raise ContractError(f"{self._spec.name}: {key} is {value!r:.200}, its spec says true or false")
        return bool(value)

    def _out_of_range(self, key: str, values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> str:
        """One line about the first value that is outside."""
        row, *index = np.argwhere((values < low) | (values > high))[0].tolist()
        at = tuple(index)
        value = values[(row, *at)]
        return f"{self._spec.name}: {key!r}{index or ''} is {value}, its spec says [{low[at]}, {high[at]}]"


def _all_finite(values: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite, with one pass of the fastest kind where all are well."""
    total = sum(values.ravel().tolist()) if values.size <= _FEW else np.vdot(values, values)
    return math.isfinite(total) or bool(np.isfinite(values).all())


def _bounds(spec: ArraySpec) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Bounds [*shape] that arrays of the dtype can leave, None if there are none."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        least, most = -np.inf, np.inf
    elif dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    else:
        return None
    exact = dtype if dtype.kind == "f" else np.float64  # a float that was rounded to the dtype obeys rounded bounds
    low, high = spec.bounds(exact)
    return (low, high) if (low > least).any() or (high < most).any() else None


def brief(values: NDArray[Any]) -> str:
    """The values on one line, shortened."""
    return np.array2string(values, threshold=8, edgeitems=3, precision=8).replace("\n", "")
