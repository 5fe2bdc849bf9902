"""The run's books: counters, metrics, and what is due when."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from actors.episode_metrics import reported_name
from actors.evaluate import EvalSummary
from actors.records import Episode
from cluster import build
from cluster.config import RunConfig, ScheduleConfig
from cluster.metrics import Metrics
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.stages import Fit, Stage, StageCursor
from envs.faults import Fault, FaultBudget, FaultsSpent

logger = logging.getLogger(__name__)

RECENT_EPISODES = 50
"""Episodes over which running means are taken."""


class Recorder:
    """Counts steps, gathers metrics, and says in which stage the run is and when to log, evaluate and checkpoint.

    What is due depends on the environment step alone (in a `Fit` on the updates of the stage) unless a time is given,
    so a run in one process repeats itself. A line of metrics tells the environment step and the updates.

    Args:
        config: The run.
        run_dir: Where its metrics and events go.
        progress: Shows them.
        state: Of the run that goes on, None to start.
        on_progress: Called whenever steps or updates are counted.

    Raises:
        ValueError: The stages of the configuration are not those that the state is from.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        progress: Progress,
        state: Mapping[str, Any] | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_progress = on_progress
        self.schedule: ScheduleConfig = config.schedule
        self.run_dir = run_dir
        self.steps = int(state["steps"]) if state else 0
        self.episodes = int(state["episodes"]) if state else 0
        self.updates = int(state["updates"]) if state else 0
        self.nonfinite = int(state.get("nonfinite", 0)) if state else 0
        self.searched = int(state.get("searched", 0)) if state else 0
        self._reanalyzes = config.reanalyze.fraction > 0
        cursor = state.get("stages") if state else None
        self.stages = StageCursor(build.stages(config), self.schedule.total_steps, cursor)
        self._recent: deque[dict[str, float]] = deque(state["recent"] if state else (), maxlen=RECENT_EPISODES)
        self._done: dict[str, int] = dict(state["done"]) if state else {"log": 0, "eval": 0, "checkpoint": 0}
        resumed = (self.steps, self.updates) if state else None
        gathered = state["gathered"] if state else None
        self._metrics = Metrics(run_dir.metrics_file, resumed, config.cluster.metrics_port, gathered)
        self._progress = progress
        self._env = config.env
        self._faults: Counter[str] = Counter(state.get("faults", {}) if state else {})  # by kind
        budgets = state.get("fault_budgets", {}) if state else {}
        self._fault_budgets = {
            int(actor): FaultBudget(self._env.fault_budget, saved) for actor, saved in budgets.items()
        }
        self.failure: str | None = None  # why the run has to end after a checkpoint
        self._rates_from = (time.monotonic(), self.steps, self.updates, self.searched)
        self._times = dict.fromkeys(self._done, time.monotonic())
        ended = state.get("last_due", {}) if state else {}
        self._last_due = {what: tuple(ended.get(what, (-1, -1))) for what in ("eval", "log")}  # after the end

    @property
    def stage(self) -> Stage:
        """What the run does now, or did last."""
        return self.stages.stage

    @property
    def left(self) -> int:
        """Environment steps, in a `Fit` updates, until the stage ends; 0 when it has."""
        return self.stages.left(self.steps, self.updates)

    @property
    def finished(self) -> bool:
        """Whether the last stage has ended."""
        return self.stages.last and self.left == 0

    def advance(self) -> bool:
        """Go on to the next stage when this one has ended; whether the run did.

        A line of metrics and a checkpoint are due then, as is a line when the run ends with a `Fit`.
        """
        changed = self.stages.advance(self.steps, self.updates)
        if changed:
            self._done = {what: self._position // self._every(what) if self._every(what) else 0 for what in self._done}
            self.run_dir.event(event="stage", stage=str(self.stage), step=self.steps, updates=self.updates)
            self._done["checkpoint"] = -1
        if changed or (self.finished and isinstance(self.stage, Fit)):
            self._done["log"] = -1
        return changed

    def rollout(self, steps: int, episodes: Sequence[Episode], metrics: Mapping[str, float]) -> None:
        """Count what a rollout loop did."""
        self._on_progress()
        self.steps += steps
        self.episodes += len(episodes)
        for episode in episodes:
            figures = {"episode_return": episode.episode_return, "episode_length": float(episode.length)}
            self._recent.append(figures | {reported_name(name): value for name, value in episode.metrics.items()})
        for name, value in metrics.items():
            self._metrics.add({name: value}, "timing/" if name.endswith("_ms") else "policy/")

    def faults(self, actor: int, steps: int, faults: Sequence[Fault]) -> None:
        """Count the failures of simulators in `steps` steps of a rollout actor, and write each down.

        More than `env.fault_budget` allows are a `failure`.
        """
        for fault in faults:
            self._faults[fault.kind] += 1
            fields = {**asdict(fault), "episode_step": fault.step, "step": self.steps}
            self.run_dir.event(event="fault", actor=actor, name=self._env.name, **fields)
            logger.warning("rollout-%d, %s: %s; it is made again", actor, self._env.name, fault.describe())
        budget = self._fault_budgets.setdefault(actor, FaultBudget(self._env.fault_budget))
        try:
            budget.spend(steps, len(faults))
        except FaultsSpent as spent:
            self.fail(f"rollout-{actor}, {self._env.name}: {spent}; the last one: {faults[-1].describe()}")

    def fail(self, reason: str) -> None:
        """Have the run end with a checkpoint and this reason, unless it has one already."""
        self.failure = self.failure or reason

    def recovered(self, steps: int, lost: int = 0) -> None:
        """Count the steps that shards recovered instead of those of the books: an acknowledged step was taken.

        Args:
            steps: Steps inserted since the beginning of the run.
            lost: Those of them that the shards miss.
        """
        gone = lost + max(0, self.steps - steps)
        if gone:
            logger.warning(
                "%s: %d steps that were stored are gone (files of shards are missing or damaged); the run goes on "
                "without them",
                self.run_dir.replay,
                gone,
            )
            self.run_dir.event(event="lost", steps=gone, step=steps)
        self.steps = steps
        self._rates_from = (time.monotonic(), steps, self.updates, self.searched)

    def learner(self, updates: int, metrics: Mapping[str, float | tuple[float, int]]) -> None:
        """Note `updates` learner updates in all, and metrics of the last batch, or sums over some and their number."""
        if updates > self.updates:
            self._on_progress()
        self.updates = updates
        for name, value in metrics.items():
            if name == "nonfinite":
                self._skipped(int(value[0] if isinstance(value, tuple) else value))
                continue
            timing = name.startswith("time/")
            self._metrics.add({name.removeprefix("time/"): value}, "timing/learner_" if timing else "learner/")

    def _skipped(self, count: int) -> None:
        """Count updates that were skipped because they were not finite."""
        self.nonfinite += count
        if count:
            self.run_dir.event(event="nonfinite", skipped=count, updates=self.updates, step=self.steps)

    def add(self, metrics: Mapping[str, float], prefix: str) -> None:
        """Gather other metrics."""
        self._metrics.add(metrics, prefix)

    def reanalyzed(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Count steps that were searched anew, and gather metrics of it."""
        self.searched += steps
        for name, value in metrics.items():
            timing = name.startswith("time/")
            self._metrics.add({name.removeprefix("time/"): value}, "timing/reanalyze_" if timing else "reanalyze/")

    def due(self, what: str, or_after_seconds: float = math.inf) -> bool:
        """Whether `log`, `eval` or `checkpoint` is due; asking when it is marks it as done.

        An evaluation and a line are due once after the last step, too.

        Args:
            what: The event.
            or_after_seconds: It is also due when this long has passed; not for runs that must repeat exactly.
        """
        every = self._every(what)
        if self.finished and every and what in self._last_due:  # the last evaluation, and the line that holds it
            ended = self._last_due[what] != (self.steps, self.updates)
            self._last_due[what] = self.steps, self.updates
            self._done[what] = self._position // every
            return ended
        late = time.monotonic() - self._times[what] > or_after_seconds
        if not late and (every == 0 or self._position // every == self._done[what]):
            return False
        self._done[what] = self._position // every if every else 0
        self._times[what] = time.monotonic()
        return True

    def evaluation(self, summary: EvalSummary) -> None:
        """Put an evaluation of the run's own schedule into the next line of metrics."""
        values = {"return_mean": summary.return_mean, "length_mean": summary.length_mean}
        values |= {"cut": float(summary.cut), "faults": float(summary.faults)}
        if summary.jerk is not None:
            values["jerk"] = summary.jerk
        metrics = {reported_name(name): value for name, value in summary.metrics.items()}
        self._metrics.add(values | metrics, "eval/")

    def log(self, extra: Mapping[str, float]) -> None:
        """Write one line of metrics and show it."""
        now, (then, steps, updates, searched) = time.monotonic(), self._rates_from
        seconds = max(now - then, 1e-9)
        self._rates_from = (now, self.steps, self.updates, self.searched)
        values = {
            "rollout/episodes": float(self.episodes),
            "learner/updates": float(self.updates),
            "env/faults": float(self._faults.total()),
            **{f"env/faults_{kind}": float(count) for kind, count in sorted(self._faults.items())},
            "learner/nonfinite": float(self.nonfinite),
            "timing/env_steps_per_second": (self.steps - steps) / seconds,
            "timing/updates_per_second": (self.updates - updates) / seconds,
            **extra,
        }
        if self._reanalyzes:
            values["reanalyze/steps"] = float(self.searched)
            values["timing/searches_per_second"] = (self.searched - searched) / seconds
        for name in self._recent[-1] if self._recent else ():
            known = [episode[name] for episode in self._recent if math.isfinite(episode.get(name, math.nan))]
            if known:
                values[f"rollout/{name}"] = sum(known) / len(known)
        fitting = isinstance(self.stage, Fit)
        line = self._metrics.write(self.steps, values, self.updates if fitting else None)
        self._progress.show(line, *self.stages.progress(self.steps, self.updates), "update" if fitting else "step")

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "updates": self.updates,
            "nonfinite": self.nonfinite,
            "searched": self.searched,
            "recent": list(self._recent),
            "done": dict(self._done),
            "last_due": dict(self._last_due),
            "gathered": self._metrics.gathered(),
            "faults": dict(self._faults),
            "fault_budgets": {actor: budget.state_dict() for actor, budget in self._fault_budgets.items()},
            "stages": self.stages.state_dict(),
        }

    def close(self) -> None:
        self._metrics.close()

    @property
    def _position(self) -> int:
        """What things are due by."""
        done, _ = self.stages.progress(self.steps, self.updates)
        return done if isinstance(self.stage, Fit) else self.steps

    def _every(self, what: str) -> int:
        schedule = self.schedule
        return {"log": schedule.log_every, "eval": schedule.eval_every, "checkpoint": schedule.checkpoint_every}[what]
