"""Threads, order, exceptions and memory of the prefetcher; the device is the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from learner.batch import SequenceBatch
from learner.device import DeviceBatch, batch_tensors
from learner.prefetch import Prefetcher

CPU = torch.device("cpu")


def numbered(number: int, size: int = 2, length: int = 3) -> SequenceBatch:
    """A batch that carries `number` everywhere."""
    return SequenceBatch(
        data={
            "image": np.full((size, length, 4), number % 256, np.uint8),
            "reward": np.full((size, length), number, np.float32),
            "is_first": np.zeros((size, length), np.bool_),
        },
        stream_id=np.full(size, number, np.uint64),
        first_step=np.full(size, number, np.int64),
        policy_version=np.full(size, number, np.int64),
        weight=np.full(size, number, np.float32),
        handle=np.full((size, 3), number, np.int64),
    )


class Recycling:
    """A source that writes every batch into the memory of the one before, like slots; counts what was taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        self.threads: set[int] = set()
        self._batch = numbered(0)

    def __iter__(self) -> Iterator[SequenceBatch]:
        return self

    def __next__(self) -> SequenceBatch:
        self.threads.add(threading.get_ident())
        if self.taken == self.count:
            raise StopIteration
        for array in (*self._batch.data.values(), self._batch.stream_id, self._batch.handle):
            array[...] = self.taken % 256
        self.taken += 1
        return self._batch


def test_the_cpu_hands_batches_through_by_default() -> None:
    batch = numbered(1)
    prefetcher = Prefetcher(iter([batch]), CPU)
    assert next(prefetcher) is batch
    with pytest.raises(StopIteration):
        next(prefetcher)
    prefetcher.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_order_and_content_hold_though_the_source_reuses_its_memory(depth: int) -> None:
    source = Recycling(40)
    prefetcher = Prefetcher(source, CPU, depth)
    kept = []
    for number, batch in enumerate(prefetcher):
        assert (batch.data["image"] == number).all()
        assert (batch.data["reward"] == number).all()
        assert batch.data["image"].dtype == np.uint8
        assert batch.data["is_first"].dtype == np.bool_
        kept.append(batch)
    assert [int(batch.handle[0, 0]) for batch in kept] == list(range(40))  # the caller's, not memory that is reused
    assert [int(batch.stream_id[1]) for batch in kept] == list(range(40))
    assert threading.get_ident() not in source.threads
    prefetcher.close()


def test_no_more_than_depth_batches_are_taken_ahead() -> None:
    source = Recycling(100)
    prefetcher = Prefetcher(source, CPU, 3)
    for used in range(1, 10):
        next(prefetcher)
        assert source.taken <= used + 3
    prefetcher.close()


def test_an_exception_of_the_source_comes_in_its_place() -> None:
    def source() -> Iterator[SequenceBatch]:
        yield numbered(1)
        yield numbered(2)
        raise TimeoutError("no shard holds anything")

    prefetcher = Prefetcher(source(), CPU, 4)
    assert [int(next(prefetcher).stream_id[0]) for _ in range(2)] == [1, 2]
    with pytest.raises(TimeoutError, match="no shard holds anything"):
        next(prefetcher)
    with pytest.raises(StopIteration):
        next(prefetcher)
    prefetcher.close()


def test_closing_ends_the_thread_and_leaves_the_source_usable() -> None:
    source = Recycling(1000)
    before = threading.active_count()
    prefetcher = Prefetcher(source, CPU, 2)
    next(prefetcher)
    prefetcher.close()
    assert threading.active_count() == before
    taken = source.taken
    with pytest.raises(StopIteration):
        next(prefetcher)
    next(source)
    assert source.taken == taken + 1


def test_batches_of_changing_shape_are_copied_whole() -> None:
    prefetcher = Prefetcher(iter([numbered(1), numbered(2, 5, 7), numbered(3)]), CPU, 2)
    assert [batch.shape for batch in prefetcher] == [(2, 3), (5, 7), (2, 3)]


def test_tensors_of_a_batch_are_those_on_the_device_already() -> None:
    batch = numbered(3)
    tensors = batch_tensors(batch, CPU)
    assert tensors["image"].dtype == torch.uint8
    assert tensors["is_first"].dtype == torch.bool
    assert tensors["reward"].tolist() == [[3.0] * 3] * 2
    moved = DeviceBatch(**vars(batch), tensors=tensors)
    assert batch_tensors(moved, CPU) is tensors


def test_negative_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must not be negative, got -1"):
        Prefetcher(iter([]), CPU, -1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_on_the_gpu_in_order() -> None:
    device = torch.device("cuda")
    prefetcher = Prefetcher(Recycling(60), device)
    sums = []
    for number, batch in enumerate(prefetcher):
        assert isinstance(batch, DeviceBatch)
        tensors = batch_tensors(batch, device)
        assert tensors is batch.tensors
        assert tensors["image"].is_cuda
        assert torch.from_numpy(batch.data["image"]).is_pinned()
        sums.append((tensors["reward"].double().mean(), number))
    assert [float(value) for value, _ in sums] == [float(number) for _, number in sums]
    prefetcher.close()
