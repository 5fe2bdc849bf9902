"""Simulators that fail in every way cost their steps and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faulty import run_with_faults


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_every_stored_step_is_right_and_every_fault_is_counted(tmp_path: Path) -> None:
    summary = run_with_faults(tmp_path / "run", steps=3000, share=0.004, seconds=500)
    assert summary["faults"] >= 5
    assert len(summary["kinds"]) >= 4
