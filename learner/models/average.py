"""Exponential moving average of parameters (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterAverage:
    """A slowly moving copy of parameters, which can stand in for them.

    The decay of update t is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.

    Args:
        parameters: What to average; they must stay on their device.
        decay: Share of the old average that an update keeps; 0 makes the average equal to the parameters.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = list(parameters)
        self._values = [p.detach().clone() for p in self._parameters] if decay > 0 else []

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the parameters."""
        if self.decay == 0:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._values, [p.data for p in self._parameters], 1.0 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the parameters hold the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def reset(self) -> None:
        """Make the average equal to the parameters."""
        for value, parameter in zip(self._values, self._parameters if self._values else [], strict=True):
            value.copy_(parameter)

    def state_dict(self) -> dict[str, object]:
        """The averaged values and the number of updates."""
        return {"updates": self.updates, "values": [value.clone() for value in self._values]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a `state_dict`."""
        values, updates = state["values"], state["updates"]
        assert isinstance(values, list)
        assert isinstance(updates, int)
        for value, stored in zip(self._values, values, strict=True):
            assert isinstance(stored, Tensor)
            value.copy_(stored)
        self.updates = updates

    def _swap(self) -> None:
        for index, value in enumerate(self._values):
            parameter = self._parameters[index]
            self._values[index], parameter.data = parameter.data, value
