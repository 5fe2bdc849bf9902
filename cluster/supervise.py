"""What a run does when one of its processes dies or hangs.

| part           | what happens                                                                     | bounded by       |
|----------------|----------------------------------------------------------------------------------|------------------|
| rollout actor  | replaced by its next incarnation, which opens new streams; the few messages that | actors.restarts  |
|                | no shard had acknowledged yet are not stored                                     | (each actor)     |
| planner or     | restarted by Ray behind the same handle; serving is stateless, as carries stay   | actors.restarts  |
| inference actor| with their rollout actors, so the requests it held are sent again                | (each actor)     |
| replay shard   | its mass leaves the draw at once; restarted by Ray behind the same handle, it    | actors.restarts  |
|                | recovers its manifest and log and rejoins; senders repeat what it had not        | (each shard)     |
|                | acknowledged. Lost is nothing (sync), at most `max_delay_seconds` (async), or    |                  |
|                | all since the last checkpoint (none); what is lost is counted                    |                  |
| learner rank   | the whole group starts again from the newest checkpoint; the limiter gives back  | actors.restarts  |
|                | the updates since then, so they are done again                                   | (the group)      |
| weight store   | restarted by Ray, empty; actors keep the weights they have until the learner     | actors.restarts  |
|                | publishes again                                                                  |                  |
| environment    | made again as a new stream; the step that failed is not stored (docs/envs.md);   | env.fault_budget |
|                | hanging in its actor's own process: the actor is replaced                        | (each rollout)   |
| reanalyzer     | replaced with its next work; what it was searching may be searched by others     | never            |
| evaluator      | replaced; the evaluation it ran is dropped                                       | never            |
| driver         | its actors die with it; `--resume RUN_DIR` continues from the last checkpoint,   |                  |
|                | with every step that a shard had acknowledged (as above)                         |                  |

`cluster.roles` says which role has which of these. A part whose budget is spent ends the run with exit code 1 and one
line that says how to resume. Waits between restarts grow exponentially; the others go on meanwhile.

A process that hangs is as dead as one that was killed. `cluster.liveness` asks and hears every actor; one that has not
answered for `roles.<role>.timeout_seconds`, or whose environments have not finished a step for
`env.step_timeout_seconds` more than that, is told of in one line, killed, and handled as above, out of the same budget.
Who waits for a part that hangs is not blamed for it (`cluster.watch`).

Without its raylet or Ray's GCS a driver can do nothing more: `cluster.node_guard` sees their end and ends the process
with exit code 1 and one line. SIGTERM and SIGINT are no deaths: the run finishes its step, stores what rollout actors
hold, checkpoints, leaves STOPPED.json and has exited within `cluster.stop_budget_seconds`, whatever hangs; STOPPED.json
names the checkpoint that it continues from and what that does not hold. A second SIGINT ends the process at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class RunFailed(RuntimeError):
    """The run cannot go on; it continues from its last checkpoint with --resume."""


class BudgetSpent(RunFailed):
    """A part died more often than its budget allows."""


@dataclass
class RestartBudget:
    """How often one actor may be replaced, and how long to wait before each time.

    Waits grow as base * 2^n up to `longest`, and a part that lived longer than `healthy_seconds`
    starts again from the first wait. The budget itself is never refilled.

    Args:
        name: The actor, for messages.
        limit: Replacements allowed.
        base: Seconds before the first replacement.
        longest: Most seconds before any replacement.
        healthy_seconds: Life after which the waits start over.
        clock: Seconds, monotonic.
    """

    name: str
    limit: int
    base: float = 0.1
    longest: float = 30.0
    healthy_seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    used: int = 0
    _streak: int = 0
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def spend(self, reason: str) -> float:
        """Count one death; the seconds to wait before the replacement.

        Raises:
            BudgetSpent: The budget is spent.
        """
        if self.used >= self.limit:
            raise BudgetSpent(f"{self.name} died {self.used + 1} times, {self.limit} restarts are allowed: {reason}")
        if self.clock() - self._started > self.healthy_seconds:
            self._streak = 0
        wait = min(self.longest, self.base * 2.0**self._streak)
        self.used += 1
        self._streak += 1
        self._started = self.clock() + wait
        return wait


def plain(text: str) -> str:
    """The first line of an error's text, without colours."""
    return _COLOURS.sub("", text).strip().partition("\n")[0]


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
