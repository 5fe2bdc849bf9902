"""What the checks of an environment found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from envs.specs import EnvSpec

Verdict = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One answer of one check."""

    check: str
    verdict: Verdict  # a note is worth knowing, a fault is to be mended
    text: str
    where: str = ""  # in which call or step, where that is known


@dataclass(frozen=True)
class Report:
    """All findings about one environment, in the order of the checks."""

    env: str
    options: Mapping[str, Any]
    spec: EnvSpec | None  # None if worldfleet cannot encode its spaces
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)  # measured numbers and answers, plain values

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings to mend."""
        return tuple(finding for finding in self.findings if finding.verdict == "fault")

    def of(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "env": self.env,
            "options": dict(self.options),
            "faults": len(self.faults),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
        }
