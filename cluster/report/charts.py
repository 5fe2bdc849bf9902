"""Line charts, bars and histograms as inline SVG, drawn in the colours of the page they stand in."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26
COLORS = 8
"""Number of series colours; the page defines them as CSS variables --c0, --c1, ..."""
MAX_POINTS = 400
"""Points drawn per series; beyond that each bucket shows its lowest and highest value."""
LOG_RATIO = 1e3
"""Positive data that spans more than this factor is drawn on a logarithmic axis."""
ROUNDING = 1e-9
"""Data that varies by less than this share of its size is drawn as a constant."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; NaN and infinite values leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} x values and {len(self.y)} y values")


def line_chart(series: Sequence[Series], boundary: float | None = None) -> str:
    """An SVG element with one line per series over a common axis.

    Args:
        series: at least one; those without a finite value are left out of the drawing.
        boundary: x at which a vertical line divides the chart.
    """
    points = [[(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y) and math.isfinite(x)] for s in series]
    flat = [point for line in points for point in line]
    opening = _opening(", ".join(s.name for s in series))
    if not flat:
        return _empty(opening)
    x_scale = _Scale(min(x for x, _ in flat), max(x for x, _ in flat), LEFT, WIDTH - RIGHT)
    low, high = min(y for _, y in flat), max(y for _, y in flat)
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        low = high
    logarithmic = low > 0 and high / low > LOG_RATIO
    y_scale = _Scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic, padding=0.04)
    parts = [opening, *_axes(x_scale, y_scale)]
    if boundary is not None:
        parts.append(_upright(x_scale(boundary)))
    for index, line in enumerate(series):
        parts += _line(line, index, x_scale, y_scale)
    return "".join([*parts, "</svg>"])


def bar_chart(name: str, values: Sequence[float], limit: float | None = None) -> str:
    """An SVG element with one bar per value, from 0 up, numbered from 0.

    Args:
        name: What the values are.
        values: At least 0 each; those that are not finite have no bar.
        limit: Value at which a horizontal line is drawn, None for none.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _empty(_opening(name))
    x_scale = _Scale(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(0.0, max(*finite, limit or 0.0, 1e-9), HEIGHT - BOTTOM, TOP)
    parts = [_opening(name), *_axes(x_scale, y_scale)]
    for index, value in enumerate(values):
        if math.isfinite(value):
            parts.append(_bar(x_scale(index - 0.4), x_scale(index + 0.4), y_scale(0.0), y_scale(value)))
    if limit is not None:
        y = y_scale(limit)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return "".join([*parts, "</svg>"])


def histogram(name: str, values: Sequence[float], mean: float, interval: tuple[float, float]) -> str:
    """An SVG element with how often values occur, their mean as a line and its interval as a band.

    Args:
        name: What the values are.
        values: Those that are not finite are left out.
        mean: Of the values.
        interval: Of the mean, (low, high).
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _empty(_opening(name))
    counts, edges = np.histogram(finite, min(max(5, math.isqrt(2 * len(finite))), 30))
    x_scale = _Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    y_scale = _Scale(0.0, float(counts.max()), HEIGHT - BOTTOM, TOP)
    parts = [_opening(name), *_axes(x_scale, y_scale)]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            parts.append(_bar(x_scale(left) + 0.5, x_scale(right) - 0.5, y_scale(0.0), y_scale(count)))
    low, high = (x_scale(min(max(end, edges[0]), edges[-1])) for end in interval)
    parts.append(
        f'<rect class="band" x="{low:.1f}" y="{TOP}" width="{high - low:.1f}" height="{HEIGHT - BOTTOM - TOP}"/>'
    )
    return "".join([*parts, _upright(x_scale(mean)), "</svg>"])


def _opening(label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'


def _empty(opening: str) -> str:
    return f'{opening}<text class="empty" x="{WIDTH / 2}" y="{HEIGHT / 2}">no finite values</text></svg>'


def _upright(x: float) -> str:
    return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _bar(left: float, right: float, bottom: float, top: float) -> str:
    return f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"/>'


@dataclass(frozen=True)
class _Scale:
    """Maps values onto pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    padding: float = 0.0

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        margin = (high - low) * self.padding or (0.0 if high > low else max(abs(high), 1.0) * 0.05)
        low, high = low - margin, high + margin
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values within the scale."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first + 1) / count))
            return [10.0**exponent for exponent in range(first, last + 1, step)]
        if self.high <= self.low:
            return [self.low]
        raw = (self.high - self.low) / count
        magnitude = 10.0 ** math.floor(math.log10(raw))
        spacing = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw * 0.999)
        lowest, highest = math.ceil(self.low / spacing - 1e-9), math.floor(self.high / spacing + 1e-9)
        return [index * spacing for index in range(lowest, highest + 1)]


def short(value: float, digits: int = 3) -> str:
    """A number with few significant digits: 1.23k, 0.0312, 4e-05."""
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if magnitude >= limit:
            return f"{value / limit:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def _labels(ticks: Sequence[float]) -> list[str]:
    """Texts of ticks, with as many digits as it takes to tell them apart."""
    labels = []
    for digits in range(3, 10):
        labels = [short(tick, digits) for tick in ticks]
        if len(set(labels)) == len(labels):
            break
    return labels


def _axes(x_scale: _Scale, y_scale: _Scale) -> list[str]:
    parts = []
    ticks = y_scale.ticks(6)
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{label}</text>')
    ticks = x_scale.ticks(5)
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        x = x_scale(tick)
        anchor = "end" if x > WIDTH - RIGHT - 16 else "middle"
        parts.append(f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" y="{HEIGHT - 8}">{label}</text>')
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _line(series: Series, index: int, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    color = f"var(--c{index % COLORS})"
    parts = []
    for segment in _segments(series):
        pixels = [(x_scale(x), y_scale(y)) for x, y in _thin(segment)]
        if len(pixels) == 1:
            [(x, y)] = pixels
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>')
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
            dashes = ' stroke-dasharray="5 3"' if series.dashed else ""
            parts.append(f'<polyline class="line" stroke="{color}"{dashes} points="{path}"/>')
    return parts


def _segments(series: Series) -> list[list[tuple[float, float]]]:
    """Runs of finite values."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            segments[-1].append((x, y))
        elif segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points that keep the extremes of every bucket and both ends."""
    if len(points) <= MAX_POINTS:
        return points
    buckets = MAX_POINTS // 2 - 1
    kept = [points[0]]
    inner = points[1:-1]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        extremes = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(extremes)
    return [*kept, points[-1]]
