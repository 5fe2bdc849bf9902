"""The Ray actor of one learner rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import ray
from ray.util.metrics import Counter, Gauge

from learner import distributed
from learner.algorithms.base import Part, UpdateResult
from learner.batch import SequenceBatch
from learner.broadcast import BroadcastPrecision, pack_weights
from learner.device import resolve_device
from learner.learner import Learner, ResultSink, is_due
from learner.learner_config import DeviceName
from learner.means import MetricSums, sum_metrics
from learner.prefetch import Prefetcher


class RemoteSource(Iterator[SequenceBatch], Protocol):
    """Endless batches, and where the results of their updates go."""

    def write_back(self, batch: SequenceBatch, result: UpdateResult) -> None: ...


class Pulse(Protocol):
    """Signs of life of an actor whose calls take long."""

    def tick(self) -> bool:
        """Count a step of work; whether the run is to stop."""
        ...


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
        make_pulse: Starts the signs of life of this process, if it is to give any.
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
        make_pulse: Callable[[], Pulse] | None = None,
    ) -> None:
        self._tick: Callable[[], bool] = (lambda: False) if make_pulse is None else make_pulse().tick
        self._make_learner, self._make_batches = make_learner, make_batches
        self._weights = weights
        self._publish_every = publish_every
        self._rank, self._world_size = rank, world_size
        self._broadcast, self._device = broadcast, device
        self._learner: Learner | None = None
        tags = {"rank": str(rank)}
        self._updates = Counter("worldfleet_learner_updates", "Updates of this rank", tag_keys=("rank",))
        self._nonfinite = Counter(
            "worldfleet_learner_nonfinite", "Updates of this rank that were skipped", tag_keys=("rank",)
        )
        self._loss = Gauge("worldfleet_learner_loss", "Mean loss of the last lease", tag_keys=("rank",))
        self._updates.set_default_tags(tags)
        self._nonfinite.set_default_tags(tags)
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
    def train(self, num_batches: int, part: Part | None = None) -> tuple[int, MetricSums]:
        """Make the updates of `num_batches` batches, of `part` alone if given.

        A rank alone makes fewer if the run is to stop; the ranks of a group cannot know that they agree.

        Returns:
            Updates made in all, and the metrics of these batches, each over those that have it.

        Raises:
            NonFiniteError: Too many updates in a row were not finite.
        """
        learner = self._started()
        start = learner.updates
        collected: list[dict[str, float]] = []
        for _ in range(num_batches):
            if self._tick() and self._world_size == 1:
                break
            before = learner.updates
            collected.append(learner.step(part))
            if is_due(self._publish_every, before, learner.updates):
                self._publish()
        sums = sum_metrics(collected)
        if learner.updates > start:
            self._updates.inc(learner.updates - start)
        skipped, _ = sums.get("nonfinite", (0.0, 0))
        if skipped > 0:
            self._nonfinite.inc(skipped)
        if "loss" in sums:
            total, count = sums["loss"]
            self._loss.set(total / count)
        return learner.updates, sums

    def state_dict(self) -> dict[str, Any]:
        """The learner's state."""
        return self._started().state_dict()

    def ping(self) -> int:
        """Updates done, -1 before `start`."""
        return -1 if self._learner is None else self._learner.updates

    def _publish(self) -> None:
        if self._rank != 0:
            return
        learner = self._started()
        packed = pack_weights(learner.export_weights(), self._broadcast)
        ray.get(self._weights.publish.remote(learner.updates, packed))

    def _started(self) -> Learner:
        assert self._learner is not None, "start() comes first"
        return self._learner
