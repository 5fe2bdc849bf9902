"""Storage of StepBatch records: fresh arrays, and views of memory that processes share."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.specs import EnvSpec, StepBatch

_CACHE_LINE = 64


def allocate(spec: EnvSpec, num_envs: int) -> StepBatch:
    """Arrays for one step of `num_envs` environments, not filled."""
    return StepBatch(
        observation={k: np.empty((num_envs, *s.shape), s.dtype) for k, s in spec.observation.items()},
        reward=np.empty(num_envs, np.float32),
        is_first=np.empty(num_envs, np.bool_),
        is_last=np.empty(num_envs, np.bool_),
        is_terminal=np.empty(num_envs, np.bool_),
        info={key: np.empty(num_envs, np.float32) for key in spec.metrics},
    )


def begin_like(batch: StepBatch) -> StepBatch:
    """New arrays like those of `batch`: flags and metrics as there, the others not filled."""
    return StepBatch(
        {key: np.empty_like(array) for key, array in batch.observation.items()},
        np.empty_like(batch.reward),
        batch.is_first.copy(),
        batch.is_last.copy(),
        batch.is_terminal.copy(),
        {key: array.copy() for key, array in batch.info.items()},
    )


def copy_batch(batch: StepBatch) -> StepBatch:
    """New arrays with the contents of `batch`."""
    return _map(np.copy, batch)


def rows_of(batch: StepBatch, rows: slice) -> StepBatch:
    """Views of some rows."""
    return _map(lambda array: array[rows], batch)


def _map(function: Callable[[NDArray[Any]], NDArray[Any]], batch: StepBatch) -> StepBatch:
    return StepBatch(
        {key: function(array) for key, array in batch.observation.items()},
        function(batch.reward),
        function(batch.is_first),
        function(batch.is_last),
        function(batch.is_terminal),
        {key: function(array) for key, array in batch.info.items()},
    )


def _aligned(size: int) -> int:
    """`size` rounded up to whole cache lines, so that no two arrays share one."""
    return -(-size // _CACHE_LINE) * _CACHE_LINE


def memory_size(spec: EnvSpec, num_envs: int) -> int:
    """Bytes that `shared_views` needs."""
    arrays = [*spec.observation.values(), spec.action]
    sizes = [num_envs * array.size * np.dtype(array.dtype).itemsize for array in arrays]
    sizes += [num_envs * 4] * (1 + len(spec.metrics)) + [num_envs] * 3
    return sum(_aligned(size) for size in sizes)


def shared_views(memory: mmap.mmap, spec: EnvSpec, num_envs: int) -> tuple[StepBatch, NDArray[Any]]:
    """Steps and actions of all environments as views of `memory`."""
    offset = 0

    def take(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        nonlocal offset
        array: NDArray[Any] = np.ndarray((num_envs, *shape), dtype, memory, offset)
        offset += _aligned(array.nbytes)
        return array

    steps = StepBatch(
        observation={k: take(s.shape, s.dtype) for k, s in spec.observation.items()},
        reward=take((), "float32"),
        is_first=take((), "bool"),
        is_last=take((), "bool"),
        is_terminal=take((), "bool"),
        info={key: take((), "float32") for key in spec.metrics},
    )
    return steps, take(spec.action.shape, spec.action.dtype)
