"""Conformance checks for environments, and environments that find faults of what uses them.

from worldfleet.testing import check_env

def test_my_environment() -> None:
    assert not check_env("gym:my_package:MyEnv-v0").faults
"""

from __future__ import annotations

from envs.testing.alignment import ALIGNMENT_NAME, AlignmentEnv, check_alignment
from envs.testing.conformance import CHECKS, check_env
from envs.testing.counter import COUNTER_NAME, CounterEnv, CounterVectorEnv
from envs.testing.cue import CUE_NAME, CueEnv
from envs.testing.reach import REACH_NAME, ReachEnv
from envs.testing.report import Finding, Report
from envs.testing.time_limit import TIME_LIMIT_NAME, TimeLimitEnv

__all__ = [
    "ALIGNMENT_NAME",
    "CHECKS",
    "COUNTER_NAME",
    "CUE_NAME",
    "REACH_NAME",
    "TIME_LIMIT_NAME",
    "AlignmentEnv",
    "CounterEnv",
    "CounterVectorEnv",
    "CueEnv",
    "Finding",
    "ReachEnv",
    "Report",
    "TimeLimitEnv",
    "check_alignment",
    "check_env",
]
