"""The part of a run's report that looks into its latent world model, from the files of `cluster.report.imagination`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.report.charts import Series, bar_chart, line_chart, short
from cluster.report.data import Metrics, natural, parse_json, read_text
from cluster.report.markup import charts, figure, legend, note, picture, pictures, section

SHOWN = ("persistence", "reconstruction", "sample")
"""Predictors of the error curves."""
LABELS = {"persistence": "persistence", "reconstruction": "observed", "sample": "imagined"}
TOGETHER = {
    "return of visited states": ("learner/imagined/return", "learner/replayed/return"),
    "reward": ("learner/imagined/reward", "learner/replayed/reward"),
    "entropy of the latent state": ("learner/entropy/posterior", "learner/entropy/prior"),
}
"""Metrics that are read side by side."""
MAX_PICTURE_BYTES = 8_000_000


def world_model(folder: Path, metrics: Metrics) -> str:
    """Sections about the newest study in `folder`, nothing where there is none."""
    studies = sorted(folder.glob("step*.json"), key=natural)
    record = parse_json(read_text(studies[-1])) if studies else None
    if not isinstance(record, dict):
        return ""
    try:
        parts = [
            section("What the world model imagines", _imagined(folder, record)),
            section("Open-loop error", _errors(record["errors"])),
            section("Latent state", _latent(record["latent"])),
        ]
    except (KeyError, TypeError, ValueError, IndexError):
        return section("World model", note(f"{studies[-1].name} cannot be read"))
    return "".join([*parts, section("Imagination beside experience", _together(metrics))])


def _imagined(folder: Path, record: Mapping[str, Any]) -> str:
    seen = int(record["seen"])
    said = (
        f"{record['episodes']} held-out episodes after {int(record['step']):,} steps. The model sees each up to the"
        f" mark, {seen} steps of it are shown, and imagines the next {record['horizon']} from the actions alone."
    )
    drawn = [_picture(folder / str(name)) for name in record["pictures"]]
    return note(said) + pictures([part for part in drawn if part]) + _trajectories(record["trajectories"], seen)


def _picture(path: Path) -> str:
    """A picture with what is to be seen in it; nothing if it is gone."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    if len(content) > MAX_PICTURE_BYTES:
        return ""
    key = path.stem.split("_", 1)[1]
    if path.suffix == ".gif":
        key = key.removesuffix("_open_loop")
        said = f"{key}: what came, what was imagined, and the error; green while observed, red open loop"
        return picture(content, "gif", said, wide=True)
    said = f"{key.removesuffix('_reconstruction')}: observed, and reconstructed below"
    return picture(content, "png", said, wide=True)


def _trajectories(quantities: Sequence[Mapping[str, Any]], seen: int) -> str:
    figures = []
    for quantity in quantities:
        steps = [float(t + 1 - seen) for t in range(len(quantity["truth"]))]
        series = [
            Series("what came", steps, quantity["truth"]),
            Series("imagined", steps, quantity["imagined"], dashed=True),
        ]
        figures.append(figure(str(quantity["name"]), legend([s.name for s in series]), line_chart(series, 0.0)))
    return charts(figures)


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> str:
    if not errors:
        return ""
    figures = []
    for key, predictors in errors.items():
        figures.append(_curves(f"{key}, NRMSE", predictors, "nrmse"))
        if "psnr" in predictors["sample"]:
            figures.append(_curves(f"{key}, PSNR in dB", predictors, "psnr"))
    figures.append(_curves("summed reward, NRMSE", next(iter(errors.values())), "reward"))
    said = (
        "Error against the steps ahead: of the last observation again, of a model that observes every step, and of one"
        " that imagines them. An NRMSE of 1 is predicting the mean of the episodes."
    )
    return note(said) + charts(figures)


def _curves(title: str, predictors: Mapping[str, Any], curve: str) -> str:
    series = []
    for name in SHOWN:
        values = predictors[name][curve]
        series.append(Series(LABELS[name], [float(k + 1) for k in range(len(values))], values))
    return figure(title, legend([s.name for s in series]), line_chart(series))


def _latent(latent: Mapping[str, Any]) -> str:
    kl = latent["kl"]
    figures = [figure("KL per group, nats", f"<b>{short(math.fsum(kl))}</b> in all", bar_chart("KL", kl))]
    if latent["kind"] == "categorical":
        classes, used = int(latent["classes"]), latent["used"]
        perplexity, information = latent["perplexity"], latent["information"]
        mean = math.fsum(perplexity) / len(perplexity)
        share = f"<b>{short(mean)}</b> of {classes} classes"
        figures.append(figure("perplexity", share, bar_chart("perplexity", perplexity, float(classes))))
        total = f"<b>{short(math.fsum(information))}</b> in all"
        figures.append(figure("information, nats", total, bar_chart("information", information)))
        dead = sum(1 for count in used if count <= 1)
        said = f"{len(kl)} groups of {classes} classes; {dead} groups use a single class."
    else:
        active = sum(map(bool, latent["active"]))
        figures.append(figure("spread of the mean", "", bar_chart("spread of the mean", latent["spread"])))
        figures.append(figure("standard deviation", "", bar_chart("standard deviation", latent["std"])))
        said = f"{active} of {len(kl)} dimensions depend on what was seen (the variance of their mean is over 0.01)."
    return note(said) + charts(figures)


def _together(metrics: Metrics) -> str:
    figures = []
    for title, names in TOGETHER.items():
        series = [metrics.series(name) for name in names]
        shown = [(name.removeprefix("learner/"), line) for name, line in zip(names, series, strict=True) if line.x]
        if shown:
            labels = legend([_label(name) for name, _ in shown])
            figures.append(figure(title, labels, line_chart([line for _, line in shown])))
    return charts(figures)


def _label(name: str) -> str:
    """The word that tells a metric from its neighbour."""
    first, second = name.split("/", 1)
    return second if first == "entropy" else first
