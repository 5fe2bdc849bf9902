"""The process group of data-parallel ranks: how a process joins and leaves it."""

from __future__ import annotations

import logging
import socket
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from learner.collective import Collective, current

Backend = Literal["auto", "gloo", "nccl"]
logger = logging.getLogger(__name__)


def free_port() -> int:
    """A TCP port that was free a moment ago, for rank 0 to listen at."""
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
