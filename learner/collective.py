"""The sums that data-parallel ranks share.

N ranks with B / N sequences each take the same step as one rank with B: weight sums, normaliser statistics and
gradients are added over ranks, each in one flat buffer, and nothing is averaged twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


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
        """The values of all ranks one after the other: [N] on each -> [world_size * N], in the order of the ranks."""
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
