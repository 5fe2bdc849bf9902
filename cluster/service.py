"""Ray actors of this package."""

from __future__ import annotations

from typing import Any

import ray

from cluster.weights import WeightStore


class WeightStoreActor:
    """The weight store as an actor. It owns the one object of each version, so weights outlive their learner."""

    def __init__(self) -> None:
        self._store: WeightStore[list[Any]] = WeightStore()

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def publish(self, version: int, weights: Any) -> bool:
        """Store `weights` as `version`; False if something newer is there."""
        return self._store.publish(version, [ray.put(weights)])

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def latest(self, known_version: int = -1) -> tuple[int, list[Any]] | None:
        """(version, [reference to the weights]) if newer than `known_version`; the list keeps Ray from fetching it."""
        return self._store.latest(known_version)

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def ping(self) -> int:
        """The newest version."""
        return self._store.version
