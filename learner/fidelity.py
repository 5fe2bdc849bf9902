"""How far a one-step model can be trusted open loop.

From a real state s_t the model is rolled with the recorded actions alone. With the test-set standard deviation
sigma_d of state dimension d,

    NRMSE_k = sqrt( mean_d mean_i (s'_{i,k,d} - s_{i,k,d})^2 / sigma_d^2 )

where i runs over start states and k over steps; 1 is "predict the mean". H10 is the longest horizon up to which
NRMSE stays at or below 0.10. Intervals resample whole episodes.

Letters: N start states, H horizon, D state dimensions, A action size, K members, P particles, E episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.dataset import Stream
from learner.losses.likelihood import gaussian_nll, student_nll
from learner.models.ensemble import Ensemble

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """Start states with what really followed."""

    state: NDArray[np.float32]  # [N, D]
    velocity: NDArray[np.float32]  # [N, D] change of the state over the step before the start
    actions: NDArray[np.float32]  # [N, H, A]
    states: NDArray[np.float32]  # [N, H, D] states 1..H steps later
    rewards: NDArray[np.float32]  # [N, H]
    episode: NDArray[np.int64]  # [N] 0..E - 1
    std: Array  # [D] standard deviation of the state over all steps of the test set

    @property
    def horizon(self) -> int:
        return int(self.actions.shape[1])

    def take(self, index: NDArray[np.int64]) -> Windows:
        """The windows of these indices."""
        columns = (self.state, self.velocity, self.actions, self.states, self.rewards)
        state, velocity, actions, states, rewards = (column[index] for column in columns)
        return Windows(state, velocity, actions, states, rewards, self.episode[index], self.std)


@dataclass(frozen=True)
class Rollout:
    """What a model said would follow."""

    mean: Array  # [N, H, D]
    reward: Array  # [N, H]
    nll: Array | None  # [N, H] nats per state dimension, see `rollout`
    std: Array | None = None  # [N, H, D] its standard deviation, with the noise of the last step
    samples: Array | None = None  # [N, H, P, D] the particles of all members, with that noise


@dataclass(frozen=True)
class HorizonError:
    """Open-loop error against the horizon; index k - 1 is k steps."""

    nrmse: Array  # [H]
    upper: Array  # [H] upper end of the 95 % bootstrap interval over episodes
    lower: Array  # [H] lower end
    dimensions: Array  # [H, D] per state dimension
    worst_upper: Array  # [H] upper end of the interval of the worst dimension
    p90: Array  # [H] 90th percentile over start states of the single start's normalised error
    reward: Array  # [H] error of the summed reward over k steps over the standard deviation of that sum

    @property
    def worst(self) -> Array:
        """[H] error of the worst dimension."""
        return np.asarray(self.dimensions.max(1))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the horizons up to which the NRMSE and its upper end stay below 0.10."""
        record: dict[str, Any] = {name: value.tolist() for name, value in vars(self).items()}
        reliable = {"h10": reliable_horizon(self.nrmse), "h10_upper": reliable_horizon(self.upper)}
        return {**record, "worst": self.worst.tolist(), **reliable}


def cut_windows(
    streams: Sequence[Stream], observation_key: str, horizon: int, stride: int, most: int | None = None
) -> Windows:
    """Windows of H steps inside single episodes, starting every `stride` steps, from the second step of an episode on.

    Args:
        streams: Recorded steps.
        observation_key: What the model is of.
        horizon: H.
        stride: Steps between two starts.
        most: More starts are thinned out evenly to so many.

    Raises:
        ValueError: If no episode is long enough.
    """
    parts: list[tuple[NDArray[np.float32], ...]] = []
    episode_of: list[NDArray[np.int64]] = []
    every: list[NDArray[np.float32]] = []
    count = 0
    for stream in streams:
        state = stream[observation_key].reshape(len(stream["reward"]), -1).astype(np.float32)
        every.append(state)
        bounds = np.append(np.flatnonzero(stream["is_first"]), len(state))
        for begin, end in itertools.pairwise(bounds.tolist()):
            starts = np.arange(begin + 1, end - horizon, stride)
            if not len(starts):
                continue
            ahead = starts[:, None] + np.arange(horizon)
            velocity = state[starts] - state[starts - 1]
            parts.append(
                (state[starts], velocity, stream["action"][ahead], state[ahead + 1], stream["reward"][ahead + 1])
            )
            episode_of.append(np.full(len(starts), count, np.int64))
            count += 1
    if not parts:
        raise ValueError(f"no episode has the {horizon + 2} steps that a horizon of {horizon} needs")
    state, velocity, actions, states, rewards = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    std = np.concatenate(every).astype(np.float64).std(0)
    windows = Windows(state, velocity, actions, states, rewards, np.concatenate(episode_of), std)
    if most is None or len(state) <= most:
        return windows
    return windows.take(np.linspace(0, len(state) - 1, most).round().astype(np.int64))


def persistence(windows: Windows) -> Rollout:
    """The baseline that nothing changes and nothing is earned."""
    return constant_velocity(windows, rate=0.0)


def constant_velocity(windows: Windows, rate: float = 1.0) -> Rollout:
    """The baseline that the last change repeats; the reward is taken as 0."""
    steps = np.arange(1, windows.horizon + 1)[None, :, None] * rate
    mean = windows.state[:, None].astype(np.float64) + steps * windows.velocity[:, None]
    return Rollout(mean, np.zeros(mean.shape[:2]), None)


@torch.no_grad()
def rollout(
    model: Ensemble, windows: Windows, particles: int = 1, seed: int = 0, average: bool = False, chunk: int = 512
) -> Rollout:
    """Roll the model open loop from every start.

    Args:
        model: One-step model.
        windows: Start states and actions.
        particles: P particles per member; they draw the aleatoric noise of Gaussian members when P > 1.
        seed: Seed of that noise.
        average: False is TS-infinity: every particle stays with its member, and the prediction is the mean over all
            particles. True is the mean model: one state, moved by the mean of the members.
        chunk: Start states rolled together.

    Returns:
        Means and, if the model has any spread, its samples and likelihoods: of a Gaussian with the moments of the
        particles; of members that predict a Student t, of the mixture of what they predict for the last step.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = not average and (model.config.members > 1 or model.config.gaussian)
    results = []
    for begin in range(0, len(windows.state), chunk):
        rows = slice(begin, begin + chunk)
        start, actions = torch.from_numpy(windows.state[rows]), torch.from_numpy(windows.actions[rows])
        future = torch.from_numpy(windows.states[rows])
        results.append(_roll(model, start, actions, future, particles, average, generator))
    mean, reward, std, samples, nll = (torch.cat(columns).double().numpy() for columns in zip(*results, strict=True))
    return Rollout(mean, reward, nll, std, samples) if spread else Rollout(mean, reward, None)


def _roll(
    model: Ensemble,
    start: Tensor,
    actions: Tensor,
    future: Tensor,
    particles: int,
    average: bool,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Means [N, H, D], rewards [N, H], deviations [N, H, D], samples [N, H, K P, D], likelihoods [N, H] of a chunk."""
    size, horizon = actions.shape[:2]
    members = model.config.members
    latent = model.observe(start).repeat(members, particles, 1)  # [K, P N, L]
    columns: list[tuple[Tensor, ...]] = []
    shape = (members, particles, size, -1)
    for k in range(horizon):
        action = actions[:, k].repeat(members, particles, 1)
        out = model.predict(latent, action)
        drawn = centre = out.mean
        if average:
            drawn = centre = centre.mean(0, keepdim=True).expand_as(centre)
        elif out.logvar is not None:
            drawn = centre + torch.exp(0.5 * out.logvar) * unit_noise(centre.shape, out.degrees, generator)
        mean, reward, std = _moments(model, latent, centre, drawn, out.logvar, shape)
        samples = model.decode(latent + drawn[..., :-1]).view(*shape).flatten(0, 1).transpose(0, 1)
        if out.degrees is None or model.is_coded:
            nll = gaussian_nll(mean, 2.0 * std.clamp(min=1e-6).log(), future[:, k])
        else:
            assert out.logvar is not None
            truth = future[:, k].repeat(members, particles, 1)
            each = student_nll((latent + centre[..., :-1]), out.logvar[..., :-1], truth, out.degrees).view(*shape)
            nll = -torch.logsumexp(-each.flatten(0, 1), 0) + np.log(members * particles)
        columns.append((mean, reward, std, samples, nll.mean(-1)))
        latent = latent + (drawn if particles > 1 else centre)[..., :-1]
    return tuple(torch.stack(column, dim=1) for column in zip(*columns, strict=True))


def unit_noise(shape: torch.Size, degrees: float | None, generator: torch.Generator) -> Tensor:
    """Noise of mean 0 and variance 1 from a normal, or from a Student t of so many degrees of freedom."""
    if degrees is None:
        return torch.randn(shape, generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    noise = np.random.default_rng(seed).standard_t(degrees, tuple(shape)) * np.sqrt((degrees - 2.0) / degrees)
    return torch.from_numpy(noise).float()


def _moments(
    model: Ensemble, latent: Tensor, centre: Tensor, drawn: Tensor, logvar: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over particles of the next state [N, D] and the reward [N], and the deviation [N, D] of the state.

    The noise of the last step counts by its variance where the latent is the state, and by what was drawn elsewhere.
    """
    location = model.decode(latent + centre[..., :-1]).view(*shape)  # [K, P, N, D]
    mean = location.mean((0, 1))
    reward = centre[..., -1].reshape(shape[:-1]).mean((0, 1))
    if logvar is None or model.is_coded:
        around = model.decode(latent + drawn[..., :-1]).view(*shape) if logvar is not None else location
        return mean, reward, (around - mean).square().mean((0, 1)).sqrt()
    variance = location.var((0, 1), correction=0) + torch.exp(logvar[..., :-1]).view(*shape).mean((0, 1))
    return mean, reward, variance.sqrt()


def horizon_error(windows: Windows, prediction: Rollout, resamples: int = 1000, seed: int = 0) -> HorizonError:
    """NRMSE of a prediction at every horizon with bootstrap intervals over episodes."""
    squares = ((prediction.mean - windows.states) / windows.std) ** 2
    return summarise(squares, windows.episode, prediction.reward, windows.rewards, resamples, seed)


def summarise(
    squares: Array,
    episode: NDArray[np.int64],
    reward: NDArray[np.floating],
    true_reward: NDArray[np.floating],
    resamples: int = 1000,
    seed: int = 0,
) -> HorizonError:
    """Errors at every horizon with bootstrap intervals over episodes.

    Args:
        squares: [N, H, D] squared errors over the variance of the test set.
        episode: [N] of each start, any number an episode has to itself.
        reward: [N, H] predicted.
        true_reward: [N, H].
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.
    """
    dimensions = np.sqrt(squares.mean(0))
    episode = np.unique(episode, return_inverse=True)[1]
    episodes = int(episode.max()) + 1
    counts = np.bincount(episode, minlength=episodes).astype(np.float64)
    sums = np.zeros((episodes, *squares.shape[1:]))
    np.add.at(sums, episode, squares)
    draws = np.random.default_rng(seed).multinomial(episodes, np.full(episodes, 1.0 / episodes), resamples)
    resampled = np.einsum("re,ehd->rhd", draws, sums) / (draws @ counts)[:, None, None]
    overall = np.sqrt(resampled.mean(2))
    rewards = np.cumsum(reward, 1, dtype=np.float64) - np.cumsum(true_reward, 1, dtype=np.float64)
    spread = np.cumsum(true_reward, 1, dtype=np.float64).std(0)
    return HorizonError(
        nrmse=np.sqrt(squares.mean((0, 2))),
        upper=np.quantile(overall, 0.975, axis=0),
        lower=np.quantile(overall, 0.025, axis=0),
        dimensions=dimensions,
        worst_upper=np.quantile(np.sqrt(resampled).max(2), 0.975, axis=0),
        p90=np.quantile(np.sqrt(squares.mean(2)), 0.9, axis=0),
        reward=np.sqrt((rewards**2).mean(0)) / np.maximum(spread, 1e-12),
    )


def reliable_horizon(error: Array, threshold: float = 0.10) -> int:
    """The largest k such that error_j <= threshold for all j <= k; 0 if not even one step is."""
    above = np.flatnonzero(error > threshold)
    return len(error) if not len(above) else int(above[0])


def skill(error: Array, baseline: Array) -> Array:
    """1 - error / baseline: 1 is perfect, 0 no better than the baseline."""
    return np.asarray(1.0 - error / np.maximum(baseline, 1e-12))
