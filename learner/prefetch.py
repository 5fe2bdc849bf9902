"""Batches taken ahead of the learner, and on their way to its device.

    source -> [thread: copy into pinned memory, start the copy to the device] -> queue of `depth` -> learner

The copy to a GPU runs on a stream of its own while the learner computes, and a source that reuses its memory has
it back as soon as the batch is copied.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import SequenceBatch
from learner.device import DeviceBatch, torch_dtype


class Prefetcher:
    """Takes the batches of an iterator in their order, in a thread, and starts their copy to the device.

    A batch's `data` is valid until the one after it is taken; its tensors and its other arrays are the caller's.
    On the CPU nothing is gained but the source's time, so by default batches are handed through.

    Args:
        batches: Source; used by the thread alone from now on.
        device: Where the batches are needed.
        depth: Batches ahead; None takes 2 for a GPU and 0, no thread at all, for the CPU.

    Raises:
        ValueError: The depth is negative.
    """

    def __init__(self, batches: Iterator[SequenceBatch], device: torch.device, depth: int | None = None) -> None:
        if depth is not None and depth < 0:
            raise ValueError(f"depth must not be negative, got {depth}")
        self._batches = batches
        self._depth = (2 if device.type == "cuda" else 0) if depth is None else depth
        self._closed = False
        self._ended = False  # the source has ended or failed; written by the thread
        self._free = [_Memory(device) for _ in range(self._depth + 1)]  # `depth` ahead and the one in use
        self._loading: deque[Future[_Memory]] = deque()
        self._held: _Memory | None = None
        if self._depth > 0:
            self._thread = ThreadPoolExecutor(1, "prefetch")

    def __iter__(self) -> Iterator[SequenceBatch]:
        return self

    def __next__(self) -> SequenceBatch:
        """The next batch.

        Raises:
            StopIteration: The source has ended or failed before, or the prefetcher is closed.
            Exception: What the source raised.
        """
        if self._depth == 0:
            return next(self._batches)
        if self._held is not None:
            self._free.append(self._held)
            self._held = None
        while self._free and not (self._ended or self._closed):
            self._loading.append(self._thread.submit(self._load, self._free.pop()))
        if not self._loading:
            raise StopIteration
        self._held = self._loading.popleft().result()
        return self._held.batch()

    def close(self) -> None:
        """Stop after the batch the thread is waiting for; the source may then be used again."""
        self._closed = True
        if self._depth > 0:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._loading.clear()

    def _load(self, memory: _Memory) -> _Memory:
        """Runs in the thread."""
        if self._ended:
            raise StopIteration
        loaded = False
        try:
            memory.load(next(self._batches))
            loaded = True
        finally:
            self._ended = not loaded
        return memory


class _Memory:
    """Host memory for one batch, pinned if it is copied to a GPU, and its tensors there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}
        self._batch: SequenceBatch | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def load(self, batch: SequenceBatch) -> None:
        """Copy a batch here, and start its copy to the device."""
        if self._copied is not None:
            self._copied.synchronize()  # the host memory may still be read by the copy of an earlier batch
        data: dict[str, NDArray[Any]] = {}
        for key, value in batch.data.items():
            host = self._host.get(key)
            if host is None or host.shape != value.shape or host.numpy().dtype != value.dtype:
                pinned = self._stream is not None
                host = torch.empty(value.shape, dtype=torch_dtype(value.dtype), pin_memory=pinned)
                self._host[key] = host
            data[key] = host.numpy()
            np.copyto(data[key], value)
        self._batch = replace(replace(batch, data={}).map_rows(np.copy), data=data)
        if self._stream is not None and self._copied is not None:
            with torch.cuda.stream(self._stream):
                self._tensors = {key: host.to(self._device, non_blocking=True) for key, host in self._host.items()}
                self._copied.record(self._stream)

    def batch(self) -> SequenceBatch:
        """The batch; work of the caller's stream waits for the copy, the caller does not."""
        assert self._batch is not None
        if self._copied is None:
            return self._batch
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._copied)
        for tensor in self._tensors.values():
            tensor.record_stream(stream)  # the memory is not given to the next copy before the caller's work is done
        return DeviceBatch(**vars(self._batch), tensors=self._tensors)
