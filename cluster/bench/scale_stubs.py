"""Stand-ins of the scale benchmark: logical actors that share a few real Ray processes.

512 real rollout processes would need more memory than a workstation has, and would measure its scheduler. So a logical
actor here is an index inside a `StubHost`; calls to it are real Ray calls with the real arguments and answers, and
only what the real actor does between them (simulating, planning) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any

import numpy as np

from actors.records import Block, Episode
from actors.replay.flow.credits import Message, MessageWindow
from actors.replay.flow.routing import route
from actors.replay.flow.service import RayInserts
from actors.replay.wire.blocks import encode_blocks
from actors.service import RolloutSummary

MAX_MESSAGES = 4
"""Messages a logical sender may have at one shard, as a rollout actor."""

MAX_BYTES = 1 << 20


class StubHost:
    """One Ray process that stands for many rollout actors.

    Args:
        block_steps: Steps of a block.
    """

    def __init__(self, block_steps: int) -> None:
        self._block_steps = block_steps

    def ping(self) -> None:
        """Answers when the process is up."""

    def run(self, actor: int, num_ticks: int) -> RolloutSummary:
        """What a rollout actor answers to a lease, at once."""
        episode = Episode(1.0, 100, 0, {"is_success": 1.0})
        metrics = {"planning_ms": 1.0, "elite_return": 1.0}
        return RolloutSummary(actor, 0, num_ticks, num_ticks, 0, [episode], metrics, 0, 0, 1e-3, 1e-3, 1e-3)

    def attach(self, shards: Sequence[Any], first_actor: int, num_actors: int) -> None:
        """Prepare `num_actors` senders, each with one stream."""
        self._senders = [_Sender(shards, first_actor + number, self._block_steps) for number in range(num_actors)]

    def send(self, messages_each: int) -> float:
        """Every sender sends so many blocks of small steps, in turns; the seconds until all are acknowledged."""
        start = perf_counter()
        for _ in range(messages_each):
            for sender in self._senders:
                sender.send()
        for sender in self._senders:
            sender.window.settle(wait=True)
        return perf_counter() - start

    def send_for(self, seconds: float) -> int:
        """Send in turns for so long; the blocks acknowledged."""
        end, senders, blocks = perf_counter() + seconds, cycle(self._senders), 0
        while perf_counter() < end:
            next(senders).send()
            blocks += 1
        for sender in self._senders:
            sender.window.settle(wait=True)
        return blocks

    def poll(self, store: Any, known: int, count: int) -> None:
        """Ask the weight store `count` times, one after another, whether there is news."""
        import ray

        for _ in range(count):
            ray.get(store.latest.remote(known))

    def pull(self, store: Any) -> int:
        """Fetch the newest weights; their bytes."""
        import ray

        _, (reference,) = ray.get(store.latest.remote(-1))
        return sum(array.nbytes for array in ray.get(reference).values())


@dataclass(frozen=True)
class LogicalActor:
    """Handle of one actor of a host, with the `run` of a rollout actor's handle."""

    host: Any
    index: int

    @property
    def run(self) -> _LogicalMethod:
        return _LogicalMethod(self.host, self.index)


@dataclass(frozen=True)
class _LogicalMethod:
    host: Any
    index: int

    def remote(self, num_ticks: int) -> Any:
        return self.host.run.remote(self.index, num_ticks)


@dataclass(frozen=True)
class StubFleet:
    """Handles by role, none of which ever dies."""

    actors: Mapping[str, Sequence[Any]]

    @property
    def ray_names(self) -> dict[tuple[str, int], str]:
        """As of a `Fleet`."""
        return {(name, index): f"{name}-{index}" for name, them in self.actors.items() for index in range(len(them))}

    def restart_due(self) -> list[Any]:
        """Nothing is due."""
        return []

    def seconds_to_restart(self) -> float:
        """Nothing will be."""
        return math.inf


class _Sender:
    """One stream of small steps to its shard, with the window of a rollout actor."""

    def __init__(self, shards: Sequence[Any], actor: int, block_steps: int) -> None:
        self._stream, self._step, self._block_steps = actor, 0, block_steps
        self.window = MessageWindow(RayInserts(shards[route(actor, len(shards))]), MAX_MESSAGES, MAX_BYTES)

    def send(self) -> None:
        """Send the next block."""
        header, payload = encode_blocks([small_block(self._stream, self._step, self._block_steps)])
        self._step += self._block_steps
        self.window.send(Message(header, payload, payload.nbytes, self._block_steps))


def small_block(stream: int, first_step: int, steps: int) -> Block:
    """Steps of an 8-dimensional state: next to no bytes, so that what is timed is the control plane."""
    data = {
        "state": np.zeros((steps, 8), np.float32),
        "action": np.zeros((steps, 2), np.float32),
        "reward": np.zeros(steps, np.float32),
        "is_first": np.zeros(steps, np.bool_),
        "is_last": np.zeros(steps, np.bool_),
        "is_terminal": np.zeros(steps, np.bool_),
        "episode": np.zeros(steps, np.int64),
    }
    return Block(stream, first_step, 0, data)
