"""`report.html`: a run on one self-contained page, readable without a network or the run directory."""

from __future__ import annotations

import datetime
import html
import importlib.metadata
import math
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.report import imagination_page as imagination_report
from cluster.report.charts import COLORS, histogram, line_chart, short
from cluster.report.data import (
    Metrics,
    is_number,
    natural,
    parse_json,
    read_evaluations,
    read_mapping,
    read_metrics,
    read_text,
)
from cluster.report.markup import cell, charts, figure, key_values, note, page, picture, pictures, section, table
from cluster.report.suite_page import suites
from cluster.run_dir import write_atomic

GROUPS = ("eval", "rollout", "learner", "policy", "replay", "cluster", "timing")
"""Order of the metric groups on the page; others follow by name."""
MAX_GIFS = 4
MAX_EVENTS = 200
VERSIONED = ("worldfleet", "torch", "ray", "mujoco", "gymnasium", "numpy")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, of a run that ended or is going on.

    Missing or damaged parts are left out and named on the page.

    Args:
        run_dir: directory with `config.yaml` or `metrics.jsonl`, and whatever else the run has written.

    Returns:
        The path of the page.

    Raises:
        ValueError: `run_dir` is not a run directory.
    """
    if not any((run_dir / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise ValueError(f"{run_dir} is not a run directory: it has neither config.yaml nor metrics.jsonl")
    metrics = read_metrics(run_dir / "metrics.jsonl")
    config = read_mapping(run_dir / "config.yaml")
    evaluations = read_evaluations(run_dir / "eval")
    name = run_dir.resolve().name
    sections = [
        _header(name, config, _status(run_dir), metrics),
        _tiles(metrics, evaluations),
        section("Evaluation", _evaluation(run_dir / "eval", evaluations)),
        section("Driving suites", suites(run_dir / "eval" / "suites")),
        imagination_report.world_model(run_dir / "imagination", metrics),
        section("Open-loop fidelity", _fidelity(run_dir / "fidelity" / "open_loop.png")),
        *_curves(metrics),
        section("Timings", _timings(metrics)),
        section("Events", _events(run_dir / "events.jsonl")),
        section("Configuration", _configuration(config)),
        section("Versions", _versions()),
    ]
    path = run_dir / "report.html"
    write_atomic(path, page(name, "\n".join(section for section in sections if section)))
    return path


# Sections


def _header(name: str, config: Mapping[str, Any], status: tuple[str, str], metrics: Metrics) -> str:
    algorithm, env = _named(config.get("algorithm")), _named(config.get("env"))
    subtitle = " on ".join(part for part in (algorithm, env) if part)
    seed = config.get("seed")
    details = [subtitle, "" if seed is None else f"seed {seed}"]
    if metrics.unreadable:
        details.append(f"unreadable lines of metrics left out: {metrics.unreadable}")
    mood, text = status
    written = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<header><h1>{html.escape(name)} <span class="badge {mood}">{html.escape(text)}</span></h1>'
        f"<p>{html.escape(' · '.join(part for part in details if part))}</p>"
        f'<p class="muted">worldfleet run report, written {written}</p></header>'
    )


def _named(node: object) -> str:
    if isinstance(node, dict):
        node = node.get("name", "")
    return str(node) if node else ""


def _status(run_dir: Path) -> tuple[str, str]:
    """(class of the badge, its text), from the mark a run leaves at its end."""
    if (run_dir / "DONE.json").is_file():
        return "good", "finished"
    if (run_dir / "STOPPED.json").is_file():
        return "fair", "stopped, can be resumed"
    return "plain", "running or interrupted"


def _tiles(metrics: Metrics, evaluations: Sequence[Mapping[str, Any]]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if evaluations:
        newest = evaluations[-1]
        note = f"{newest.get('episodes', '?')} held-out episodes"
        if is_number(newest.get("success_rate")):
            interval = _interval(newest.get("success_ci95"), percent=True)
            tiles.append(("success", f"{newest['success_rate']:.0%}", f"{interval} · {note}" if interval else note))
        if is_number(newest.get("return_mean")):
            tiles.append(("return", short(newest["return_mean"]), _interval(newest.get("return_ci95")) or note))
    if metrics.rows:
        last = metrics.rows[-1]
        tiles.append(("environment steps", short(last["step"]), f"{int(last['step']):,}"))
        if "time" in last:
            tiles.append(("wall clock", _duration(last["time"]), f"{last['time']:.0f} s"))
    updates = metrics.last("learner/updates")
    if updates is not None and math.isfinite(updates):
        tiles.append(("updates", short(updates), f"{int(updates):,}"))
    cells = "".join(
        f'<div class="tile"><span>{title}</span><b>{value}</b><small>{note}</small></div>'
        for title, value, note in (map(html.escape, tile) for tile in tiles)
    )
    return f'<div class="tiles">{cells}</div>' if cells else ""


def _interval(value: object, percent: bool = False) -> str:
    """A 95 % interval given as (low, high) or as a half-width."""

    def show(number: float) -> str:
        return f"{number:.0%}" if percent else short(number)

    if isinstance(value, list | tuple) and len(value) == 2 and all(is_number(end) for end in value):
        return f"95 % in {show(value[0])} to {show(value[1])}"
    return f"± {show(value)}" if isinstance(value, int | float) and is_number(value) else ""


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _evaluation_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    flat = [dict(_flatten(summary)) for summary in evaluations]
    columns = list(dict.fromkeys(name for summary in flat for name in summary if name != "run_dir"))
    return table(columns, [[cell(summary.get(name)) for name in columns] for summary in flat])


def _evaluation(folder: Path, evaluations: Sequence[Mapping[str, Any]]) -> str:
    return _evaluation_table(evaluations) + _returns(folder) + _gifs(folder)


def _gifs(folder: Path) -> str:
    newest = sorted(folder.glob("*.gif"), key=natural)[-MAX_GIFS:]
    return pictures([picture(path.read_bytes(), "gif", path.stem) for path in newest])


def _returns(folder: Path) -> str:
    """How the returns of the newest evaluation whose episodes are known are distributed."""
    files = sorted(folder.glob("*.jsonl"), key=natural)
    if not files:
        return ""
    returns = _column(files[-1], "return")
    if not returns:
        return ""
    summary = parse_json(read_text(files[-1].with_suffix(".json")))
    interval = summary.get("return_ci95") if isinstance(summary, dict) else None
    mean = statistics.fmean(returns)
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (mean, mean)
    title = f"returns of {len(returns)} held-out episodes"
    said = f"<b>{short(mean)}</b> {html.escape(_interval(interval))}"
    return charts([figure(title, said, histogram(title, returns, mean, (low, high)))])


def _column(path: Path, name: str) -> list[float]:
    """The finite numbers called `name` in a file of JSON objects, one a line."""
    rows = (parse_json(line) for line in read_text(path).splitlines())
    values = [row[name] for row in rows if isinstance(row, dict) and is_number(row.get(name))]
    return [value for value in values if math.isfinite(value)]


def _fidelity(path: Path) -> str:
    """The plot of `worldfleet fidelity --run-dir`."""
    return pictures([picture(path.read_bytes(), "png", "NRMSE against horizon", wide=True)]) if path.is_file() else ""


def _curves(metrics: Metrics) -> Iterable[str]:
    groups: dict[str, list[str]] = {}
    for name in metrics.names:
        groups.setdefault(name.split("/", 1)[0], []).append(name)
    ordered = [group for group in GROUPS if group in groups] + sorted(set(groups) - set(GROUPS))
    for group in ordered:
        heading = "Evaluation during training" if group == "eval" else group.capitalize()
        yield section(
            heading, charts([_chart(title, names, metrics) for title, names in _families(groups[group]).items()])
        )


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    """Metrics that differ only in a number (members, ranks, shards) share a chart."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"(?<=[_/-])\d+(?=[_/-]|$)", "*", name), []).append(name)
    return families


def _chart(title: str, names: Sequence[str], metrics: Metrics) -> str:
    series = [metrics.series(name) for name in names]
    short_title = re.sub("[_/* ]+", " ", title.split("/", 1)[-1]).strip()
    if len(series) == 1:
        last = metrics.last(names[0])
        legend = f"<b>{short(last)}</b>" if last is not None else ""
    else:
        legend = "".join(
            f'<i style="color:var(--c{index % COLORS})">{html.escape(_difference(title, name))}</i>'
            for index, name in enumerate(names)
        )
    return figure(short_title, legend, line_chart(series))


def _difference(family: str, name: str) -> str:
    """The numbers by which a metric differs from its family."""
    pattern = "(.+)".join(re.escape(piece) for piece in family.split("*"))
    matched = re.fullmatch(pattern, name)
    return " ".join(matched.groups()) if matched else name


def _timings(metrics: Metrics) -> str:
    names = sorted(name for name in metrics.names if name.startswith("timing/"))
    rows = []
    for name in names:
        values = [value for value in metrics.series(name).y if math.isfinite(value)]
        if values:
            mean = sum(values) / len(values)
            rows.append([name.removeprefix("timing/").replace("_", " "), short(values[-1]), short(mean)])
    return table(["", "last", "mean"], [[html.escape(cell) for cell in row] for row in rows])


def _events(path: Path) -> str:
    events = [event for event in map(parse_json, read_text(path).splitlines()) if isinstance(event, dict)]
    columns = list(dict.fromkeys(name for event in events for name in event))
    shown = events[-MAX_EVENTS:]
    omission = note(f"the last {MAX_EVENTS} of {len(events)}") if len(events) > MAX_EVENTS else ""
    return omission + table(columns, [[cell(event.get(name)) for name in columns] for event in shown])


def _configuration(config: Mapping[str, Any]) -> str:
    """Scalars of the top level in a table of their own, then one table a component."""
    scalars = {key: value for key, value in config.items() if not isinstance(value, dict)}
    parts = [key_values(scalars)] if scalars else []
    for key, value in config.items():
        if isinstance(value, dict):
            table = key_values(dict(_flatten(value)))
            parts.append(f"<details open><summary>{html.escape(str(key))}</summary>{table}</details>")
    return f'<div class="config">{"".join(parts)}</div>' if parts else ""


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _versions() -> str:
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return note("of the installation that wrote this page") + key_values(versions)
