"""Ray actors around rollout, planning and evaluation.

The launcher wraps these classes with `ray.remote` and names the actors. Factories run inside the actor's
process, so simulators and models live only there.

Backpressure: a rollout actor runs only on a permit (`run`), and waits before it has more than
`max_pending` messages that no shard has acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from actors.evaluate import Evaluation, Evaluator
from actors.records import Block, Episode, Policy
from actors.replay.sharded import route
from actors.replay.wire import encode_blocks
from actors.rollout import RolloutLoop


@dataclass(frozen=True)
class RolloutSummary:
    """What one permit of a rollout actor came to."""

    actor: int
    incarnation: int
    steps: int  # steps taken
    acknowledged: int  # steps that shards acknowledged since the last summary
    pending: int  # steps sent and not acknowledged yet
    episodes: list[Episode]
    metrics: dict[str, float]  # means of the policy's metrics
    policy_version: int  # of the policy that took the steps
    policy_lag: int  # versions the policy was behind before this permit
    env_seconds: float
    policy_seconds: float
    push_seconds: float  # encoding, sending and waiting for acknowledgements


def pull_weights(store: Any, policy: Policy) -> int:
    """Update `policy` if the weight store has something newer; the versions it was behind."""
    newer = ray.get(store.latest.remote(policy.version))
    if newer is None:
        return 0
    version, references = newer
    lag = int(version) - policy.version
    policy.update(version, ray.get(references[0]))
    return lag


class RolloutActor:
    """Owns a rollout loop and pushes its blocks straight to the shards.

    Args:
        make_loop: Builds the loop.
        shards: Handles of the shard actors, in the order of their indices.
        weights: Handle of the weight store, None if the policy needs no weights here.
        actor: Index of this actor.
        max_pending: Messages that may wait for their acknowledgement.
    """

    def __init__(
        self,
        make_loop: Callable[[], RolloutLoop],
        shards: Sequence[Any],
        weights: Any | None = None,
        actor: int = 0,
        max_pending: int = 4,
    ) -> None:
        if max_pending < 1:
            raise ValueError(f"max_pending must be at least 1, got {max_pending}")
        self._loop = make_loop()
        self._shards = list(shards)
        self._weights = weights
        self._actor = actor
        self._max_pending = max_pending
        self._pending: deque[tuple[int, Any]] = deque()  # (steps, reference of the answer)
        self._metrics = _RolloutMetrics(actor)

    def ping(self) -> int:
        """The version of the policy."""
        return self._loop.policy.version

    def run(self, num_ticks: int, version: int | None = None) -> RolloutSummary:
        """Take `num_ticks` steps in every environment and push the full blocks.

        Args:
            num_ticks: Steps per environment.
            version: Newest published version if the caller knows it; saves asking the store.
        """
        lag = 0
        policy = self._loop.policy
        if self._weights is not None and (version is None or version > policy.version):
            lag = pull_weights(self._weights, policy)
        result = self._loop.collect(num_ticks)
        start = perf_counter()
        acknowledged = self._push(result.blocks)
        summary = RolloutSummary(
            actor=self._actor,
            incarnation=self._loop.incarnation,
            steps=result.steps,
            acknowledged=acknowledged,
            pending=sum(steps for steps, _ in self._pending),
            episodes=result.episodes,
            metrics=result.metrics,
            policy_version=policy.version,
            policy_lag=lag,
            env_seconds=result.env_seconds,
            policy_seconds=result.policy_seconds,
            push_seconds=perf_counter() - start,
        )
        self._metrics.record(summary)
        return summary

    def flush(self) -> int:
        """Push the unfinished blocks and wait for every acknowledgement; the steps acknowledged."""
        return self._push(self._loop.flush()) + self._wait(0)

    def restart(self, incarnation: int) -> None:
        """Push everything, then go on with new streams; see `RolloutLoop.restart`."""
        self.flush()
        self._loop.restart(incarnation)

    def _push(self, blocks: list[Block]) -> int:
        """Send one message per shard; the steps acknowledged meanwhile."""
        acknowledged = 0
        for index, shard in enumerate(self._shards):
            group = [block for block in blocks if route(block.stream_id, len(self._shards)) == index]
            if group:
                acknowledged += self._wait(self._max_pending - 1)
                header, payload = encode_blocks(group)
                steps = sum(block.num_steps for block in group)
                self._pending.append((steps, shard.insert.remote(header, payload)))
        return acknowledged + self._wait(len(self._pending))

    def _wait(self, most: int) -> int:
        """Take the acknowledgements that are there, and wait while more than `most` messages are pending."""
        acknowledged = 0
        while self._pending:
            steps, answer = self._pending[0]
            if len(self._pending) <= most and not ray.wait([answer], timeout=0)[0]:
                break
            ray.get(answer)  # raises what the shard raised
            self._pending.popleft()
            acknowledged += steps
        return acknowledged


class _RolloutMetrics:
    def __init__(self, actor: int) -> None:
        keys, tags = ("actor",), {"actor": str(actor)}
        self._steps = Counter("worldfleet_rollout_steps", "Environment steps taken", tag_keys=keys)
        self._episodes = Counter("worldfleet_rollout_episodes", "Episodes finished", tag_keys=keys)
        self._return = Gauge("worldfleet_rollout_episode_return", "Return of the last episode", tag_keys=keys)
        self._lag = Gauge("worldfleet_rollout_policy_lag", "Versions the policy was behind", tag_keys=keys)
        self._rate = Gauge("worldfleet_rollout_steps_per_second", "Steps per second inside a permit", tag_keys=keys)
        for metric in (self._steps, self._episodes, self._return, self._lag, self._rate):
            metric.set_default_tags(tags)

    def record(self, summary: RolloutSummary) -> None:
        self._steps.inc(summary.steps)
        if summary.episodes:
            self._episodes.inc(len(summary.episodes))
            self._return.set(summary.episodes[-1].episode_return)
        self._lag.set(summary.policy_lag)
        seconds = summary.env_seconds + summary.policy_seconds + summary.push_seconds
        self._rate.set(summary.steps / max(seconds, 1e-9))


class EvaluatorActor:
    """Evaluates the newest published weights on fixed held-out seeds.

    Args:
        make_evaluator: Builds the evaluator with its environments.
        make_policy: Builds the policy.
        weights: Handle of the weight store, None if the policy needs no weights.
        algorithm: Name for the summary.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator],
        make_policy: Callable[[], Policy],
        weights: Any | None = None,
        algorithm: str = "",
    ) -> None:
        self._evaluator = make_evaluator()
        self._policy = make_policy()
        self._weights = weights
        self._algorithm = algorithm
        self._return = Gauge("worldfleet_eval_return", "Mean return of the last evaluation")
        self._success = Gauge("worldfleet_eval_success_rate", "Success rate of the last evaluation")

    def ping(self) -> int:
        """The version of the policy."""
        return self._policy.version

    def run(self) -> Evaluation:
        """Pull the newest weights and evaluate them."""
        if self._weights is not None:
            pull_weights(self._weights, self._policy)
        evaluation = self._evaluator.evaluate(self._policy, self._algorithm)
        self._return.set(evaluation.summary.return_mean)
        if evaluation.summary.success_rate is not None:
            self._success.set(evaluation.summary.success_rate)
        return evaluation
