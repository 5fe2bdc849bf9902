"""Which environment of a vector is at work, in memory that another process or thread may read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HEAD = 3  # row at work, ticks, signs of life; then the tick of the episode's reset and its number, per environment


class Progress:
    """Written by a vector environment as it goes, read by whoever waits for it.

    Args:
        num_envs: Environments, N.
        memory: int64 [size(N)] of zeros; its own by default.
    """

    def __init__(self, num_envs: int, memory: NDArray[np.int64] | None = None) -> None:
        array = np.zeros(self.size(num_envs), np.int64) if memory is None else memory
        self.cells: memoryview[int] = memoryview(array.data)  # faster than the array, one number at a time
        self.cells[0] = -1
        self._begun, self._episodes = _HEAD, _HEAD + num_envs

    def clear(self) -> None:
        """Begin anew; whoever wrote it is gone."""
        for cell in range(len(self.cells)):
            self.cells[cell] = 0
        self.cells[0] = -1

    @staticmethod
    def size(num_envs: int) -> int:
        """Numbers that the memory holds."""
        return _HEAD + 2 * num_envs

    def tick(self) -> None:
        """A step or reset of all environments begins."""
        self.cells[1] += 1

    def alive(self) -> None:
        """The environment at work begins another call within this tick."""
        self.cells[2] += 1

    def at(self, row: int) -> None:
        """Environment `row` is at work now, none for -1."""
        self.cells[0] = row

    def begin(self, row: int, instance: bool) -> None:
        """Environment `row` is about to be reset, a new or a newly seeded `instance` for the first time."""
        self.cells[self._begun + row] = self.cells[1]
        self.cells[self._episodes + row] = 0 if instance else self.cells[self._episodes + row] + 1

    def set_episode(self, row: int, steps: int, episode: int) -> None:
        """Environment `row` is at step `steps` of its episode number `episode`."""
        self.cells[self._begun + row] = self.cells[1] - steps
        self.cells[self._episodes + row] = episode

    @property
    def place(self) -> tuple[int, int, int]:
        """Row at work, or -1, and two counts; as long as they stay equal, the same call goes on."""
        return self.cells[0], self.cells[1], self.cells[2]

    def episode(self, row: int) -> int:
        """Episodes of this instance of environment `row` before the present one."""
        return self.cells[self._episodes + row]

    def step(self, row: int) -> int:
        """The step of its episode that environment `row` is at, 0 in a reset."""
        return self.cells[1] - self.cells[self._begun + row]
