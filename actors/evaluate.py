"""Evaluation on fixed held-out seeds.

Episode e always gets environment seed and policy seed e, and no row depends on what it is batched with,
so the results are the same for any number of environments per wave.

Letters: N environments of a wave, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.carry import take_rows
from actors.episode_metrics import SUCCESS, EpisodeMetrics
from actors.records import Episode, Policy
from envs.numbers import NonNegativeInt, PositiveInt, check_fields
from envs.specs import StepBatch, VectorEnv
from learner.dataset import Stream

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
_RESAMPLES = 2000


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation runs.

    Args:
        episodes: Number of episodes.
        num_envs: Environments stepped together in one wave.
        seed: Root of the episodes' seeds; keep it apart from the training seeds.
        max_steps: Steps after which an episode is cut, None to wait for its end.
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
        self._env = make_env(min(config.num_envs, config.episodes))
        states = np.random.SeedSequence(config.seed).generate_state(2 * config.episodes, np.uint64).astype(np.uint64)
        self.env_seeds = [int(s >> np.uint64(33)) for s in states[0::2]]
        self._policy_seeds = states[1::2]

    def evaluate(self, policy: Policy, algorithm: str = "") -> Evaluation:
        """Run all episodes and sum them up; `algorithm` is copied into the summary."""
        episodes: list[Episode] = []
        frames: list[NDArray[np.uint8]] = []
        streams: list[Stream] = []
        metrics: dict[str, float] = {}
        for begin in range(0, self._config.episodes, self._env.num_envs):
            wave = _Wave(self._env, self._config, begin)
            count = min(self._env.num_envs, self._config.episodes - begin)
            wave.run(policy, self.env_seeds[begin : begin + count], self._policy_seeds[begin : begin + count])
            episodes += wave.episodes
            frames += wave.frames
            streams += wave.streams
            for name, value in wave.metric_sums.items():
                metrics[name] = metrics.get(name, 0.0) + value
        steps = sum(episode.length for episode in episodes)
        means = {name: value / max(steps, 1) for name, value in metrics.items()}
        return Evaluation(self._summarise(episodes, policy.version, algorithm, means), episodes, frames, streams)

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def _summarise(
        self, episodes: list[Episode], version: int, algorithm: str, policy: dict[str, float]
    ) -> EvalSummary:
        metrics = self._env.spec.metrics
        returns = np.array([episode.episode_return for episode in episodes])
        lengths = [episode.length for episode in episodes]
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
        )


class _Wave:
    """One batch of episodes; environments that are done leave the batch the policy sees."""

    def __init__(self, env: VectorEnv, config: EvalConfig, first_episode: int) -> None:
        self._env = env
        self._config = config
        self._recorded = range(max(0, min(env.num_envs, config.record_episodes - first_episode)))
        self._kept = max(0, config.keep_episodes - first_episode)
        self.episodes: list[Episode] = []
        self.frames: list[NDArray[np.uint8]] = []
        self.streams: list[Stream] = []
        self.metric_sums: dict[str, float] = {}

    def run(self, policy: Policy, env_seeds: list[int], policy_seeds: NDArray[np.uint64]) -> None:
        """Run one episode per seed; a wave may be smaller than the vector environment."""
        count, spec = len(env_seeds), self._env.spec
        spare = [env_seeds[-1]] * (self._env.num_envs - count)
        active = np.arange(count)
        view = self._env.reset([*env_seeds, *spare]).take(active)
        carry = policy.initial(policy_seeds)
        actions = np.zeros((self._env.num_envs, *spec.action.shape), spec.action.dtype)
        returns, metrics = np.zeros(count), EpisodeMetrics(spec.metrics, count)
        ended: dict[int, Episode] = {}
        images: dict[int, list[NDArray[np.uint8]]] = {n: [] for n in self._recorded if n < count}
        kept: list[list[Stream]] = [[] for _ in range(min(self._kept, count))]
        steps = 0
        while active.size:
            self._record(images, active, steps)
            output = policy.act(view, carry, False)
            for name, value in output.metrics.items():
                self.metric_sums[name] = self.metric_sums.get(name, 0.0) + float(value.sum())
            actions[active] = output.action
            _keep(kept, active, view, output.action)
            view = self._env.step(actions).take(active)
            carry = output.carry
            steps += 1
            returns[active] += view.reward
            metrics.add(view, active)
            done = view.is_last | (steps == self._config.max_steps)
            if done.any():
                for row in np.flatnonzero(done).tolist():
                    n = int(active[row])
                    figures = metrics.episode(n, view, row, steps)
                    ended[n] = Episode(float(returns[n]), steps, policy.version, figures)
                self._record(images, active[done], 0)
                _keep(kept, active[done], view.take(done), np.zeros_like(output.action[done]))
                keep = ~done
                active, view, carry = active[keep], view.take(keep), take_rows(carry, keep)
        self.episodes = [ended[n] for n in range(count)]
        self.frames = [np.stack(images[n]) for n in images]
        self.streams = [{key: np.stack([step[key] for step in episode]) for key in episode[0]} for episode in kept]

    def _record(self, images: dict[int, list[NDArray[np.uint8]]], active: NDArray[np.int64], steps: int) -> None:
        if images and steps % self._config.record_stride == 0:
            for n in images.keys() & set(active.tolist()):
                images[n].append(self._env.render(n))


def _keep(kept: list[list[Stream]], active: NDArray[np.int64], view: StepBatch, action: NDArray[Any]) -> None:
    """Append a step of every environment that is kept; row i of `view` is of environment active[i]."""
    for row, n in enumerate(active.tolist()):
        if n < len(kept):
            flags = {name: getattr(view, name)[row] for name in ("reward", "is_first", "is_last", "is_terminal")}
            observation = {key: values[row] for key, values in view.observation.items()}
            kept[n].append({**observation, **flags, "action": action[row], "episode": np.int64(0)})
