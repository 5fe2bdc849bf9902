"""`report.html`: a run on one self-contained page, readable without a network or the run directory."""

from __future__ import annotations

import base64
import datetime
import html
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cluster.charts import COLORS, Series, line_chart, short
from cluster.run_dir import write_atomic

GROUPS = ("eval", "rollout", "learner", "policy", "replay", "cluster", "timing")
"""Order of the metric groups on the page; others follow by name."""
MAX_GIFS = 4
MAX_EVENTS = 200
VERSIONED = ("worldfleet", "torch", "ray", "mujoco", "gymnasium", "numpy")


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl, and how many could not be read."""

    rows: tuple[Mapping[str, float], ...]
    unreadable: int

    @property
    def names(self) -> list[str]:
        """Every metric that occurs, in order of first occurrence."""
        found = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in found if name not in ("step", "time")]

    def series(self, name: str) -> Series:
        """The metric over environment steps, in lines that state it."""
        rows = [row for row in self.rows if name in row]
        return Series(name, [row["step"] for row in rows], [row[name] for row in rows])

    def last(self, name: str) -> float | None:
        """Its newest value."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)


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
    config = _read_yaml(run_dir / "config.yaml")
    evaluations = read_evaluations(run_dir / "eval")
    name = run_dir.resolve().name
    sections = [
        _header(name, config, _status(run_dir), metrics),
        _tiles(metrics, evaluations),
        _section("Evaluation", _evaluation_table(evaluations) + _gifs(run_dir / "eval")),
        *_curves(metrics),
        _section("Timings", _timings(metrics)),
        _section("Events", _events(run_dir / "events.jsonl")),
        _section("Configuration", _configuration(config)),
        _section("Versions", _versions()),
    ]
    path = run_dir / "report.html"
    write_atomic(path, _page(name, "\n".join(section for section in sections if section)))
    return path


# Reading


def read_metrics(path: Path) -> Metrics:
    """Lines of metrics.jsonl that are objects with a numeric step; the others are counted."""
    rows, unreadable = [], 0
    for line in _text(path).splitlines():
        row = _parse(line)
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            unreadable += 1
            continue
        rows.append({name: float(value) for name, value in row.items() if _is_number(value)})
    return Metrics(tuple(rows), unreadable)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Summaries eval/*.json in the order of their names, numbers within names in numeric order."""
    found = (_parse(_text(path)) for path in sorted(folder.glob("*.json"), key=_natural))
    return [summary for summary in found if isinstance(summary, dict)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", path.name)
    return [(1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(_text(path))
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        if _is_number(newest.get("success_rate")):
            interval = _interval(newest.get("success_ci95"), percent=True)
            tiles.append(("success", f"{newest['success_rate']:.0%}", f"{interval} · {note}" if interval else note))
        if _is_number(newest.get("return_mean")):
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

    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(end) for end in value):
        return f"95 % in {show(value[0])} to {show(value[1])}"
    return f"± {show(value)}" if isinstance(value, int | float) and _is_number(value) else ""


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _evaluation_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    flat = [dict(_flatten(summary)) for summary in evaluations]
    columns = list(dict.fromkeys(name for summary in flat for name in summary if name != "run_dir"))
    return _table(columns, [[_cell(summary.get(name)) for name in columns] for summary in flat])


def _gifs(folder: Path) -> str:
    figures = []
    for path in sorted(folder.glob("*.gif"), key=_natural)[-MAX_GIFS:]:
        data = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(path.stem)
        figures.append(
            f'<figure><img src="data:image/gif;base64,{data}" alt="{name}"><figcaption>{name}</figcaption></figure>'
        )
    return f'<div class="gifs">{"".join(figures)}</div>' if figures else ""


def _curves(metrics: Metrics) -> Iterable[str]:
    groups: dict[str, list[str]] = {}
    for name in metrics.names:
        groups.setdefault(name.split("/", 1)[0], []).append(name)
    ordered = [group for group in GROUPS if group in groups] + sorted(set(groups) - set(GROUPS))
    for group in ordered:
        charts = "".join(_chart(title, names, metrics) for title, names in _families(groups[group]).items())
        heading = "Evaluation during training" if group == "eval" else group.capitalize()
        yield _section(heading, f'<div class="charts">{charts}</div>')


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    """Metrics that differ only in a number (members, ranks, shards) share a chart."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"(?<=[_/-])\d+(?=[_/-]|$)", "*", name), []).append(name)
    return families


def _chart(title: str, names: Sequence[str], metrics: Metrics) -> str:
    series = [metrics.series(name) for name in names]
    short_title = html.escape(re.sub("[_/* ]+", " ", title.split("/", 1)[-1]).strip())
    if len(series) == 1:
        last = metrics.last(names[0])
        legend = f"<b>{short(last)}</b>" if last is not None else ""
    else:
        legend = "".join(
            f'<i style="color:var(--c{index % COLORS})">{html.escape(_difference(title, name))}</i>'
            for index, name in enumerate(names)
        )
    caption = f"<figcaption>{short_title}<span>{legend}</span></figcaption>"
    return f'<figure class="chart">{caption}{line_chart(series)}</figure>'


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
    return _table(["", "last", "mean"], [[html.escape(cell) for cell in row] for row in rows])


def _events(path: Path) -> str:
    events = [event for event in map(_parse, _text(path).splitlines()) if isinstance(event, dict)]
    columns = list(dict.fromkeys(name for event in events for name in event))
    shown = events[-MAX_EVENTS:]
    note = f'<p class="muted">the last {MAX_EVENTS} of {len(events)}</p>' if len(events) > MAX_EVENTS else ""
    return note + _table(columns, [[_cell(event.get(name)) for name in columns] for event in shown])


def _configuration(config: Mapping[str, Any]) -> str:
    """Scalars of the top level in a table of their own, then one table a component."""
    scalars = {key: value for key, value in config.items() if not isinstance(value, dict)}
    parts = [_key_values(scalars)] if scalars else []
    for key, value in config.items():
        if isinstance(value, dict):
            table = _key_values(dict(_flatten(value)))
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
    return '<p class="muted">of the installation that wrote this page</p>' + _key_values(versions)


# HTML


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = short(value)
    elif isinstance(value, list):
        return html.escape(" to ".join(short(v) if isinstance(v, float) else str(v) for v in value))
    return html.escape(str(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; nothing when there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _key_values(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(_plain(value))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>'


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _page(title: str, body: str) -> str:
    style = (resources.files("cluster") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · worldfleet</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
