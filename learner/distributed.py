"""Data-parallel ranks: process group and the few sums they share.

N ranks with B/N sequences each take the same step as one rank with B: weight sums, normaliser statistics and gradients
are added over ranks, each in one flat buffer, and nothing is averaged twice.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

Backend = Literal["auto", "gloo", "nccl"]
logger = logging.getLogger(__name__)


class Collective:
    """Sums over the ranks of the process group; without a group there is one rank and sums are the identity."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, with one collective over one flat buffer.

        Args:
            tensors: Same dtype, same device and the same shapes on every rank.
        """
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks, a new tensor."""
        if self.world_size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def gather(self, values: Tensor) -> Tensor:
        """The values of all ranks one behind the other: [N] on each -> [world_size * N], in the order of the ranks."""
        if self.world_size == 1:
            return values
        everyone = values.new_zeros(self.world_size, len(values))
        everyone[self.rank] = values
        dist.all_reduce(everyone)
        return everyone.flatten()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier()


def current() -> Collective:
    """The ranks of the process group this process has joined, one rank without a group."""
    if not dist.is_initialized():
        return Collective()
    return Collective(dist.get_rank(), dist.get_world_size())


def free_port() -> int:
    """A TCP port that was free a moment ago, for rank 0 to be met at."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def initialise(
    host: str, port: int, rank: int, world_size: int, backend: Backend = "auto", timeout_seconds: float = 300.0
) -> Collective:
    """Join the process group; returns once every rank has.

    Args:
        host: Address of rank 0.
        port: Free port of rank 0.
        rank: Place of this process.
        world_size: Number of processes; 1 needs no group and makes none.
        backend: "nccl" for CUDA tensors, "gloo" for CPU tensors, "auto" by whether there is a CUDA device.
        timeout_seconds: Time after which meeting, or a sum with a missing rank, fails.

    Raises:
        ValueError: If the rank is not in [0, world_size).
        torch.distributed.DistError: If the ranks do not meet within the timeout.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got {rank} of {world_size}")
    if world_size == 1:
        return Collective()
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    logger.info("rank %d of %d joined over %s", rank, world_size, backend)
    return current()


def destroy() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
