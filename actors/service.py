"""Ray actors around rollout, serving and evaluation.

The launcher wraps these classes with `ray.remote` and names the actors. Factories run inside the actor's
process, so simulators and models live only there.

Backpressure: a rollout actor runs only on a lease (`run`), and waits before a shard has more than
`max_pending` of its messages, or its share of `unapplied_bytes`, still to acknowledge. A serving actor
holds at most one request of each rollout actor, because a rollout loop waits for its actions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError
from ray.util.metrics import Counter, Gauge, Histogram

from actors.batching import DynamicBatcher
from actors.evaluate import Evaluation, Evaluator
from actors.ledger import Ledger
from actors.reanalyze import Reanalyzer
from actors.records import Block, Episode, Policy
from actors.replay.flow.credits import Message, MessageWindow
from actors.replay.flow.routing import route
from actors.replay.flow.service import RayInserts
from actors.replay.wire.buffers import make_buffer_pool
from actors.rollout import RolloutLoop
from actors.serving import ActRequest, ActResult, act_together
from envs.faults import Fault, SimulatorError
from envs.specs import ArraySpec
from envs.vector import SerialVectorEnv
from learner.broadcast import unpack_weights
from learner.means import mean_metrics

BATCH_MS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
"""Upper edges of the histogram of the time a served batch takes."""

AGE_VERSIONS = [1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0]
"""Upper edges of the histogram of the age of targets."""

NO_WEIGHTS_SECONDS = 0.1
"""How long a reanalyzer without weights waits before it answers."""


@dataclass(frozen=True)
class RolloutSummary:
    """What one lease of a rollout actor came to."""

    actor: int
    incarnation: int
    steps: int  # steps taken
    acknowledged: int  # steps that shards acknowledged since the last summary
    pending: int  # steps sent and not acknowledged yet
    episodes: list[Episode]
    metrics: dict[str, float]  # means of the policy's metrics
    policy_version: int  # of the policy that took the steps
    policy_lag: int  # versions the policy was behind before this lease
    env_seconds: float
    policy_seconds: float
    push_seconds: float  # encoding, sending and waiting for acknowledgements
    faults: list[Fault] = field(default_factory=list)  # failures of simulators


class Pulse(Protocol):
    """Signs of life of an actor whose calls take long."""

    def tick(self) -> bool:
        """Count a step of work; whether the run is to stop."""
        ...

    def follow(self, place: Callable[[], object]) -> None:
        """Count as a step also each time that `place` has changed; it is asked in another thread."""
        ...


class NoPulse:
    """The pulse of an actor that nobody watches."""

    def tick(self) -> bool:
        return False

    def follow(self, place: Callable[[], object]) -> None:
        pass


def pull_weights(store: Any, policy: Policy) -> int:
    """Update `policy` if the weight store has something newer; the versions it was behind.

    Weights that died with their store are left alone: the learner publishes others.
    """
    newer = ray.get(store.latest.remote(policy.version))
    if newer is None:
        return 0
    version, references = newer
    lag = int(version) - policy.version
    try:
        policy.update(version, unpack_weights(ray.get(references[0])))
    except ObjectLostError:
        return 0
    return lag


class RolloutActor:
    """Owns a rollout loop and pushes its blocks straight to the shards.

    Args:
        make_loop: Builds the loop.
        shards: Handles of the shard actors, in the order of their indices.
        weights: Handle of the weight store, None if the policy needs no weights here (it is served elsewhere).
        actor: Index of this actor.
        max_pending: Messages that may wait for their acknowledgement, per shard.
        unapplied_bytes: Bytes that all rollout actors together may have on their way to one shard.
        num_actors: Rollout actors, who share them evenly; each may always have one message on its way.
        make_ledger: Opens the file where acknowledgements are written down, if they are.
        make_pulse: Starts the signs of life of this process.
    """

    def __init__(
        self,
        make_loop: Callable[[], RolloutLoop],
        shards: Sequence[Any],
        weights: Any | None = None,
        actor: int = 0,
        max_pending: int = 4,
        unapplied_bytes: int = 256 << 20,
        num_actors: int = 1,
        make_ledger: Callable[[], Ledger] | None = None,
        make_pulse: Callable[[], Pulse] = NoPulse,
    ) -> None:
        if num_actors < 1:
            raise ValueError(f"num_actors must be at least 1, got {num_actors}")
        self._pulse = make_pulse()
        share = max(1, unapplied_bytes // num_actors)
        note = None if make_ledger is None else partial(_note, make_ledger())
        box = make_buffer_pool()
        self._ports = [RayInserts(shard, box) for shard in shards]
        self._windows = [MessageWindow(port, max_pending, share, note) for port in self._ports]
        self._made: RolloutLoop | None = None
        self._failure: Exception | None = None
        try:
            self._made = make_loop()
        except (SimulatorError, ValueError, ImportError) as error:
            self._failure = error  # for the first call: an actor that dies here is started again, and fails again
        if self._made is not None and isinstance(self._made.env, SerialVectorEnv):  # others limit their steps
            progress = self._made.env.progress
            self._pulse.follow(lambda: progress.place)
        self._weights = weights
        self._actor = actor
        self._metrics = _RolloutMetrics(actor)

    @property
    def _loop(self) -> RolloutLoop:
        if self._made is None:
            assert self._failure is not None
            raise self._failure
        return self._made

    def ping(self) -> int:
        """The version of the policy."""
        return self._loop.policy.version

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def run(self, num_ticks: int, version: int | None = None) -> RolloutSummary:
        """Take `num_ticks` steps in every environment and push the full blocks; fewer if the run is to stop.

        Args:
            num_ticks: Steps per environment.
            version: Newest published version if the caller knows it; saves asking the store.

        Raises:
            SimulatorError: An environment fails however often it is made again, or cannot be made at all.
            ValueError: The loop was refused; a ContractError if an environment is not of its spec.
        """
        policy = self._loop.policy
        lag = 0 if version is None else max(0, version - policy.version)
        if self._weights is not None and (version is None or lag):
            lag = pull_weights(self._weights, policy)
        result = self._loop.collect(num_ticks, self._pulse.tick)
        start = perf_counter()
        acknowledged = self._push(result.blocks)
        summary = RolloutSummary(
            actor=self._actor,
            incarnation=self._loop.incarnation,
            steps=result.steps,
            acknowledged=acknowledged,
            pending=sum(window.pending_steps for window in self._windows),
            episodes=result.episodes,
            metrics=result.metrics,
            policy_version=policy.version,
            policy_lag=lag,
            env_seconds=result.env_seconds,
            policy_seconds=result.policy_seconds,
            push_seconds=perf_counter() - start,
            faults=result.faults,
        )
        self._metrics.record(summary)
        return summary

    def flush(self) -> int:
        """Push the unfinished blocks and wait for every acknowledgement; the steps acknowledged."""
        blocks = [] if self._made is None else self._made.flush()
        return self._push(blocks) + sum(window.settle(wait=True) for window in self._windows)

    def restart(self, incarnation: int) -> None:
        """Push everything, then go on with new streams; see `RolloutLoop.restart`."""
        self.flush()
        self._loop.restart(incarnation)

    def close(self) -> None:
        """Close the environments; no other call may follow."""
        if self._made is not None:
            self._made.env.close()

    def _push(self, blocks: list[Block]) -> int:
        """Send one message per shard; the steps acknowledged meanwhile."""
        acknowledged = 0
        for index, (port, window) in enumerate(zip(self._ports, self._windows, strict=True)):
            group = [block for block in blocks if route(block.stream_id, len(self._windows)) == index]
            if group:
                acknowledged += window.send(port.message(group))
        return acknowledged + sum(window.settle() for window in self._windows)


def _note(ledger: Ledger, message: Message) -> None:
    ledger.acknowledged(message.header)


class _RolloutMetrics:
    def __init__(self, actor: int) -> None:
        keys, tags = ("actor",), {"actor": str(actor)}
        self._steps = Counter("worldfleet_rollout_steps", "Environment steps taken", tag_keys=keys)
        self._episodes = Counter("worldfleet_rollout_episodes", "Episodes finished", tag_keys=keys)
        self._return = Gauge("worldfleet_rollout_episode_return", "Return of the last episode", tag_keys=keys)
        self._lag = Gauge("worldfleet_rollout_policy_lag", "Versions the policy was behind", tag_keys=keys)
        self._rate = Gauge("worldfleet_rollout_steps_per_second", "Steps per second inside a lease", tag_keys=keys)
        for metric in (self._steps, self._episodes, self._return, self._lag, self._rate):
            metric.set_default_tags(tags)
        self._faults = Counter("worldfleet_rollout_faults", "Failures of simulators", tag_keys=("actor", "kind"))
        self._tags = tags

    def record(self, summary: RolloutSummary) -> None:
        if summary.steps:  # none in a call that was stopped at once, which a counter refuses
            self._steps.inc(summary.steps)
        if summary.episodes:
            self._episodes.inc(len(summary.episodes))
            self._return.set(summary.episodes[-1].episode_return)
        for fault in summary.faults:
            self._faults.inc(1, {**self._tags, "kind": fault.kind})
        self._lag.set(summary.policy_lag)
        seconds = summary.env_seconds + summary.policy_seconds + summary.push_seconds
        self._rate.set(summary.steps / max(seconds, 1e-9))


class ServingActor:
    """Acts for many rollout actors; requests that arrive close together become one call of the policy.

    Serving is stateless (the caller owns the carry), so a restarted actor goes on where it was, and a repeated
    request gets the same actions from the same weights. Newer weights are fetched in the background and taken over
    between two batches.

    Args:
        make_policy: Builds the policy.
        find_weights: Gives the handle of the weight store. A handle among the arguments would lie in the object store,
            and a restart would fail once it is gone from there.
        max_rows: Rows of a batch at most.
        max_wait_ms: How long the first request of a batch waits for others.
        name: The actor, in its metrics.
        poll_seconds: Time between two looks for newer weights.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        find_weights: Callable[[], Any],
        max_rows: int = 64,
        max_wait_ms: float = 2.0,
        name: str = "serving-0",
        poll_seconds: float = 0.2,
    ) -> None:
        self._policy = make_policy()
        self._weights = find_weights()
        self._poll_seconds = poll_seconds
        self._newer: tuple[int, dict[str, NDArray[Any]]] | None = None
        self._first_fetch: asyncio.Task[None] | None = None
        self._poll: asyncio.Task[None] | None = None
        self._batcher = DynamicBatcher(self._act_batch, lambda request: request.num_rows, max_rows, max_wait_ms)
        self._metrics = _ServingMetrics(name)

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    async def ping(self) -> int:
        """The version of the weights that act."""
        return self._policy.version

    async def extras(self) -> dict[str, ArraySpec]:
        """The extras of the policy."""
        return dict(self._policy.extras)

    async def initial(self, seeds: NDArray[np.uint64]) -> Any:
        """The carry of len(seeds) environments of one caller."""
        return self._policy.initial(seeds)

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    async def act(self, request: ActRequest) -> ActResult:
        """Act at the steps of one caller; (output, version of the weights)."""
        if self._poll is None or self._first_fetch is None:
            self._first_fetch = asyncio.create_task(self._fetch())
            self._poll = asyncio.create_task(self._keep_fetching())
        await asyncio.shield(self._first_fetch)  # the first batch already uses the weights that are there
        if self._poll.done():
            self._poll.result()  # raises what ended it
        return await self._batcher.submit(request)

    def _act_batch(self, requests: list[ActRequest]) -> list[ActResult]:
        """Run one batch; called in the batcher's thread, the only one that changes the policy."""
        newer, self._newer = self._newer, None
        if newer is not None:
            self._policy.update(*newer)
        start = perf_counter()
        results = act_together(self._policy, requests)
        self._metrics.record(1e3 * (perf_counter() - start), sum(request.num_rows for request in requests))
        return results

    async def _keep_fetching(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self._fetch()
            self._metrics.report(self._batcher.metrics(), self._policy.version)

    async def _fetch(self) -> None:
        known = self._policy.version if self._newer is None else self._newer[0]
        newer = await self._weights.latest.remote(known)
        if newer is not None:
            version, references = newer
            with contextlib.suppress(ObjectLostError):  # they died with their store; the learner publishes others
                self._newer = (version, unpack_weights(await references[0]))


class RayPolicyServer:
    """A serving actor as the PolicyServer of another process."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def extras(self) -> dict[str, ArraySpec]:
        return ray.get(self._actor.extras.remote())  # type: ignore[no-any-return]

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        return ray.get(self._actor.initial.remote(seeds))

    def act(self, request: ActRequest) -> ActResult:
        return ray.get(self._actor.act.remote(request))  # type: ignore[no-any-return]


class _ServingMetrics:
    def __init__(self, name: str) -> None:
        keys = ("actor",)
        self._acts = Counter("worldfleet_serving_actions", "Actions served", tag_keys=keys)
        self._rows = Gauge("worldfleet_serving_batch_rows", "Mean rows of a batch", tag_keys=keys)
        self._wait = Gauge("worldfleet_serving_wait_ms", "Mean wait of a request for its batch", tag_keys=keys)
        self._version = Gauge("worldfleet_serving_weights_version", "Version of the weights", tag_keys=keys)
        self._latency = Histogram(
            "worldfleet_serving_batch_ms", "Time of the policy for a batch", boundaries=BATCH_MS, tag_keys=keys
        )
        for metric in (self._acts, self._rows, self._wait, self._version, self._latency):
            metric.set_default_tags({"actor": name})

    def record(self, milliseconds: float, rows: int) -> None:
        self._latency.observe(milliseconds)
        self._acts.inc(rows)

    def report(self, batches: dict[str, float], version: int) -> None:
        self._version.set(version)
        if batches["batches"] > 0:
            self._rows.set(batches["batch_rows"])
            self._wait.set(batches["wait_ms"])


@dataclass(frozen=True)
class ReanalyzeSummary:
    """What a call of a reanalyzer came to."""

    steps: int  # searched
    version: int  # of the weights that searched
    metrics: dict[str, float]  # means over its batches


class ReanalyzeActor:
    """Searches stored steps anew with the newest published weights; see `actors.reanalyze`.

    Args:
        make_reanalyzer: Builds the reanalyzer.
        weights: Handle of the weight store.
        index: Its place among the reanalyzers.
    """

    def __init__(self, make_reanalyzer: Callable[[], Reanalyzer], weights: Any, index: int = 0) -> None:
        self._reanalyzer = make_reanalyzer()
        self._weights = weights
        tags = {"actor": str(index)}
        self._searched = Counter("worldfleet_reanalyze_steps", "Steps searched anew", tag_keys=("actor",))
        self._age = Histogram(
            "worldfleet_reanalyze_age",
            "Mean age of the targets of a batch before it was searched, versions",
            boundaries=AGE_VERSIONS,
            tag_keys=("actor",),
        )
        self._searched.set_default_tags(tags)
        self._age.set_default_tags(tags)

    def ping(self) -> int:
        """The version of the weights."""
        return self._reanalyzer.policy.version

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def run(self, num_batches: int) -> ReanalyzeSummary:
        """Pull the newest weights and search `num_batches` batches; none while there are no weights."""
        policy, reanalyzer = self._reanalyzer.policy, self._reanalyzer
        pull_weights(self._weights, policy)
        if policy.version == 0:
            sleep(NO_WEIGHTS_SECONDS)
            return ReanalyzeSummary(0, 0, {})
        collected = [reanalyzer.step() for _ in range(num_batches)]
        steps = round(sum(metrics.pop("steps") for metrics in collected))
        self._searched.inc(steps)
        for metrics in collected:
            self._age.observe(metrics["age"])
        return ReanalyzeSummary(steps, policy.version, mean_metrics(collected))


class EvaluatorActor:
    """Evaluates the newest published weights on fixed held-out seeds.

    Args:
        make_evaluator: Builds the evaluator with its environments.
        make_policy: Builds the policy.
        weights: Handle of the weight store, None if the policy needs no weights.
        algorithm: Name for the summary.
        make_pulse: Starts the signs of life of this process.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator],
        make_policy: Callable[[], Policy],
        weights: Any | None = None,
        algorithm: str = "",
        make_pulse: Callable[[], Pulse] = NoPulse,
    ) -> None:
        self._pulse = make_pulse()
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
        evaluation = self._evaluator.evaluate(self._policy, self._algorithm, self._pulse.tick)
        self._return.set(evaluation.summary.return_mean)
        if evaluation.summary.success_rate is not None:
            self._success.set(evaluation.summary.success_rate)
        return evaluation

    def close(self) -> None:
        """Close the environments; no other call may follow."""
        self._evaluator.close()
