"""Settings that a run has no use for."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.config import RunConfig


def idle_keys(config: RunConfig, overrides: Iterable[str]) -> dict[str, str]:
    """The keys among `a.b=value` overrides that change nothing in a run, and why."""
    found: dict[str, str] = {}
    for key in dict.fromkeys(text.partition("=")[0].strip() for text in overrides):
        section, _, rest = key.partition(".")
        role, _, field = rest.partition(".")
        if section == "roles" and field and field != "count" and config.count(role) == 0:
            found[key] = f"the run has no {role} actors"
        elif section == "reanalyze" and rest != "fraction" and config.reanalyze.fraction == 0:
            found[key] = "reanalyze.fraction is 0"
        elif key == "schedule.eval_episodes" and config.schedule.eval_every == 0:
            found[key] = "schedule.eval_every is 0"
        elif key == "cluster.dashboard" and config.cluster.mode == "local":
            found[key] = "cluster.mode=local starts no cluster"
    return found
