"""Closed-loop studies of planners over one trained model: risk measures and constraints, and evaluations per decision.

    python -m cluster.bench.planner_study RUN_DIR --study risk --episodes 100 --csv risk.csv
    python -m cluster.bench.planner_study RUN_DIR --study efficiency --episodes 40 --csv efficiency.csv
    python -m cluster.bench.planner_study --table risk.csv

All cases act in the same episodes, by turns of ten, and every episode is a line of the CSV as soon as its turn ends: a
study that is stopped has whole turns of all cases but the last ones. A case that is in the CSV already is continued.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.evaluate import bootstrap_interval, wilson_interval
from cluster import build
from cluster.evaluation import load_trained
from envs.nav3d.layout import (
    BODY_RADIUS,
    BOX_SIZES,
    FIXED_LAYOUT,
    HAZARD_RADII,
    NUM_PILLARS,
    PILLAR_SIZES,
    ROOM_HIGH,
    ROOM_LOW,
)
from planners.config import (
    CemConfig,
    EliteConfig,
    GaussianConfig,
    IcemConfig,
    MppiConfig,
    RandomShootingConfig,
    SequenceConfig,
)
from planners.constraint_config import Clearance, ConstraintConfig, GuardConfig
from planners.risk_config import CvarRisk, EntropicRisk, MeanStdRisk, VarRisk, WorstRisk

TURN = 10
"""Episodes of a case before the next one's turn."""

FIELDS = (
    "study", "case", "episode", "passes", "return", "length", "success", "collision", "hazard", "failure", "jerk",
    "flagged",
)  # fmt: skip


def nav3d_clearance(margin: float, position: Sequence[int] = (0, 1, 2)) -> Clearance:
    """Clearance of the body in the fixed layout of nav3d: obstacles and walls for its surface, hazards for its centre.

    Args:
        margin: Reserve beyond contact, m.
        position: Indices of x, y and z in the state.
    """
    placed = [(*centre, *size) for centre, size in zip(FIXED_LAYOUT.obstacles.tolist(), _SIZES, strict=True)]
    hazards = zip(FIXED_LAYOUT.hazards.tolist(), HAZARD_RADII.tolist(), strict=True)
    x, y, z = position
    return Clearance(
        position=(x, y, z),
        spheres=tuple((*centre, radius - BODY_RADIUS) for centre, radius in hazards),
        pillars=tuple(placed[:NUM_PILLARS]),
        boxes=tuple(placed[NUM_PILLARS:]),
        low=tuple(ROOM_LOW.tolist()),
        high=tuple(ROOM_HIGH.tolist()),
        margin=BODY_RADIUS + margin,
    )


_SIZES = [*PILLAR_SIZES.tolist(), *BOX_SIZES.tolist()]


def risk_cases(guard_limit: float = 0.05) -> dict[str, SequenceConfig]:
    """Planners of equal model evaluations (two-stage scoring apart), told apart by how they take risk."""
    base = IcemConfig(horizon=12, population=32, elites=8, iterations=2, particles=10)
    signal = nav3d_clearance(0.05)
    cases: dict[str, SequenceConfig] = {"mean": base}
    for limit in (0.05, 0.2, 0.5):
        constraint = ConstraintConfig(signal=signal, form="chance", limit=limit)
        cases[f"chance {limit:g}"] = dataclasses.replace(base, constraint=constraint)
    for weight in (0.5, 1.0, 2.0):
        cases[f"mean_std {weight:g}"] = dataclasses.replace(base, risk=MeanStdRisk(weight=weight))
    for alpha in (0.5, 0.2):
        cases[f"cvar {alpha:g}"] = dataclasses.replace(base, risk=CvarRisk(alpha=alpha))
    tail = ConstraintConfig(signal=signal, form="cvar", alpha=0.2, limit=0.02)
    certain = ConstraintConfig(signal=signal, form="chance", limit=0.5)
    brake = ConstraintConfig(signal=signal, form="chance", limit=0.2, fallback=(0.0, 0.0, 0.0))
    return cases | {
        "cvar-constraint 0.2": dataclasses.replace(base, constraint=tail),
        "chance 0.5, no noise": dataclasses.replace(base, constraint=certain, sample=False),
        "worst": dataclasses.replace(base, risk=WorstRisk()),
        "var 0.2": dataclasses.replace(base, risk=VarRisk(alpha=0.2)),
        "entropic 1": dataclasses.replace(base, risk=EntropicRisk(theta=1.0)),
        "mean_std 1 epistemic": dataclasses.replace(base, risk=MeanStdRisk(weight=1.0, part="epistemic")),
        "mean_std 1 aleatoric": dataclasses.replace(base, risk=MeanStdRisk(weight=1.0, part="aleatoric")),
        "chance 0.2, brake": dataclasses.replace(base, constraint=brake),
        "guard": dataclasses.replace(base, guard=GuardConfig(limit=guard_limit, weight=50.0)),
        "smoothness 0.2": dataclasses.replace(base, smoothness=0.2),
        "cvar 0.2, two stages": dataclasses.replace(base, risk=CvarRisk(alpha=0.2), rescore_particles=20),
    }


def efficiency_cases() -> dict[str, SequenceConfig]:
    """Every method at several numbers of candidates per decision."""
    cases: dict[str, SequenceConfig] = {}
    for candidates in (24, 72, 216):
        each = candidates // 3
        shared: dict[str, Any] = {"horizon": 12, "sample": False}
        elites = max(3, each // 8)
        gaussian = shared | {"population": each, "iterations": 3}
        cases |= {
            f"random_shooting {candidates}": RandomShootingConfig(population=candidates, **shared),
            f"cem {candidates}": CemConfig(elites=elites, **gaussian),
            f"icem {candidates}": IcemConfig(elites=elites, population_decay=1.0, **gaussian),
            f"mppi {candidates}": MppiConfig(temperature=0.5, **gaussian),
        }
    return cases


def passes(config: SequenceConfig, members: int) -> int:
    """Forward passes of one member that a decision takes, the last evaluation of the plan included."""
    iterations = config.iterations if isinstance(config, GaussianConfig) else 1
    particles = config.particles or members
    candidates = 0
    for iteration in range(iterations):
        population = config.population
        if isinstance(config, IcemConfig):
            decayed = int(population * config.population_decay**-iteration)
            population = min(population, max(decayed, 2 * config.elites))
        candidates += population * particles
        if isinstance(config, EliteConfig) and config.rescore_particles is not None:
            candidates += min(population, 2 * config.elites) * config.rescore_particles
    finalists = 1 if config.constraint is None else 2 + bool(config.constraint.fallback)
    last = getattr(config, "rescore_particles", None) or particles
    return (candidates + finalists * last) * config.horizon


def run(
    run_dir: Path,
    study: str,
    episodes: int,
    seed: int,
    path: Path,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    max_steps: int | None = None,
) -> None:
    """Run the cases of a study and append their episodes to a CSV.

    Args:
        run_dir: A trained `pets` run.
        study: "risk" or "efficiency".
        episodes: Of each case, a multiple of TURN.
        seed: Chooses the episodes.
        path: The CSV.
        only: Cases, all if empty.
        overrides: `a.b=value` changes to the run's configuration, such as `env.eval_options`.
        max_steps: Steps after which an episode is cut, None for the environment's limit.

    Raises:
        ValueError: No such run, or a case that is none.
    """
    cases = risk_cases() if study == "risk" else efficiency_cases()
    if unknown := set(only) - set(cases):
        raise ValueError(f"no case {sorted(unknown)[0]!r} in study {study}; there are {', '.join(cases)}")
    trained = load_trained(run_dir, overrides=overrides)
    weights = trained.algorithm.export_weights()
    members = len(weights["weight_0"])
    done = {(row["case"], int(row["episode"]) // TURN) for row in _read(path)}
    for turn in range(episodes // TURN):
        for case, planner in cases.items():
            if (case, turn) in done or (only and case not in only):
                continue
            config = dataclasses.replace(trained.config, planner=planner)  # type: ignore[arg-type]
            policy = build.policy(config)
            policy.update(1, weights)
            evaluator = build.evaluator(config, TURN, seed + turn, max_steps=max_steps)
            evaluation = evaluator.evaluate(policy)
            evaluator.close()
            flagged = evaluation.summary.policy.get("violation_flagged", "")
            rows = []
            for index, episode in enumerate(evaluation.episodes):
                collision, hazard = (episode.metrics[name] for name in ("collision", "cost"))
                figures = (episode.episode_return, episode.length, episode.metrics["is_success"], collision, hazard)
                failure = int(collision > 0 or hazard > 0)
                number, cost = turn * TURN + index, passes(planner, members)
                rows.append((study, case, number, cost, *figures, failure, episode.jerk, flagged))
            _append(path, rows)


def table(path: Path) -> Iterator[str]:
    """Markdown of a CSV: a line per case, with 95 % intervals (Wilson for shares, bootstrap for the return)."""
    rows = _read(path)
    yield "| case | passes | episodes | failures | success | return | length | collision steps | hazard steps | jerk |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        values = {name: np.array([float(row[name]) for row in own]) for name in FIELDS[3:11]}
        shares = []
        for name in ("failure", "success"):
            low, high = wilson_interval(int(values[name].sum()), len(own))
            shares.append(f"{values[name].mean():.2f} ({low:.2f} to {high:.2f})")
        low, high = bootstrap_interval(values["return"], 0)
        means = {name: float(values[name].mean()) for name in values}
        yield (
            f"| {case} | {means['passes']:.0f} | {len(own)} | {shares[0]} | {shares[1]} | {means['return']:.2f} "
            f"({low:.2f} to {high:.2f}) | {means['length']:.0f} | {means['collision']:.2f} | {means['hazard']:.2f} | "
            f"{means['jerk']:.3f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="?")
    parser.add_argument("--study", choices=("risk", "efficiency"), default="risk")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--max-steps", type=int, help="steps after which an episode is cut")
    parser.add_argument("--table", type=Path, help="print the table of a CSV")
    given = parser.parse_args(arguments)
    if given.table is not None:
        sys.stdout.write("\n".join(table(given.table)) + "\n")
        return
    if given.run_dir is None or given.csv is None:
        parser.error("RUN_DIR and --csv are needed")
    run(
        given.run_dir,
        given.study,
        given.episodes,
        given.seed,
        given.csv,
        given.case,
        given.overrides,
        given.max_steps,
    )


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(FIELDS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
