"""Learning curves of several runs in one picture, and as a table."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

from cluster.report.data import Metrics, is_number, read_evaluations, read_mapping, read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cluster.run_dir import replacing

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = Path("curves.png")

CURVES = {
    "success rate": ("rollout/success_rate", "eval/success_rate"),
    "episode return": ("rollout/episode_return", "eval/return_mean"),
}
"""(while training, held out) of what is drawn."""
COLUMNS = ("run", "step", "minutes", "metric", "value")


def compare(run_dirs: Sequence[Path], output: Path) -> Path:
    """Draw the curves of runs and write their points beside the picture, as CSV.

    Args:
        run_dirs: Directories of runs.
        output: The picture, .png or .svg; its folder is made.

    Returns:
        The picture.

    Raises:
        ValueError: A directory has no metrics or no episode or is there twice, or the picture is of another kind.
    """
    if output.suffix not in (".png", ".svg"):
        raise ValueError(f"the picture must end in .png or .svg, got {output.name}")
    twice = [run_dir for run_dir, times in Counter(path.resolve() for path in run_dirs).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    runs = {label: _points_of(run_dir) for label, run_dir in zip(_labels(run_dirs), run_dirs, strict=True)}
    for run_dir, metrics in zip(run_dirs, runs.values(), strict=True):
        if not metrics.rows:
            raise ValueError(f"{run_dir} has no metrics")
        if CURVES["episode return"][0] not in metrics.names:
            raise ValueError(f"{run_dir} has not finished an episode yet")
    output.parent.mkdir(parents=True, exist_ok=True)
    _draw(runs, output)
    if output.with_suffix(".csv").exists():
        logger.warning("%s was there and is replaced", output.with_suffix(".csv"))
    with replacing(output.with_suffix(".csv")) as table, table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for label, metrics in runs.items():
            writer.writerows(_points(label, metrics))
    return output


def _labels(run_dirs: Sequence[Path]) -> list[str]:
    """Each run's name, where two are alike their paths, and what it trained."""
    names = Counter(run_dir.resolve().name for run_dir in run_dirs)
    labels = []
    for run_dir in run_dirs:
        config = read_mapping(run_dir / "config.yaml")
        trained = [config.get(part, {}).get("name", "?") for part in ("algorithm", "env")]
        name = run_dir.resolve().name
        labels.append(f"{name if names[name] == 1 else run_dir}: {' on '.join(trained)}")
    return labels


def _points_of(run_dir: Path) -> Metrics:
    """A run's metrics, with the evaluations that `worldfleet eval` has made of it at their steps."""
    metrics = read_metrics(run_dir / "metrics.jsonl")
    held_out = []
    for summary in read_evaluations(run_dir / "eval"):
        step = summary.get("train_steps")
        values = {f"eval/{name}": summary.get(name) for name in ("success_rate", "return_mean")}
        if is_number(step):
            before = [row["time"] for row in metrics.rows if row["step"] <= step and "time" in row]
            row = {"step": step, "time": before[-1] if before else 0.0}
            held_out.append(row | {name: value for name, value in values.items() if is_number(value)})
    return replace(metrics, rows=(*metrics.rows, *held_out))


def _points(label: str, metrics: Metrics) -> list[tuple[str, int, float, str, float]]:
    """Rows of the table."""
    return [
        (label, int(row["step"]), round(row["time"] / 60.0, 2), name, round(row[name], 4))
        for row in metrics.rows
        for names in CURVES.values()
        for name in names
        if name in row
    ]


def _draw(runs: dict[str, Metrics], path: Path) -> None:
    """What all runs have, a row each; left over environment steps, right over minutes."""
    curves = {title: names for title, names in CURVES.items() if all(names[0] in m.names for m in runs.values())}
    figure, grid = plt.subplots(
        len(curves), 2, figsize=(11, 1 + 3 * len(curves)), sharex="col", sharey="row", squeeze=False
    )
    for axes, (title, (trained, held_out)) in zip(grid, curves.items(), strict=True):
        for axis, unit in zip(axes, ("step", "time"), strict=True):
            axis.grid(alpha=0.3, linewidth=0.4)
            for index, (label, metrics) in enumerate(runs.items()):
                for name, line in ((trained, "-"), (held_out, "o")):
                    rows = [row for row in metrics.rows if name in row]
                    x = [row[unit] / (60.0 if unit == "time" else 1.0) for row in rows]
                    y = [row[name] for row in rows]
                    axis.plot(x, y, line, color=f"C{index}", label=label if name == trained else None, markersize=5)
        axes[0].set_ylabel(title)
    for axis, title in zip(grid[-1], ("environment steps", "minutes"), strict=True):
        axis.set_xlabel(title)
    grid[0, 0].set_title("line: training episodes; dots: held-out evaluations", fontsize=9)
    grid[-1, 0].legend(fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
