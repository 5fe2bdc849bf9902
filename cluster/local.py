"""The whole run in one process: read this first.

    rollout loops --blocks--> replay --batches--> learner --weights--> policy --actions--> rollout loops

`cluster.launch` wires the same parts as Ray actors. Here they take turns, so a seed fixes every number: two
runs write the same metrics, timing fields aside, and a run that was stopped anywhere continues as if it had
not been: checkpoints disturb nothing, and simulators come back by playing their last episode again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from actors.evaluate import EvaluationStopped
from actors.reanalyze import Pace
from actors.rollout import next_incarnation
from cluster import build
from cluster.checkpoints import Checkpoints, forget_tail, must_keep_tail
from cluster.config import RunConfig
from cluster.ending import Saved, end_now
from cluster.offline import source_folders
from cluster.recorder import Recorder
from cluster.report import imagination
from cluster.signals import StopFlag, StopLate
from cluster.stages import Collect, Fit, Interleave, Stage
from cluster.supervise import RunFailed
from envs.faults import SimulatorError
from envs.registry import entry
from learner.algorithms.base import Part
from learner.checkpoint import restoring
from learner.learner import is_due
from learner.nonfinite import NonFiniteError

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
        batches = build.local_batches(config, self.replay)
        self.learner = build.learner(config, batches, self.replay.write_back, bundles=recorder.run_dir.bundles)
        self.policy = build.policy(config, config.learner.device)
        fresh = next_incarnation(self.replay.next_steps())
        num_loops = config.count("rollout") if recorder.stages.collects else 0
        self.loops = [build.rollout_loop(config, self.policy, index, fresh, self.end) for index in range(num_loops)]
        self.batch_steps = build.batch_steps(config)
        self.limiter = build.limiter(config, self.batch_steps)
        num_reanalyzers = config.count("reanalyze")
        self.reanalyzers = [
            build.local_reanalyzer(config, self.replay, self.policy, index) for index in range(num_reanalyzers)
        ]
        steps_per_update = config.reanalyze.steps_per_update or float(config.reanalyze.batch_size)
        self.pace = Pace(steps_per_update, recorder.updates)
        self.published: tuple[int, dict[str, Any]] | None = None
        self.stopping = StopFlag()
        self.owed: list[int] = []  # ticks that each loop has still to take in the present turn; empty between two
        self.owes_evaluation = False  # whether the turn is whole but for the evaluation after it
        self.loops_are_whole = True
        self.turn_updates = 0  # made in the present turn
        if state is not None:
            with restoring(f"the checkpoint of {manifest}"):
                self.learner.load_state_dict(state["learner"])
                self.limiter.load_state_dict(state["limiter"])
                self.restore_actors(state.get("actors"), tail)
        if tail:
            stats = self.replay.stats()
            inserted = int(stats["inserted_steps"])
            self.limiter.recovered(inserted)
            recorder.recovered(inserted, int(stats["lost_steps"]))

    def run(self, stopping: StopFlag) -> Saved:
        """Train until the schedule is done or `stopping` says so, then save a last checkpoint; what the run leaves.

        A stop is exact, between two steps: the turn goes on when the run continues. Only what has not answered when
        half of the stop's budget is spent is left in its midst; simulators then begin new streams.

        Raises:
            RunFailed: Simulators failed too often; the checkpoint is saved.
        """
        recorder, self.stopping = self.recorder, stopping
        left_out: list[str] = []
        while (self.owes_evaluation or not recorder.finished) and recorder.failure is None and not stopping:
            if not self.owes_evaluation:
                try:
                    self.turn(recorder.stage)
                except StopLate:
                    self.loops_are_whole = False
                    left_out.append("the environments, which did not answer, with what no block held yet")
                if self.owed:
                    break
            if self.owes_evaluation or recorder.due("eval"):
                self.owes_evaluation = True
                if stopping or not self.evaluate():
                    break
                self.owes_evaluation = False
            recorder.advance()
            if recorder.due("log"):
                recorder.log({f"replay/{name}": value for name, value in self.replay.stats().items()})
            if recorder.due("checkpoint") and not recorder.finished:
                self.checkpoint()
        self.checkpoint()
        if recorder.failure is not None:
            raise RunFailed(recorder.failure)
        return self.checkpoints.saved(left_out)

    def turn(self, stage: Stage) -> None:
        """A little of a stage; it is whole if nothing is `owed` afterwards."""
        match stage:
            case Interleave():
                if not (self.collect() and self.train()):
                    return
            case Collect():
                if not self.collect():
                    return
            case Fit():
                self.update(stage.part)
        self.owed = []

    def collect(self) -> bool:
        """One collect of every rollout loop, or the rest of one; False if it is stopped before its end."""
        self.owed = self.owed or [self.config.actors.ticks_per_collect] * len(self.loops)
        for index, loop in enumerate(self.loops):
            if self.stopping() and self.owed[index]:
                return False
            if not self.owed[index]:
                continue
            try:
                with self.stopping.interruptible():
                    result = loop.collect(self.owed[index], self.stopping)
            except SimulatorError as error:
                self.recorder.faults(index, 0, loop.env.take_faults())
                self.recorder.fail(str(error))
                return False
            self.owed[index] -= result.ticks
            for block in result.blocks:
                self.replay.insert(block)
            self.limiter.inserted(result.steps)
            self.recorder.rollout(result.steps, result.episodes, result.metrics)
            self.recorder.faults(index, result.steps, result.faults)
        return not any(self.owed)

    def train(self) -> bool:
        """As many updates as the limiter allows, without a ratio to keep one lease; False if it is stopped before."""
        while self.may_train():
            if self.stopping():
                return False
            self.update()
            self.limiter.sampled(self.batch_steps)
            self.turn_updates += 1
        self.turn_updates = 0
        return True

    def may_train(self) -> bool:
        """Whether another update is to be made in this turn."""
        in_turn = self.limiter.bounded or self.turn_updates < self.config.cluster.updates_per_lease
        return (
            in_turn
            and self.limiter.can_sample(self.batch_steps)
            and self.replay.num_items(self.config.replayed_length) > 0  # else no stream is long enough yet
        )

    def update(self, part: Part | None = None) -> None:
        """Train on one batch.

        Raises:
            RunFailed: Too many updates in a row were not finite.
        """
        before = self.learner.updates
        self.reanalyze()
        try:
            metrics = self.learner.step(part)
        except NonFiniteError as error:
            raise RunFailed(str(error)) from error
        self.recorder.learner(self.learner.updates, metrics)
        if is_due(self.config.schedule.publish_every, before, self.learner.updates):
            self.publish()

    def reanalyze(self) -> None:
        """As many searches of stored steps as the updates so far call for, the reanalyzers in turn."""
        steps = self.config.reanalyze.batch_size
        while self.reanalyzers and self.policy.version and self.pace.allows(steps, self.learner.updates):
            reanalyzer = self.reanalyzers[round(self.pace.searched / steps) % len(self.reanalyzers)]
            self.pace.took(steps)
            metrics = reanalyzer.step()
            self.recorder.reanalyzed(round(metrics.pop("steps")), metrics)

    def publish(self) -> None:
        """Hand the learner's weights to the policy."""
        self.published = self.learner.updates, self.learner.export_weights()
        self.policy.update(*self.published)

    def evaluate(self) -> bool:
        """An evaluation on the run's own schedule; False if it was stopped before its end."""
        keep = imagination.EPISODES if imagination.applies(self.config) else 0
        try:
            evaluator = build.evaluator(self.config, self.config.schedule.eval_episodes, seed=1, keep_episodes=keep)
            with closing(evaluator), self.stopping.interruptible():
                evaluation = evaluator.evaluate(self.policy, self.config.algorithm.name, self.stopping)
        except (EvaluationStopped, StopLate):
            return False
        except SimulatorError as error:
            self.recorder.fail(f"no evaluation: {error}")
            return False
        self.recorder.evaluation(evaluation.summary)
        if evaluation.streams:
            algorithm, steps = self.learner.algorithm, self.recorder.steps
            build.study(self.config, self.recorder.run_dir, algorithm, evaluation.streams, steps)
        return True

    def checkpoint(self) -> None:
        """Save the state of all parts; none of them is changed by it."""
        name = self.checkpoints.next_name(self.recorder.steps)
        self.replay.checkpoint(name)
        parts = {
            "learner": self.learner.state_dict(),
            "replay": {"manifest": name},
            "limiter": self.limiter.state_dict(),
            "recorder": self.recorder.state_dict(),
            "actors": {
                "published": self.published,
                "loops": [loop.state_dict() for loop in self.loops] if self.loops_are_whole else [],
                "owed": self.owed if self.loops_are_whole else [],
                "owes_evaluation": self.owes_evaluation,
                "turn_updates": self.turn_updates,
                "searched": self.pace.searched,
                "reanalyzers": [reanalyzer.state_dict() for reanalyzer in self.reanalyzers],
            },
        }
        self.checkpoints.commit(self.recorder.steps, parts)
        self.replay.retain(self.checkpoints.names())
        forget_tail(self.directory)

    def end(self, reason: str) -> None:
        """End the process at once: a simulator hangs in it, so nothing can be saved."""
        self.recorder.run_dir.event(event="failed", step=self.recorder.steps, reason=reason)
        end_now(1, f"{reason}; continue with: worldfleet train --resume {self.recorder.run_dir.path}")

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
        self.turn_updates = int(state.get("turn_updates", 0))
        self.pace.searched = float(state.get("searched", self.pace.searched))
        for reanalyzer, saved in zip(self.reanalyzers, state.get("reanalyzers", ()), strict=False):
            reanalyzer.load_state_dict(saved)  # there may be more now, or fewer
        if state["published"] is not None:
            self.published = state["published"]
            self.policy.update(*self.published)
        self.owes_evaluation = bool(state.get("owes_evaluation", False))
        if tail:
            return
        if len(state["loops"]) == len(self.loops):
            self.owed = list(state.get("owed", ()))
        for index, (loop, saved) in enumerate(zip(self.loops, state["loops"], strict=False)):  # there may be more now
            fresh = loop.incarnation
            if len(saved["origins"]) != loop.env.num_envs:
                logger.warning("rollout loop %d has another number of environments now: new streams", index)
            elif not loop.load_state_dict(saved):
                logger.warning("the simulators of rollout loop %d do not repeat themselves: new streams", index)
                loop.restart(fresh)
