"""Table and plot of the fidelity of a run's world model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cluster.run_dir import replacing, write_atomic

PREDICTORS = {
    "persistence": ("persistence", "0.55", ":"),
    "constant_velocity": ("constant velocity", "0.55", "--"),
    "reconstruction": ("posterior, observing every step", "C2", "-."),
    "ensemble": ("ensemble", "C1", "-"),
    "sample": ("one imagined future", "C0", "-"),
    "mean": ("mean of imagined futures", "C1", "-"),
}
"""Predictor -> label, colour and line."""
TESTS = {"agent": "the agent's own episodes, exploring", "uniform": "uniformly random actions"}
HORIZONS = (1, 5, 10, 20, 30, 50, 100)


def write_plot(record: dict[str, Any], path: Path) -> None:
    """NRMSE against horizon: a row per observation, a column per test set; bands are 95 % over episodes."""
    keys = list(dict.fromkeys(key for test in record["tests"].values() for key in test["keys"]))
    figure, axes = plt.subplots(len(keys), len(TESTS), figsize=(10, 3.6 * len(keys)), squeeze=False, sharey="row")
    for row, key in zip(axes, keys, strict=True):
        for axis, (test, title) in zip(row, TESTS.items(), strict=True):
            for name, curves in record["tests"][test]["keys"].get(key, {}).items():
                label, colour, line = PREDICTORS[name]
                steps = np.arange(1, len(curves["nrmse"]) + 1)
                axis.plot(steps, curves["nrmse"], line, color=colour, label=label)
                axis.fill_between(steps, curves["lower"], curves["upper"], color=colour, alpha=0.15, linewidth=0)
            axis.axhline(0.1, color="k", linewidth=0.8)
            axis.set(title=f"{key}: {title}", xlabel="open-loop steps", yscale="log")
            axis.grid(alpha=0.3, which="both", linewidth=0.4)
        row[0].set_ylabel("NRMSE")
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def write_markdown(record: dict[str, Any], path: Path) -> Path:
    """How it was measured, and a table per test set and observation."""
    lines = _introduction(record)
    for test, title in TESTS.items():
        result = record["tests"][test]
        lines += ["", f"## Test set: {title}", "", f"{result['starts']} start states in {result['episodes']} episodes."]
        for key, predictors in result["keys"].items():
            lines += ["", f"### {key}", "", *_table(predictors, record["config"]["horizon"])]
            if key in result.get("calibration", {}):
                lines += ["", *_calibration(result["calibration"][key], record["config"])]
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def _introduction(record: dict[str, Any]) -> list[str]:
    config = record["config"]
    seconds = record["step_seconds"]
    real = "" if seconds is None else f" ({config['horizon'] * seconds:g} s)"
    return [
        f"# Open-loop fidelity of {record['algorithm']} on {record['env']}",
        "",
        f"Made by `worldfleet fidelity --run-dir` after {record['train_steps']:,} environment steps of training, seed"
        f" {record['seed']}, in {record['seconds']:.0f} s.",
        "",
        "From states in episodes it was not trained on, the model is rolled with the recorded actions alone, up to"
        f" {config['horizon']} steps{real}. A latent model has observed its episode until then, at least"
        f" {config['seen']} steps; it imagines {config['samples']} futures. NRMSE is the root of the mean square error,"
        " each dimension over its variance in the test set: 1 is predicting the mean. An image counts as one dimension,"
        " over the mean variance of its pixels. H10 is the longest horizon to which NRMSE stays at or below 0.10; its"
        " safe value takes the upper end of the 95 % bootstrap interval over episodes. Worst is the worst dimension,"
        " p90 the 90th percentile over start states, reward the error of the summed reward over the standard deviation"
        " of that sum. The posterior that observes every step says what encoder and decoder lose without prediction.",
        "",
        "![NRMSE against horizon](open_loop.png)",
    ]


def _table(predictors: dict[str, Any], horizon: int) -> list[str]:
    horizons = [k for k in HORIZONS if k < horizon] + [horizon]
    images = "psnr" in next(iter(predictors.values()))
    columns = [f"NRMSE {k}" for k in horizons] + [f"95 % at {horizon}", "worst", "p90", "reward", "H10", "safe"]
    columns += [f"PSNR {k}" for k in horizons] if images else []
    lines = ["| predictor | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, curves in predictors.items():
        cells = [f"{curves['nrmse'][k - 1]:.3f}" for k in horizons]
        cells.append(f"{curves['lower'][-1]:.3f} to {curves['upper'][-1]:.3f}")
        cells += [f"{curves[curve][-1]:.3f}" for curve in ("worst", "p90", "reward")]
        cells += [str(curves["h10"]), str(curves["h10_upper"])]
        cells += [f"{curves['psnr'][k - 1]:.1f}" for k in horizons] if images else []
        lines.append(f"| {PREDICTORS[name][0]} | " + " | ".join(cells) + " |")
    return [*lines, "", f"Worst, p90 and reward are at {horizon} steps."]


_CALIBRATION = {
    "nll": "NLL",
    "crps": "CRPS",
    "coverage_50": "covers 50 %",
    "coverage_80": "80 %",
    "coverage_90": "90 %",
    "area": "area",
    "ence": "ENCE",
    "ence_calibrated": "(calibrated)",
    "spearman": "Spearman",
    "spearman_calibrated": "(calibrated)",
    "sharpness": "deviation",
}
"""Figure -> heading."""


def _calibration(figures: dict[str, list[float]], config: dict[str, Any]) -> list[str]:
    horizons = [k for k in HORIZONS if k < config["horizon"]] + [config["horizon"]]
    lines = [
        f"Calibration of {config['particles']} particles at each horizon by itself, means over the dimensions. NLL is"
        " in nats per dimension, CRPS and the deviation in standard deviations of the test set; area is the"
        " miscalibration area, 0 to 0.5. Spearman correlates deviations with sizes of errors. Beside ENCE and Spearman"
        " stands what a calibrated model would have: the same figure with one of the particles for the truth.",
        "",
        "| steps | " + " | ".join(_CALIBRATION.values()) + " |",
        "|---" * (len(_CALIBRATION) + 1) + "|",
    ]
    rows = [f"| {k} | " + " | ".join(f"{figures[name][k - 1]:.3f}" for name in _CALIBRATION) + " |" for k in horizons]
    return lines + rows
