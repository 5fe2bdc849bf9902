"""The tables of the planner studies; their episodes need a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.bench.planner_study import FIELDS, efficiency_cases, main, passes, risk_cases, table
from planners.config import IcemConfig, RandomShootingConfig


def test_passes_of_a_decision() -> None:
    assert passes(RandomShootingConfig(population=100, horizon=4), members=5) == (100 + 1) * 5 * 4
    icem = IcemConfig(population=64, elites=10, iterations=3, horizon=2, particles=10, population_decay=1.25)
    assert passes(icem, members=5) == (64 + 51 + 40 + 1) * 10 * 2
    two = IcemConfig(population=64, elites=10, iterations=1, horizon=2, particles=5, rescore_particles=20)
    assert passes(two, members=5) == (64 * 5 + 20 * 20 + 20) * 2


def test_cases_have_equal_compute_but_for_the_last_evaluation() -> None:
    counts = {name: passes(config, 5) for name, config in risk_cases().items() if config.constraint is None}
    counts.pop("cvar 0.2, two stages")
    assert len(set(counts.values())) == 1
    for candidates in (24, 216):
        own = [passes(c, 5) for name, c in efficiency_cases().items() if name.endswith(f" {candidates}")]
        assert len(own) == 4
        assert len(set(own)) == 1


def test_the_table_of_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.csv"
    rows = [("risk", "mean", n, 600, 2.0 * n, 10, 1, n, 0, n, 0.5, "") for n in range(2)]
    path.write_text("\n".join([",".join(FIELDS), *(",".join(map(str, row)) for row in rows)]))
    *_, line = table(path)
    assert line == (
        "| mean | 600 | 2 | 0.50 (0.09 to 0.91) | 1.00 (0.34 to 1.00) | "
        "1.00 (0.00 to 2.00) | 10 | 0.50 | 0.00 | 0.500 |"
    )
    main(["--table", str(path)])
    assert line in capsys.readouterr().out
