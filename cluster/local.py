"""The whole run in one process: read this first.

    rollout loops --blocks--> replay --batches--> learner --weights--> policy --actions--> rollout loops

`cluster.launch` wires the same parts as Ray actors. Here they take turns, so a seed fixes every number: two
runs write the same metrics, timing fields aside, and a resumed run continues as if it had never stopped. For
that, rollout loops open new streams at every checkpoint, in the run that writes it and in the run that resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster import build
from cluster.config import RunConfig
from cluster.recorder import Recorder

SaveCheckpoint = Callable[[dict[str, Any]], None]


class LocalRun:
    """The parts of a run and how they take turns.

    Args:
        config: The run.
        recorder: Counts, logs and says what is due.
        state: Parts of the checkpoint to continue from, None to start.
    """

    def __init__(self, config: RunConfig, recorder: Recorder, state: Mapping[str, Any] | None = None) -> None:
        self.config, self.recorder = config, recorder
        self.replay = build.replay(config)
        self.learner = build.learner(config, build.local_batches(config, self.replay))
        self.policy = build.policy(config)
        self.loops = [build.rollout_loop(config, self.policy, index) for index in range(config.actors.rollout_actors)]
        self.batch_steps = build.batch_steps(config)
        self.limiter = build.limiter(config, self.batch_steps)
        self.incarnation = 0
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            self.replay.load_state_dict(state["replay"])
            self.limiter.load_state_dict(state["limiter"])
            self.open_streams(int(state["rollout"]["incarnation"]))

    def run(self, save: SaveCheckpoint, stopping: Callable[[], bool]) -> None:
        """Train until the schedule is done or `stopping` says so; `save` gets the state at every checkpoint."""
        recorder = self.recorder
        while not recorder.finished and not stopping():
            self.collect()
            self.train()
            if recorder.due("eval"):
                self.evaluate()
            if recorder.due("log"):
                recorder.log({f"replay/{name}": value for name, value in self.replay.stats().items()})
            if recorder.due("checkpoint") and not recorder.finished:
                save(self.checkpoint())
        save(self.checkpoint())

    def collect(self) -> None:
        """One collect of every rollout loop."""
        for loop in self.loops:
            result = loop.collect(self.config.actors.ticks_per_collect)
            for block in result.blocks:
                self.replay.insert(block)
            self.limiter.inserted(result.steps)
            self.recorder.rollout(result.steps, result.episodes, result.metrics)

    def train(self) -> None:
        """As many updates as the limiter allows."""
        while self.limiter.can_sample(self.batch_steps):
            metrics = self.learner.step()
            self.limiter.sampled(self.batch_steps)
            self.recorder.learner(self.learner.updates, metrics)
            if self.learner.updates % self.config.schedule.publish_every == 0:
                self.publish()

    def publish(self) -> None:
        """Hand the learner's weights to the policy, once there are any."""
        if self.learner.updates:
            self.policy.update(self.learner.updates, self.learner.export_weights())

    def evaluate(self) -> None:
        """An evaluation on the run's own schedule."""
        evaluator = build.evaluator(self.config, self.config.schedule.eval_episodes, seed=1)
        self.recorder.evaluation(evaluator.evaluate(self.policy, self.config.algorithm.name).summary)
        evaluator.close()

    def checkpoint(self) -> dict[str, Any]:
        """The state of all parts; afterwards the run is where a resumed one starts."""
        for loop in self.loops:
            for block in loop.flush():
                self.replay.insert(block)
        self.open_streams(self.incarnation + 1)
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "limiter": self.limiter.state_dict(),
            "recorder": self.recorder.state_dict(),
            "rollout": {"incarnation": self.incarnation},
        }

    def open_streams(self, incarnation: int) -> None:
        """Publish, then start all environments afresh in new streams."""
        self.incarnation = incarnation
        self.publish()
        for loop in self.loops:
            loop.restart(incarnation)
