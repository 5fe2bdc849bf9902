"""Charts: what is drawn, and what happens to values that cannot be."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from cluster.report.charts import MAX_POINTS, Series, _Scale, _thin, bar_chart, histogram, line_chart, short


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """Pixel points of each polyline of a well-formed chart."""
    root = ElementTree.fromstring(svg)
    points = [element.attrib["points"] for element in root.iter("polyline")]
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in points]  # type: ignore[misc]


def test_greater_values_stand_higher_and_later_ones_further_right() -> None:
    [[first, second, third]] = lines(line_chart([Series("a", [0, 1, 2], [0.0, 5.0, 10.0])]))
    assert first[0] < second[0] < third[0]
    assert first[1] > second[1] > third[1]
    assert second[1] == pytest.approx((first[1] + third[1]) / 2, abs=0.1)


def test_series_share_their_axes() -> None:
    low, high = lines(line_chart([Series("a", [0, 1], [0.0, 1.0]), Series("b", [0, 1], [1.0, 2.0])]))
    assert low[1][1] == high[0][1]


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_leave_a_gap(hole: float) -> None:
    drawn = lines(line_chart([Series("a", [0, 1, 2, 3, 4], [1.0, 2.0, hole, 3.0, 4.0])]))
    assert [len(segment) for segment in drawn] == [2, 2]


def test_a_lone_value_is_a_dot() -> None:
    svg = line_chart([Series("a", [5], [3.0])])
    assert svg.count("<circle") == 1
    assert "nan" not in svg


def test_no_finite_value_is_said() -> None:
    assert "no finite values" in line_chart([Series("a", [0, 1], [math.nan, math.nan])])


def test_a_constant_is_drawn_in_the_middle() -> None:
    [[(_, start), (_, end)]] = lines(line_chart([Series("a", [0, 1], [7.0, 7.0])]))
    assert start == end
    assert 60 < start < 160


def test_rounding_noise_is_a_constant() -> None:
    [[(_, start), (_, end)]] = lines(line_chart([Series("a", [0, 1], [1e-3, 1e-3 * (1 + 1e-12)])]))
    assert start == pytest.approx(end)


def test_labels_of_a_narrow_range_differ() -> None:
    svg = line_chart([Series("a", [0, 1], [-16.0996, -16.0920])])
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert len(set(texts)) == len(texts)


def test_wide_positive_data_has_a_logarithmic_axis() -> None:
    [points] = lines(line_chart([Series("a", [0, 1, 2, 3, 4], [1.0, 10.0, 100.0, 1e3, 1e4])]))
    steps = [a[1] - b[1] for a, b in itertools.pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)


def test_names_are_escaped() -> None:
    svg = line_chart([Series('<"&>', [0, 1], [0.0, 1.0])])
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '<"&>'


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(i), math.sin(i / 100)) for i in range(10_000)]
    points[4321] = (4321.0, 50.0)
    points[7000] = (7000.0, -50.0)
    thinned = _thin(points)
    assert len(thinned) <= MAX_POINTS
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]
    assert {points[4321], points[7000]} <= set(thinned)
    assert thinned == sorted(thinned)


def test_ticks_are_round_and_inside() -> None:
    assert _Scale(0.0, 1.0, 0, 100).ticks(5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert _Scale(-3.0, 97.0, 0, 100).ticks(5) == pytest.approx([0, 20, 40, 60, 80])
    assert _Scale(0.5, 2e3, 0, 100, logarithmic=True).ticks(6) == [1.0, 10.0, 100.0, 1000.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.0, "1.23k"),
        (-2.5e6, "-2.5M"),
        (3e9, "3G"),
        (0.03125, "0.0312"),
        (4e-5, "4e-05"),
        (math.nan, "nan"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 x values and 1 y values"):
        Series("a", [0, 1], [0.0])


def test_colors_repeat_rather_than_run_out() -> None:
    svg = line_chart([Series(str(i), [0, 1], [0.0, float(i)]) for i in range(10)])
    assert len(set(re.findall(r"var\(--c(\d)\)", svg))) == 8


def rectangles(svg: str, kind: str) -> list[dict[str, float]]:
    root = ElementTree.fromstring(svg)
    return [
        {name: float(element.attrib[name]) for name in ("x", "y", "width", "height")}
        for element in root.iter("rect")
        if element.attrib["class"] == kind
    ]


def test_bars_are_as_high_as_their_values() -> None:
    bars = rectangles(bar_chart("use", [1.0, 2.0, math.nan, 0.0]), "bar")
    assert [bar["height"] for bar in bars] == pytest.approx([bars[1]["height"] / 2, bars[1]["height"], 0.0], abs=3.0)
    assert bars[0]["y"] + bars[0]["height"] == bars[1]["y"] + bars[1]["height"]
    assert bars[2]["x"] > bars[1]["x"] + 1.5 * bars[1]["width"], "a value that is not finite leaves its place empty"
    assert bar_chart("use", [1.0], limit=4.0).count('class="mark"') == 1
    assert rectangles(bar_chart("use", [1.0], limit=4.0), "bar")[0]["height"] < bars[1]["height"] / 3
    assert "no finite values" in bar_chart("use", [math.nan])
    assert rectangles(bar_chart("use", [0.0, 0.0]), "bar")[0]["height"] == 0.0


def test_a_histogram_counts_and_marks_the_mean() -> None:
    values = [0.0] * 6 + [10.0] * 2
    svg = histogram("returns", values, 2.5, (1.0, 4.0))
    bars = rectangles(svg, "bar")
    assert len(bars) == 2
    assert bars[0]["height"] > 2.5 * bars[1]["height"]
    [band] = rectangles(svg, "band")
    assert bars[0]["x"] < band["x"] < band["x"] + band["width"] < bars[1]["x"]
    assert "no finite values" in histogram("returns", [math.inf], 0.0, (0.0, 0.0))
    assert "nan" not in histogram("returns", [3.0, 3.0], 3.0, (3.0, 3.0))


def test_dashes_and_a_boundary_are_drawn() -> None:
    svg = line_chart([Series("a", [0, 1], [0.0, 1.0], dashed=True), Series("b", [0, 1], [1.0, 2.0])], boundary=0.5)
    assert svg.count("stroke-dasharray") == 1
    root = ElementTree.fromstring(svg)
    [mark] = [element for element in root.iter("line") if element.attrib["class"] == "mark"]
    first, last = lines(svg)[0]
    assert float(mark.attrib["x1"]) == pytest.approx((first[0] + last[0]) / 2, abs=0.1)
