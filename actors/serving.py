"""A policy served to many callers: what crosses, how requests become one call, and the caller's side.

The carry stays with the caller and travels with every request, so a server holds no episode: any server of the
same weights can answer any request, and one that dies takes nothing with it.

Letters: n rows of a request, N rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.carry import concatenate_rows, take_rows
from actors.records import Policy, PolicyOutput
from envs.specs import ArraySpec, StepBatch


@dataclass(frozen=True)
class ActRequest:
    """The steps at which one caller needs actions."""

    step: StepBatch  # n rows
    carry: Any  # n rows
    explore: bool

    @property
    def num_rows(self) -> int:
        return len(self.step.is_first)


ActResult = tuple[PolicyOutput, int]
"""(output, version of the weights that acted) of one request."""


class PolicyServer(Protocol):
    """Where a policy is served; a call waits for its answer."""

    def extras(self) -> Mapping[str, ArraySpec]: ...
    def initial(self, seeds: NDArray[np.uint64]) -> Any: ...
    def act(self, request: ActRequest) -> ActResult: ...


def act_together(policy: Policy, requests: Sequence[ActRequest]) -> list[ActResult]:
    """The results of all requests, in order, by one call of `policy` for those that explore and one for the others."""
    results: dict[int, ActResult] = {}
    for explore in (True, False):
        group = [index for index, request in enumerate(requests) if request.explore is explore]
        if group:
            chosen = [requests[index] for index in group]
            results.update(zip(group, _act(policy, chosen, explore), strict=True))
    return [results[index] for index in range(len(requests))]


def _act(policy: Policy, requests: Sequence[ActRequest], explore: bool) -> list[ActResult]:
    step = concatenate_rows([request.step for request in requests])
    output = policy.act(step, concatenate_rows([request.carry for request in requests]), explore)
    ends = np.cumsum([request.num_rows for request in requests]).tolist()
    rows = [slice(end - request.num_rows, end) for request, end in zip(requests, ends, strict=True)]
    return [(take_rows(output, index), policy.version) for index in rows]


class RemotePolicy:
    """Acts elsewhere; see actors.records.Policy.

    Args:
        server: Where the policy is served.
        observation_keys: Observations that the policy looks at; the others are not sent.
    """

    def __init__(self, server: PolicyServer, observation_keys: Sequence[str]) -> None:
        self.version = 0
        self.extras = server.extras()
        self._server = server
        self._keys = tuple(observation_keys)

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        """The carry of len(seeds) environments."""
        return self._server.initial(seeds)

    def act(self, step: StepBatch, carry: Any, explore: bool) -> PolicyOutput:
        """What the served policy says; `version` becomes that of its weights."""
        seen = replace(step, observation={key: step.observation[key] for key in self._keys}, info={})
        output, self.version = self._server.act(ActRequest(seen, carry, explore))
        # The answer may lie in shared memory, and a view of its action would keep all of it there.
        return replace(output, action=np.array(output.action))

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """The server has weights of its own."""
