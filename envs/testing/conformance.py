"""Checks whether any environment does what Gymnasium and worldfleet expect; see docs/check_env.md.

Every check runs in a spawned process of its own with a time limit, so an environment that dies or hangs is reported
like any other fault. Nothing of the environment is imported in the calling process.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from envs.testing.checks.actions import check_actions
from envs.testing.checks.determinism import check_determinism, check_replay
from envs.testing.checks.episodes import check_episodes
from envs.testing.checks.observations import check_aliasing, check_observations
from envs.testing.checks.render import check_render
from envs.testing.checks.resources import check_close, check_memory
from envs.testing.checks.spaces import check_spaces
from envs.testing.checks.timing import check_timing
from envs.testing.checks.vector import check_subprocess
from envs.testing.process import Channel, Outcome, Stop, run
from envs.testing.report import Finding, Report
from envs.testing.subject import Subject, Trial

CHECKS: Mapping[str, Callable[[Trial], None]] = {
    "spaces": check_spaces,
    "observations": check_observations,
    "aliasing": check_aliasing,
    "episodes": check_episodes,
    "determinism": check_determinism,
    "actions": check_actions,
    "render": check_render,
    "close": check_close,
    "memory": check_memory,
    "replay": check_replay,
    "subprocess": check_subprocess,
    "timing": check_timing,
}
"""Name -> check, in the order of the report. Findings may also belong to `rewards`, `flags`, `info` and `finite`."""

BARE = ("observations", "aliasing", "episodes", "determinism", "actions", "render", "close", "memory")
"""Checks of the bare environment, which run side by side."""
ADAPTED = ("replay", "subprocess")
"""Checks through worldfleet's adapter, which need what the first ones looked at to be in order."""
MAX_HANGS = 2
"""Checks that may hang before the others are left out; each takes its whole time limit."""
PLAY_SECONDS = 2.0
"""How long a check plays a slow environment."""

Progress = Callable[[str, tuple[Finding, ...], float], None]
"""Takes a check that is done, its findings and the seconds it took."""


def check_env(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    seconds: float = 60.0,
    only: Iterable[str] = (),
    progress: Progress = lambda check, findings, seconds: None,
    stop: Stop | None = None,
) -> Report:
    """Check an environment.

    Args:
        name: As for `envs.registry.make_env`.
        options: Its options.
        seconds: Time limit of each check; beyond it the environment hangs.
        only: Names of CHECKS to run beside `spaces`, all if empty.
        progress: Called after each check, from any thread.
        stop: Ends the checks under way when it is set.

    Raises:
        ValueError: The name or the options are refused, or `only` names no check.
    """
    wanted = tuple(only) or tuple(CHECKS)
    unknown = [check for check in wanted if check not in CHECKS]
    if unknown:
        raise ValueError(f"unknown check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    subject = Subject(name, dict(options or {}))
    try:
        pickle.dumps(subject)
    except Exception as error:  # noqa: BLE001 (whatever an option raises)
        text = f"its options cannot be pickled, which a process of its own needs: {error}"
        return Report(name, subject.options, None, (Finding("subprocess", "fault", text),))
    stop = stop or Stop()
    found: dict[str, tuple[Finding, ...]] = {}
    facts: dict[str, Any] = {}
    hung: list[str] = []

    def attend(check: str) -> None:
        if len(hung) >= MAX_HANGS:
            found[check] = (Finding(check, "note", f"not checked: it hangs in {' and '.join(sorted(hung))}"),)
            return
        outcome = run(run_check, (check, subject, min(PLAY_SECONDS, 0.25 * seconds)), seconds, stop)
        if check == "spaces" and outcome.error is not None and outcome.error[0] == "ValueError":
            raise ValueError(outcome.error[1])
        facts.update(message for message in outcome.messages if isinstance(message, tuple))
        found[check] = _findings(check, outcome)
        if outcome.hung:
            hung.append(check)
        progress(check, found[check], outcome.seconds)

    def run_all(checks: Iterable[str]) -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                list(pool.map(attend, [check for check in checks if check in wanted]))
            except BaseException:
                stop.set()
                raise

    attend("spaces")
    run_all(BARE)
    broken = sorted(
        {check for check in ("spaces", "observations") for f in found.get(check, ()) if f.verdict == "fault"}
    )
    if broken:
        for check in ADAPTED:
            if check in wanted:
                found[check] = (Finding(check, "note", f"not checked: there are faults in {' and '.join(broken)}"),)
    else:
        run_all(ADAPTED)
    run_all(["timing"])
    spec = facts.pop("spec", None)
    findings = (finding for check in CHECKS for finding in found.get(check, ()))
    return Report(name, subject.options, spec, _distinct(findings), facts)


def run_check(channel: Channel, check: str, subject: Subject, seconds: float) -> None:
    """One check of CHECKS, as its process calls it.

    Args:
        channel: Where its findings go.
        check: Its name.
        subject: The environment.
        seconds: How long it plays a slow environment.
    """
    trial = Trial(check, subject, channel, seconds)
    CHECKS[check](trial)
    trial.close()


def _findings(check: str, outcome: Outcome) -> tuple[Finding, ...]:
    """What a check sent, and how its process ended."""
    findings = [message for message in outcome.messages if isinstance(message, Finding)]
    if outcome.fault is not None:
        findings.append(Finding(check, "fault", outcome.fault, outcome.where))
    elif outcome.left:
        findings.append(Finding(check, "fault", "it leaves processes behind that close does not end"))
    return tuple(findings)


def _distinct(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings without those that another check has made as well."""
    distinct: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        distinct.setdefault((finding.check, finding.text), finding)
    return tuple(distinct.values())
