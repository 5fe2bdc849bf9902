"""Evaluation on fixed held-out seeds.

Episode e always gets environment seed and policy seed e, and no row depends on what it is batched with,
so the results are the same for any number of environments per wave.

Letters: N environments of a wave, A action size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.carry import take_rows
from actors.episode_metrics import SUCCESS, EpisodeMetrics
from actors.jerk import Jerk
from actors.records import Episode, Policy
from envs.faults import SimulatorError
from envs.numbers import NonNegativeInt, PositiveInt, check_fields
from envs.specs import StepBatch, VectorEnv
from learner.dataset import Stream

logger = logging.getLogger(__name__)

DEFAULT_MAX_STEPS = 5_000
"""Steps after which an episode is cut where neither the evaluation nor the environment has a limit."""

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
_RESAMPLES = 2000


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation runs.

    Args:
        episodes: Number of episodes.
        num_envs: Environments stepped together in one wave.
        seed: Root of the episodes' seeds; keep it apart from the training seeds.
        max_steps: Steps after which an episode is cut, None for the limit that the environment declares or, without
            one, `DEFAULT_MAX_STEPS`.
        record_episodes: Leading episodes whose frames are returned.
        record_stride: Steps between two frames.
        keep_episodes: Leading episodes whose steps are returned.
    """

    episodes: PositiveInt = 100
    num_envs: PositiveInt = 10
    seed: NonNegativeInt = 0
    max_steps: PositiveInt | None = None
    record_episodes: NonNegativeInt = 0
    record_stride: PositiveInt = 1
    keep_episodes: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class EvalSummary:
    """Figures of one evaluation; success is None where the environment does not report it."""

    env: str
    algorithm: str
    episodes: int
    seed: int
    success_rate: float | None
    success_ci95: tuple[float, float] | None  # Wilson score interval
    return_mean: float
    return_ci95: tuple[float, float]  # percentile bootstrap
    length_mean: float
    steps: int  # actions taken in all episodes
    policy_version: int
    metrics: dict[str, float] = field(default_factory=dict)  # EnvSpec.metrics, means over episodes
    policy: dict[str, float] = field(default_factory=dict)  # means of the policy's metrics over all steps
    max_steps: int = DEFAULT_MAX_STEPS  # steps after which an episode is cut
    cut: int = 0  # episodes that were
    faults: int = 0  # episodes that failed by a fault of their simulator
    fault_seeds: tuple[int, ...] = ()  # of the environments of these episodes
    jerk: float | None = None  # mean over episodes, see actors.jerk; None where actions are ids

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """A summary, the episodes in the order of their seeds, and the frames and steps of the first ones."""

    summary: EvalSummary
    episodes: list[Episode]
    frames: list[NDArray[np.uint8]] = field(default_factory=list)  # per recorded episode [frames, height, width, 3]
    streams: list[Stream] = field(default_factory=list)  # per kept episode, as rollout would have stored it
    no_frames: str = ""  # why there are no frames though some were to be recorded


class EvaluationStopped(Exception):
    """An evaluation was stopped before its last episode had ended."""


def never() -> bool:
    """Nothing stops."""
    return False


def untold(ended: int, episodes: int) -> None:
    """Nobody waits to hear it."""


def wilson_interval(successes: int, trials: int, z: float = _Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, "Probable inference")."""
    assert 0 <= successes <= trials > 0
    rate, scale = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979), 95 %."""
    index = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[index].mean(1), [0.025, 0.975])
    return float(low), float(high)


class Evaluator:
    """Runs a policy without exploration on fixed seeds.

    Args:
        make_env: Builds the vector environment of a wave from its size.
        config: Episodes, seeds and frames.
    """

    def __init__(self, make_env: Callable[[int], VectorEnv], config: EvalConfig) -> None:
        self._config = config
        self._make_env = partial(make_env, min(config.num_envs, config.episodes))
        self._env = self._make_env()
        states = np.random.SeedSequence(config.seed).generate_state(2 * config.episodes, np.uint64).astype(np.uint64)
        self.env_seeds = [int(s >> np.uint64(33)) for s in states[0::2]]
        self._policy_seeds = states[1::2]

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is cut."""
        return self._config.max_steps or self._env.spec.max_episode_steps or DEFAULT_MAX_STEPS

    def evaluate(
        self,
        policy: Policy,
        algorithm: str = "",
        stopping: Callable[[], bool] = never,
        ended: Callable[[int, int], object] = untold,
    ) -> Evaluation:
        """Run all episodes and sum them up.

        Args:
            policy: Acts, without exploration.
            algorithm: Copied into the summary.
            stopping: Asked before every step of the environments.
            ended: Told before every step how many episodes have ended, and of how many.

        Raises:
            EvaluationStopped: `stopping` said so.
        """
        film = _Film(self._env, self._config)
        episodes: list[Episode] = []
        streams: list[Stream] = []
        metrics: dict[str, float] = {}
        fault, broken = "", False
        for begin in range(0, self._config.episodes, self._env.num_envs):
            if broken:
                self._env.close()
                self._env = film.env = self._make_env()

            def step_begins(count: int, before: int = begin) -> bool:
                ended(before + count, self._config.episodes)
                return stopping()

            wave = _Wave(self._env, max(0, self._config.keep_episodes - begin), self.max_steps, film, step_begins)
            count = min(self._env.num_envs, self._config.episodes - begin)
            film.begin(begin, count)
            wave.run(policy, self.env_seeds[begin : begin + count], self._policy_seeds[begin : begin + count])
            film.end()
            episodes += wave.episodes
            streams += wave.streams
            fault, broken = fault or wave.fault, wave.broken
            for name, value in wave.metric_sums.items():
                metrics[name] = metrics.get(name, 0.0) + value
        steps = sum(episode.length for episode in episodes)
        means = {name: value / max(steps, 1) for name, value in metrics.items()}
        summary = self._summarise(episodes, policy.version, algorithm, means)
        if summary.cut:
            logger.warning(
                "%d of %d episodes of %s had no end within %d steps and were cut",
                *(summary.cut, summary.episodes, summary.env, summary.max_steps),
            )
        if summary.faults:
            logger.warning(
                "%d of %d episodes of %s failed by a fault of their simulator, those of the seeds %s; the first: %s",
                *(summary.faults, summary.episodes, summary.env, ", ".join(map(str, summary.fault_seeds)), fault),
            )
        return Evaluation(summary, episodes, film.frames, streams, film.broken)

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def _summarise(
        self, episodes: list[Episode], version: int, algorithm: str, policy: dict[str, float]
    ) -> EvalSummary:
        metrics = self._env.spec.metrics
        returns = np.array([episode.episode_return for episode in episodes])
        lengths = [episode.length for episode in episodes]
        jerks = [episode.jerk for episode in episodes if episode.jerk is not None]
        success = [episode.metrics[SUCCESS] > 0 for episode in episodes] if SUCCESS in metrics else None
        return EvalSummary(
            env=self._env.spec.name,
            algorithm=algorithm,
            episodes=len(episodes),
            seed=self._config.seed,
            success_rate=None if success is None else sum(success) / len(success),
            success_ci95=None if success is None else wilson_interval(sum(success), len(success)),
            return_mean=float(returns.mean()),
            return_ci95=bootstrap_interval(returns, self._config.seed),
            length_mean=float(np.mean(lengths)),
            steps=sum(lengths),
            policy_version=version,
            metrics={name: float(np.mean([episode.metrics[name] for episode in episodes])) for name in metrics},
            policy=policy,
            max_steps=self.max_steps,
            cut=sum(episode.cut for episode in episodes),
            faults=sum(episode.faults > 0 for episode in episodes),
            fault_seeds=tuple(seed for seed, e in zip(self.env_seeds, episodes, strict=True) if e.faults),
            jerk=None if not jerks else float(np.mean(jerks)),
        )


class _Film:
    """Frames of the first episodes; none of any once a picture could not be drawn.

    Args:
        env: Draws the pictures.
        config: Which episodes, and how often.
    """

    def __init__(self, env: VectorEnv, config: EvalConfig) -> None:
        self.env, self._episodes, self._stride = env, config.record_episodes, config.record_stride
        self._images: dict[int, list[NDArray[np.uint8]]] = {}
        self.frames: list[NDArray[np.uint8]] = []
        self.broken = ""  # why there are none

    def begin(self, first_episode: int, count: int) -> None:
        """Start a wave of `count` episodes."""
        wanted = 0 if self.broken else min(count, self._episodes - first_episode)
        self._images = {n: [] for n in range(wanted)}

    def take(self, envs: NDArray[np.int64], steps: int) -> None:
        """Draw those of the environments that are recorded, if it is their time after `steps` steps."""
        if not self._images or steps % self._stride:
            return
        for n in self._images.keys() & set(envs.tolist()):
            try:
                picture: Any = self.env.render(n)
                if not isinstance(picture, np.ndarray):
                    raise RuntimeError(f"render gives a {type(picture).__name__}")
                if self._images[n] and picture.shape != self._images[n][0].shape:
                    raise RuntimeError(f"pictures of {self._images[n][0].shape} and {picture.shape} make no film")
            except Exception as error:  # noqa: BLE001 - whatever the environment's render raises, the figures stay
                self.broken = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                self.frames, self._images = [], {}
                return
            self._images[n].append(picture)

    def end(self) -> None:
        """End a wave."""
        self.frames += [np.stack(images) for images in self._images.values() if images]


class _Wave:
    """One batch of episodes; environments that are done leave the batch the policy sees.

    Args:
        env: The environments.
        keep: Leading episodes whose steps are kept.
        max_steps: Steps after which an episode is cut.
        film: Records the first episodes.
        stopping: Asked before every step, with how many episodes have ended.
    """

    def __init__(self, env: VectorEnv, keep: int, max_steps: int, film: _Film, stopping: Callable[[int], bool]) -> None:
        self._env, self._keep, self._max_steps = env, keep, max_steps
        self._film, self._stopping = film, stopping
        self._fresh = True
        self.episodes: list[Episode] = []
        self.streams: list[Stream] = []
        self.metric_sums: dict[str, float] = {}
        self.fault = ""  # the first one, on a line
        self.broken = False  # whether the environments cannot be used any more

    def run(self, policy: Policy, env_seeds: list[int], policy_seeds: NDArray[np.uint64]) -> None:
        """Run one episode per seed; a wave may be smaller than the vector environment."""
        count, spec = len(env_seeds), self._env.spec
        spare = [env_seeds[-1]] * (self._env.num_envs - count)
        returns, metrics, jerk = np.zeros(count), EpisodeMetrics(spec.metrics, count), Jerk(spec.action, count)
        ended: dict[int, Episode] = {}
        kept: list[list[Stream]] = [[] for _ in range(min(self._keep, count))]
        active, carry, steps = np.arange(count), policy.initial(policy_seeds), 0
        view, failed = self._advance(active, lambda: self._env.reset([*env_seeds, *spare]))
        for n in active[failed].tolist():
            ended[n] = Episode(0.0, 0, policy.version, dict.fromkeys(spec.metrics, 0.0), faults=1)
        active, carry = active[~failed], take_rows(carry, ~failed)
        actions = np.zeros((self._env.num_envs, *spec.action.shape), spec.action.dtype)
        while active.size:
            assert view is not None
            if self._stopping(len(ended)):
                raise EvaluationStopped
            self._film.take(active, steps)
            output = policy.act(view, carry, False)
            for name, value in output.metrics.items():
                self.metric_sums[name] = self.metric_sums.get(name, 0.0) + float(value.sum())
            actions[active] = output.action
            jerk.add(active, output.action)
            _keep(kept, active, view, output.action)
            before, carry = view, output.carry
            view, failed = self._advance(active, lambda: self._env.step(actions))
            for row in np.flatnonzero(failed).tolist():
                n = int(active[row])
                figures = metrics.episode(n, before, row, steps)
                figures |= {SUCCESS: 0.0} if SUCCESS in figures else {}
                ended[n] = Episode(float(returns[n]), steps, policy.version, figures, faults=1)
            active, carry = active[~failed], take_rows(carry, ~failed)
            if view is None:
                break
            steps += 1
            returns[active] += view.reward
            metrics.add(view, active)
            done = view.is_last | (steps == self._max_steps)
            if done.any():
                for row in np.flatnonzero(done).tolist():
                    n = int(active[row])
                    figures = metrics.episode(n, view, row, steps)
                    ended[n] = Episode(
                        float(returns[n]),
                        steps,
                        policy.version,
                        figures,
                        cut=not view.is_last[row],
                        jerk=jerk.episode(n),
                    )
                self._film.take(active[done], 0)
                _keep(kept, active[done], view.take(done), np.zeros_like(actions[active[done]]))
                keep = ~done
                active, view, carry = active[keep], view.take(keep), take_rows(carry, keep)
        self.episodes = [ended[n] for n in range(count)]
        whole = [episode for n, episode in enumerate(kept) if not ended[n].faults]
        self.streams = [{key: np.stack([step[key] for step in episode]) for key in episode[0]} for episode in whole]

    def _advance(
        self, active: NDArray[np.int64], act: Callable[[], StepBatch]
    ) -> tuple[StepBatch | None, NDArray[np.bool_]]:
        """Reset or step the environments.

        Returns:
            The steps of those active ones that did not fail, None if none can go on, and which of them failed: their
            rows begin episodes that nobody asked for.
        """
        before = np.zeros(self._env.num_envs, np.int64) if self._fresh else np.array(self._env.remakes)
        self._fresh = False
        try:
            step = act()
        except SimulatorError as error:
            self.broken, self.fault = True, self.fault or str(error)
            return None, np.ones(len(active), np.bool_)
        failed = (np.array(self._env.remakes) != before)[active]
        for fault in self._env.take_faults():
            self.fault = self.fault or fault.describe()
        return step.take(active[~failed]), failed


def _keep(kept: list[list[Stream]], active: NDArray[np.int64], view: StepBatch, action: NDArray[Any]) -> None:
    """Append a step of every environment that is kept; row i of `view` is of environment active[i]."""
    for row, n in enumerate(active.tolist()):
        if n < len(kept):
            flags = {name: getattr(view, name)[row] for name in ("reward", "is_first", "is_last", "is_terminal")}
            observation = {key: values[row] for key, values in view.observation.items()}
            kept[n].append({**observation, **flags, "action": action[row], "episode": np.int64(0)})
