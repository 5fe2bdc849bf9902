"""The table of one-step models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.report.models import HORIZONS, QUICK, run


@pytest.mark.integration
def test_a_table_has_a_row_per_model_and_leaves_out_what_a_model_does_not_know(tmp_path: Path) -> None:
    models = {"pets, normal": ("algorithm.ensemble.degrees=null",), "latent": ()}
    text = run(tmp_path, "nav3d_creature", config=QUICK, models=models).read_text()
    record = json.loads((tmp_path / "models_nav3d_creature.json").read_text())
    assert list(record["models"]) == list(models)
    pets, latent = record["models"].values()
    assert len(pets["errors"]["planner"]["nrmse"]) == len(HORIZONS)
    assert 0.0 <= pets["errors"]["smooth"]["calibration"]["coverage_90"][0] <= 1.0
    assert latent["errors"]["train"]["calibration"] is None
    assert pets["parameters"] > latent["parameters"] > 0
    assert text.count("| pets, normal |") == 4
    assert text.count("| persistence |") == 3
