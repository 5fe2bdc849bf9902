"""The whole run in one process: read this first.

    rollout loops --blocks--> replay --batches--> learner --weights--> policy --actions--> rollout loops

`cluster.launch` wires the same parts as Ray actors. Here they take turns, so a seed fixes every number: two
runs write the same metrics, timing fields aside, and a run that was stopped anywhere continues as if it had
not been: checkpoints disturb nothing, and simulators come back by playing their last episode again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.rollout import next_incarnation
from cluster import build
from cluster.checkpoints import Checkpoints, forget_tail, must_keep_tail
from cluster.config import RunConfig
from cluster.offline import source_folders
from cluster.recorder import Recorder
from cluster.report import imagination
from cluster.stages import Collect, Fit, Interleave, Stage
from envs.registry import entry
from learner.algorithms.base import Part

logger = logging.getLogger(__name__)


class LocalRun:
    """The parts of a run and how they take turns.

    Args:
        config: The run.
        recorder: Counts, logs and says what is due.
        checkpoints: Where checkpoints go.
        directory: Folder of the replay's files.
        state: Parts of the checkpoint to continue from, None to start.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        checkpoints: Checkpoints,
        directory: Path,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.recorder, self.checkpoints = config, recorder, checkpoints
        # Steps after the checkpoint come again if the rollout loops go on from it, and are kept otherwise.
        loops_continue = state is not None and "actors" in state and not must_keep_tail(directory)
        tail = not (loops_continue and entry(config.env.name).repeatable)
        self.directory = directory
        manifest = None if state is None else state["replay"]["manifest"]
        imported = source_folders(config) if state is None else ()
        self.replay = build.replay(config, directory, manifest, tail, imported)
        self.learner = build.learner(config, build.local_batches(config, self.replay), self.replay.write_back)
        self.policy = build.policy(config, config.learner.device)
        fresh = next_incarnation(self.replay.next_steps())
        num_loops = config.count("rollout") if recorder.stages.collects else 0
        self.loops = [build.rollout_loop(config, self.policy, index, fresh) for index in range(num_loops)]
        self.batch_steps = build.batch_steps(config)
        self.limiter = build.limiter(config, self.batch_steps)
        self.published: tuple[int, dict[str, Any]] | None = None
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            self.limiter.load_state_dict(state["limiter"])
            self.restore_actors(state.get("actors"), tail)
        if tail:
            inserted = int(self.replay.stats()["inserted_steps"])
            self.limiter.recovered(inserted)
            recorder.recovered(inserted)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Train until the schedule is done or `stopping` says so, then save a last checkpoint."""
        recorder = self.recorder
        while not recorder.finished and not stopping():
            self.turn(recorder.stage)
            if recorder.due("eval"):
                self.evaluate()
            recorder.advance()
            if recorder.due("log"):
                recorder.log({f"replay/{name}": value for name, value in self.replay.stats().items()})
            if recorder.due("checkpoint") and not recorder.finished:
                self.checkpoint()
        self.checkpoint()

    def turn(self, stage: Stage) -> None:
        """A little of a stage."""
        match stage:
            case Interleave():
                self.collect()
                self.train()
            case Collect():
                self.collect()
            case Fit():
                self.update(stage.part)

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
            self.update()
            self.limiter.sampled(self.batch_steps)

    def update(self, part: Part | None = None) -> None:
        """Train on one batch."""
        metrics = self.learner.step(part)
        self.recorder.learner(self.learner.updates, metrics)
        if self.learner.updates % self.config.schedule.publish_every == 0:
            self.publish()

    def publish(self) -> None:
        """Hand the learner's weights to the policy."""
        self.published = self.learner.updates, self.learner.export_weights()
        self.policy.update(*self.published)

    def evaluate(self) -> None:
        """An evaluation on the run's own schedule."""
        keep = imagination.EPISODES if imagination.applies(self.config) else 0
        evaluator = build.evaluator(self.config, self.config.schedule.eval_episodes, seed=1, keep_episodes=keep)
        evaluation = evaluator.evaluate(self.policy, self.config.algorithm.name)
        evaluator.close()
        self.recorder.evaluation(evaluation.summary)
        build.study(self.config, self.recorder.run_dir, self.learner.algorithm, evaluation.streams, self.recorder.steps)

    def checkpoint(self) -> None:
        """Save the state of all parts; none of them is changed by it."""
        name = self.checkpoints.next_name(self.recorder.steps)
        self.replay.checkpoint(name)
        parts = {
            "learner": self.learner.state_dict(),
            "replay": {"manifest": name},
            "limiter": self.limiter.state_dict(),
            "recorder": self.recorder.state_dict(),
            "actors": {"published": self.published, "loops": [loop.state_dict() for loop in self.loops]},
        }
        self.checkpoints.commit(self.recorder.steps, parts)
        self.replay.retain(self.checkpoints.names())
        forget_tail(self.directory)

    def close(self) -> None:
        """Close the simulators and give the replay's files free."""
        for loop in self.loops:
            loop.env.close()
        self.replay.close()

    def restore_actors(self, state: Mapping[str, Any] | None, tail: bool = False) -> None:
        """Bring the policy and the rollout loops back to where they were.

        Args:
            state: What a checkpoint says of them; that of a run on Ray says nothing.
            tail: Whether the replay has gone on since then: the loops begin new streams.
        """
        if state is None:
            self.publish()
            return
        if state["published"] is not None:
            self.published = state["published"]
            self.policy.update(*self.published)
        if tail:
            return
        for index, (loop, saved) in enumerate(zip(self.loops, state["loops"], strict=False)):  # there may be more now
            fresh = loop.incarnation
            if len(saved["origins"]) != loop.env.num_envs:
                logger.warning("rollout loop %d has another number of environments now: new streams", index)
            elif not loop.load_state_dict(saved):
                logger.warning("the simulators of rollout loop %d do not repeat themselves: new streams", index)
                loop.restart(fresh)
