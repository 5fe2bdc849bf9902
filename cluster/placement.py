"""Room on the cluster for the actors of a run: one placement group a role, held until the run ends.

A group is asked for whole and may wait: an autoscaler sees what is missing and grows for it. An actor that starts
again finds its place free.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.config import RunConfig
from cluster.connection import joins
from cluster.roles import ROLES

logger = logging.getLogger(__name__)

POLL_SECONDS = 1
TELL_SECONDS = 10.0
"""How often a run that waits says for what."""

OWN_SECONDS = 5.0
"""How long a run waits for room on a cluster of its own, where nothing comes and nothing goes."""


class Placement:
    """The places of a run's actors.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._gpus = share_gpus(config, ray.cluster_resources().get("GPU", 0.0))
        self._groups: dict[str, PlacementGroup] = {}
        for name in ROLES:
            section, count, bundle = config.roles[name], config.count(name), self._bundle(name)
            if count and bundle:
                labels = [section.labels] * count if section.labels else None
                self._groups[name] = placement_group([bundle] * count, section.strategy, bundle_label_selector=labels)

    def wait(self, stopping: Callable[[], bool]) -> bool:
        """Wait until there is room for every actor; False if the run is to stop before.

        Raises:
            ValueError: There is none after `cluster.wait_for_resources_seconds`, or never will be.
        """
        limit = self._config.cluster.wait_for_resources_seconds if joins() else OWN_SECONDS
        start, told = time.monotonic(), -math.inf
        while lacking := [name for name, group in self._groups.items() if not group.wait(POLL_SECONDS)]:
            now = time.monotonic()
            if stopping():
                return False
            if now - start >= limit or (not joins() and any(map(self._infeasible, lacking))):
                raise ValueError(
                    f"the Ray cluster has no room for {self._needs(lacking)}: {_cluster()}; add nodes, or lower "
                    f"roles.{lacking[0]}.count or what roles.{lacking[0]} reserves"
                )
            if now - told >= TELL_SECONDS:
                told = now
                logger.info(
                    "waiting for room for %s (%.0f of %.0f s): %s", self._needs(lacking), now - start, limit, _cluster()
                )
        return True

    def options(self, name: str, index: int) -> dict[str, Any]:
        """Ray's options of an actor: what it reserves, and its place."""
        section, group = self._config.roles[name], self._groups.get(name)
        options: dict[str, Any] = {
            "num_cpus": section.cpus,
            "num_gpus": self._gpus[name],
            "memory": section.memory,
            "resources": section.resources,
        }
        if group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, index)
        elif section.labels:  # what reserves nothing needs no place, but may be bound to nodes
            options["label_selector"] = section.labels
        return options

    def remove(self) -> None:
        """Give the room back; what still runs in it ends."""
        for group in self._groups.values():
            remove_placement_group(group)

    def _bundle(self, name: str) -> dict[str, float]:
        section = self._config.roles[name]
        kinds = {"CPU": section.cpus, "GPU": self._gpus[name], "memory": section.memory, **section.resources}
        return {kind: amount for kind, amount in kinds.items() if amount}

    def _needs(self, names: list[str]) -> str:
        """`8 x rollout (1 CPU) on nodes with role=rollout`."""
        return ", ".join(self._need(name) for name in names)

    def _need(self, name: str) -> str:
        labels = ", ".join(f"{key}={value}" for key, value in self._config.roles[name].labels.items())
        need = f"{self._config.count(name)} x {name} ({_in_words(self._bundle(name))})"
        return f"{need} on nodes with {labels}" if labels else need

    def _infeasible(self, name: str) -> bool:
        stats: dict[str, Any] = placement_group_table(self._groups[name])["stats"]
        return bool(stats["scheduling_state"] == "INFEASIBLE")


def share_gpus(config: RunConfig, available: float) -> dict[str, float]:
    """GPUs of an actor of each role: what its section says, or one if those left suffice for all of the role."""
    counts = {name: config.count(name) for name in ROLES}
    gpus = {name: config.roles[name].gpus for name in ROLES}
    left = available - sum(counts[name] * (amount or 0.0) for name, amount in gpus.items())
    shared = {}
    for name, amount in gpus.items():
        if amount is None:
            amount = float(0 < counts[name] <= left)
            left -= amount * counts[name]
        shared[name] = amount
    return shared


def _cluster() -> str:
    """What the cluster has, in words."""
    have = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"it has {_in_words({kind: have.get(kind, 0.0) for kind in ('CPU', 'GPU', 'memory')})} on {nodes} node(s)"


def _in_words(kinds: Mapping[str, float]) -> str:
    words = {kind: f"{amount / 1e9:.3g} GB" if kind == "memory" else f"{amount:g}" for kind, amount in kinds.items()}
    return ", ".join(f"{amount} {kind}" for kind, amount in words.items())
