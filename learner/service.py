"""The Ray actor of one learner rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import ray
from ray.util.metrics import Counter, Gauge

from learner import distributed
from learner.algorithms.base import Part, UpdateResult
from learner.batch import SequenceBatch
from learner.broadcast import BroadcastPrecision, pack_weights
from learner.device import DeviceName, resolve_device
from learner.learner import Learner, ResultSink
from learner.prefetch import Prefetcher


class RemoteSource(Iterator[SequenceBatch], Protocol):
    """Endless batches, and where the results of their updates go."""

    def write_back(self, batch: SequenceBatch, result: UpdateResult) -> None: ...


class LearnerActor:
    """One rank: trains on the batches it is given and, as rank 0, publishes weights.

    Args:
        make_learner: Builds the learner from its batches and from the sink of its priorities and write-backs.
        make_batches: Builds the source of this rank's batches.
        weights: Handle of the weight store.
        publish_every: Updates between two published versions.
        rank: This process's place in the group.
        world_size: Ranks of the group.
        broadcast: Precision of the published weights.
        device: Of the learner; on a GPU, batches are copied there while it computes.
    """

    def __init__(
        self,
        make_learner: Callable[[Iterator[SequenceBatch], ResultSink], Learner],
        make_batches: Callable[[], RemoteSource],
        weights: Any,
        publish_every: int,
        rank: int = 0,
        world_size: int = 1,
        broadcast: BroadcastPrecision = "fp32",
        device: DeviceName = "auto",
    ) -> None:
        self._make_learner, self._make_batches = make_learner, make_batches
        self._weights = weights
        self._publish_every = publish_every
        self._rank, self._world_size = rank, world_size
        self._broadcast, self._device = broadcast, device
        self._learner: Learner | None = None
        tags = {"rank": str(rank)}
        self._updates = Counter("worldfleet_learner_updates", "Updates of this rank", tag_keys=("rank",))
        self._loss = Gauge("worldfleet_learner_loss", "Mean loss of the last lease", tag_keys=("rank",))
        self._updates.set_default_tags(tags)
        self._loss.set_default_tags(tags)

    def address(self) -> tuple[str, int]:
        """This host and a free port, for rank 0 to listen at."""
        return ray.util.get_node_ip_address(), distributed.free_port()

    def start(self, address: tuple[str, int], state: dict[str, Any] | None) -> int:
        """Join the group, build the learner, restore `state` if given and publish first weights; the update count."""
        if self._world_size > 1:
            distributed.initialise(*address, self._rank, self._world_size)
        source = self._make_batches()
        self._learner = self._make_learner(Prefetcher(source, resolve_device(self._device)), source.write_back)
        if state is not None:
            self._learner.load_state_dict(state)
            self._publish()
        return self._learner.updates

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def train(self, num_updates: int, part: Part | None = None) -> tuple[int, dict[str, float]]:
        """Do `num_updates` updates, of `part` alone if given; (updates done in all, mean metrics of these)."""
        learner = self._started()
        sums: defaultdict[str, float] = defaultdict(float)
        for _ in range(num_updates):
            for name, value in learner.step(part).items():
                sums[name] += value
            if learner.updates % self._publish_every == 0:
                self._publish()
        means = {name: value / num_updates for name, value in sums.items()}
        self._updates.inc(num_updates)
        self._loss.set(means.get("loss", float("nan")))
        return learner.updates, means

    def state_dict(self) -> dict[str, Any]:
        """The learner's state."""
        return self._started().state_dict()

    def ping(self) -> int:
        """Updates done, -1 before `start`."""
        return -1 if self._learner is None else self._learner.updates

    def _publish(self) -> None:
        learner = self._started()
        weights = learner.export_weights()
        if self._rank == 0:
            packed = pack_weights(weights, self._broadcast)
            ray.get(self._weights.publish.remote(learner.updates, packed))

    def _started(self) -> Learner:
        assert self._learner is not None, "start() comes first"
        return self._learner
