"""The run's books: counters, metrics, and what is due when."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from actors.episode_metrics import reported_name
from actors.evaluate import EvalSummary
from actors.records import Episode
from cluster.config import RunConfig, ScheduleConfig
from cluster.metrics import Metrics
from cluster.progress import Progress
from cluster.run_dir import RunDir

RECENT_EPISODES = 50
"""Episodes over which running means are taken."""


class Recorder:
    """Counts steps, gathers metrics and says when to log, evaluate and checkpoint.

    What is due depends on the environment step alone unless a time is given, so a run in one process repeats itself.
    """

    def __init__(
        self, config: RunConfig, run_dir: RunDir, progress: Progress, state: Mapping[str, Any] | None = None
    ) -> None:
        self.schedule: ScheduleConfig = config.schedule
        self.run_dir = run_dir
        self.steps = int(state["steps"]) if state else 0
        self.episodes = int(state["episodes"]) if state else 0
        self.updates = int(state["updates"]) if state else 0
        self._recent: deque[dict[str, float]] = deque(state["recent"] if state else (), maxlen=RECENT_EPISODES)
        self._done: dict[str, int] = dict(state["done"]) if state else {"log": 0, "eval": 0, "checkpoint": 0}
        resume_step = self.steps if state else None
        gathered = state["gathered"] if state else None
        self._metrics = Metrics(run_dir.metrics_file, resume_step, config.cluster.metrics_port, gathered)
        self._progress = progress
        self._rates_from = (time.monotonic(), self.steps, self.updates)
        self._times = dict.fromkeys(self._done, time.monotonic())

    @property
    def finished(self) -> bool:
        return self.steps >= self.schedule.total_steps

    def rollout(self, steps: int, episodes: Sequence[Episode], metrics: Mapping[str, float]) -> None:
        """Count what a rollout loop did."""
        self.steps += steps
        self.episodes += len(episodes)
        for episode in episodes:
            figures = {"episode_return": episode.episode_return, "episode_length": float(episode.length)}
            self._recent.append(figures | {reported_name(name): value for name, value in episode.metrics.items()})
        for name, value in metrics.items():
            self._metrics.add({name: value}, "timing/" if name.endswith("_ms") else "policy/")

    def recovered(self, steps: int) -> None:
        """Count the steps that shards recovered instead of those of the books: an acknowledged step was taken."""
        self.steps = steps

    def learner(self, updates: int, metrics: Mapping[str, float]) -> None:
        """Note `updates` learner updates in all, and the mean metrics of the last ones."""
        self.updates = updates
        for name, value in metrics.items():
            timing = name.startswith("time/")
            self._metrics.add({name.removeprefix("time/"): value}, "timing/learner_" if timing else "learner/")

    def add(self, metrics: Mapping[str, float], prefix: str) -> None:
        """Gather other metrics."""
        self._metrics.add(metrics, prefix)

    def due(self, what: str, or_after_seconds: float = math.inf) -> bool:
        """Whether `log`, `eval` or `checkpoint` is due; asking when it is marks it as done.

        Args:
            what: The event.
            or_after_seconds: It is also due when this long has passed; not for runs that must repeat exactly.
        """
        every = {
            "log": self.schedule.log_every,
            "eval": self.schedule.eval_every,
            "checkpoint": self.schedule.checkpoint_every,
        }[what]
        late = time.monotonic() - self._times[what] > or_after_seconds
        if not late and (every == 0 or self.steps // every == self._done[what]):
            return False
        self._done[what] = self.steps // every if every else 0
        self._times[what] = time.monotonic()
        return True

    def evaluation(self, summary: EvalSummary) -> None:
        """Put an evaluation of the run's own schedule into the next line of metrics."""
        values = {"return_mean": summary.return_mean, "length_mean": summary.length_mean}
        metrics = {reported_name(name): value for name, value in summary.metrics.items()}
        self._metrics.add(values | metrics, "eval/")

    def log(self, extra: Mapping[str, float]) -> None:
        """Write one line of metrics and show it."""
        now, (then, steps, updates) = time.monotonic(), self._rates_from
        seconds = max(now - then, 1e-9)
        self._rates_from = (now, self.steps, self.updates)
        values = {
            "rollout/episodes": float(self.episodes),
            "learner/updates": float(self.updates),
            "timing/env_steps_per_second": (self.steps - steps) / seconds,
            "timing/updates_per_second": (self.updates - updates) / seconds,
            **extra,
        }
        for name in self._recent[-1] if self._recent else ():
            known = [episode[name] for episode in self._recent if math.isfinite(episode.get(name, math.nan))]
            if known:
                values[f"rollout/{name}"] = sum(known) / len(known)
        self._progress.show(self._metrics.write(self.steps, values))

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "updates": self.updates,
            "recent": list(self._recent),
            "done": dict(self._done),
            "gathered": self._metrics.gathered(),
        }

    def close(self) -> None:
        self._metrics.close()
