"""The section of driving suites: scores by condition, and the table of infractions."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.report.charts import short
from cluster.report.data import read_evaluations
from cluster.report.markup import cell, note, table

_COLUMNS = ("condition", "episodes", "success", "route completion", "driving score 2.0", "driving score 2.1", "km")


def suites(folder: Path) -> str:
    """The summaries of `worldfleet eval --suite` in a folder, "" without any."""
    return "".join(_readable(summary) for summary in read_evaluations(folder) if "conditions" in summary)


def _readable(summary: Mapping[str, Any]) -> str:
    try:
        return _suite(summary)
    except (LookupError, TypeError, ValueError, AttributeError):
        return note(f"the suite {summary.get('suite')!r} cannot be read")


def _suite(summary: Mapping[str, Any]) -> str:
    conditions = {**summary["conditions"], "all": summary.get("all", {})}
    title = f"{summary.get('suite')}, after {summary.get('train_steps')} steps, on {summary.get('backend')}"
    scores = [
        [
            cell(name),
            cell(found.get("episodes")),
            _interval(found.get("success_rate"), found.get("success_ci95")),
            *(_mean(found.get(score)) for score in ("route_completion", "driving_score_v2_0", "driving_score_v2_1")),
            cell(found.get("kilometres")),
        ]
        for name, found in conditions.items()
    ]
    kinds = list(conditions["all"].get("infractions", {}))
    counts = [
        [cell(name), *(_infraction(found.get("infractions", {}).get(kind, {})) for kind in kinds)]
        for name, found in conditions.items()
    ]
    text = "Intervals of success are Clopper and Pearson's, the others bootstrapped; infractions: count (per km)."
    return (
        f"<h3>{html.escape(title)}</h3>"
        + table(_COLUMNS, scores)
        + table(["condition", *(kind.replace("_", " ") for kind in kinds)], counts)
        + note(text)
    )


def _mean(found: Any) -> str:
    return _interval(found.get("mean"), found.get("ci95")) if isinstance(found, dict) else cell(None)


def _interval(value: Any, interval: Any) -> str:
    if not isinstance(value, int | float) or not isinstance(interval, list | tuple) or len(interval) != 2:
        return cell(value)
    low, high = interval
    return cell(f"{short(value)} [{short(low)}, {short(high)}]")


def _infraction(found: Mapping[str, Any]) -> str:
    rate = found.get("per_km")
    return cell(f"{found.get('count')} ({short(rate)})" if isinstance(rate, int | float) else found.get("count"))
