"""What a report reads back."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.report.data import read_metrics


def test_a_metric_is_drawn_over_updates_where_steps_stand_still(tmp_path: Path) -> None:
    rows = [
        {"step": 5, "episodes": 1},
        {"step": 9, "episodes": 2, "learner/updates": 0},
        {"step": 9, "loss": 3.0, "learner/updates": 4},
        {"step": 9, "loss": 2.0, "learner/updates": 8},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.series("episodes").x == [5, 9]
    assert metrics.series("loss").x == [4, 8]
