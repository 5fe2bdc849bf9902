"""Reconstructions, open-loop predictions and latent statistics of a world model on recorded sequences.

`filter_posterior` gives the model's belief at every step. From there the model reconstructs the observations, or
predicts the next ones from the recorded actions alone (open loop); both are compared with what was recorded.

Letters: B sequences, T steps, N start states, K open-loop steps, G latent groups, C classes, S stochastic features,
D features of an observation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import SequenceBatch
from learner.dataset import Stream
from learner.models.rssm import LATENT_KEYS, CategoricalLatent, GaussianLatent, Latent, State
from learner.models.world_model import WorldModel

ENCODE_STEPS = 32
"""Steps whose observations are encoded together."""
DECODE_ROWS = 256
"""States that are decoded together."""
PADDING = -1
"""Episode of the steps that `pad` adds."""
ACTIVE_VARIANCE = 0.01
"""Variance over states of a Gaussian's mean from which on it counts as active (Burda et al. 2016, section 5.1.2)."""

Arrays = dict[str, NDArray[np.float32]]
"""Observation key -> values as the model decodes them: images in [0, 1], ids one-hot, vectors flat."""


@dataclass(frozen=True)
class Belief:
    """The model's states along recorded sequences."""

    data: dict[str, NDArray[Any]]  # the recorded steps, [B, T, ...]
    states: State  # posterior sample [B, T, ...] after each observation
    posterior: Latent  # of [B, T]
    prior: Latent  # of [B, T], before the observation

    @property
    def real(self) -> NDArray[np.bool_]:
        """[B, T] whether a step was recorded, not padded."""
        return np.asarray(self.data["episode"] != PADDING)

    def at(self, row: NDArray[np.int64], step: NDArray[np.int64]) -> State:
        """The states at some steps, with leading axes like those of `step`; a row for each of its first axis."""
        rows = np.broadcast_to(row.reshape(-1, *[1] * (step.ndim - 1)), step.shape)
        return self.states.map(lambda part: part[torch.tensor(rows), torch.tensor(step)])


@dataclass(frozen=True)
class Starts:
    """Steps from which to look ahead without crossing the end of an episode."""

    row: NDArray[np.int64]  # [N]
    step: NDArray[np.int64]  # [N]
    episode: NDArray[np.int64]  # [N] 0.. in order, to resample whole episodes

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: NDArray[np.int64] | slice) -> Starts:
        """Some of them."""
        return Starts(self.row[index], self.step[index], self.episode[index])


@dataclass(frozen=True)
class OpenLoop:
    """Windows of context and open-loop steps: `seen` steps were observed, those after them imagined."""

    seen: int
    truth: Arrays  # [N, seen + K, ...]
    reconstruction: Arrays  # [N, seen + K, ...] by the posterior, given every observation
    imagined: Arrays  # [N, seen + K, ...] the same in the context, then open loop
    reward: NDArray[np.float32]  # [N, seen + K]
    imagined_reward: NDArray[np.float32]  # [N, seen + K]


@dataclass(frozen=True)
class CategoricalUsage:
    """How categorical latents are used; in nats where not stated."""

    kl: NDArray[np.float64]  # [G] posterior from prior, mean over steps
    entropy: NDArray[np.float64]  # [G] of the marginal posterior, at most ln C
    information: NDArray[np.float64]  # [G] that entropy less the mean entropy of the posteriors
    used: NDArray[np.int64]  # [G] classes with at least a tenth of a uniform share of the marginal
    classes: int  # C

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """[G] effective number of classes, 1 to C."""
        return np.asarray(np.exp(self.entropy))


@dataclass(frozen=True)
class GaussianUsage:
    """How Gaussian latents are used; G = S."""

    kl: NDArray[np.float64]  # [S] in nats, mean over steps
    spread: NDArray[np.float64]  # [S] standard deviation over states of the posterior's mean
    std: NDArray[np.float64]  # [S] mean standard deviation of the posteriors

    @property
    def active(self) -> NDArray[np.bool_]:
        """[S] whether the mean depends on the observations."""
        return np.asarray(self.spread**2 > ACTIVE_VARIANCE)


def pad(streams: Sequence[Stream]) -> SequenceBatch:
    """Streams of different lengths as one batch; what is added belongs to episode PADDING.

    Raises:
        ValueError: There is no stream.
    """
    if not streams:
        raise ValueError("there is nothing to filter: no stream was recorded")
    length = max(len(stream["reward"]) for stream in streams)
    data: dict[str, list[NDArray[Any]]] = {key: [] for key in streams[0]}
    for stream in streams:
        added = length - len(stream["reward"])
        for key, values in stream.items():
            tail = np.repeat(values[-1:], added, 0)
            if key == "is_first":
                tail = np.ones_like(tail)
            elif key == "episode":
                tail = np.full_like(tail, PADDING)
            data[key].append(np.concatenate([values, tail]))
    size = len(streams)
    return SequenceBatch(
        {key: np.stack(values) for key, values in data.items()},
        np.arange(size, dtype=np.uint64),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.ones(size, np.float32),
        np.zeros((size, 3), np.int64),
    )


@torch.no_grad()
def filter_posterior(model: WorldModel, batch: SequenceBatch, context: int = 0, seed: int = 0) -> Belief:
    """The posterior along sequences.

    Args:
        model: The model.
        batch: Sequences of `context` + T steps.
        context: Leading steps of which only the stored latents are used, 0 to start from an empty state.
        seed: Seed of the posterior's samples.
    """
    device, dtype = _place(model)
    data = batch.data
    action = model.action.encode(torch.from_numpy(data["action"]).to(device), dtype)
    before = F.pad(action, (0, 0, 1, 0))[:, context:-1]
    state = model.rssm.initial(len(action))
    if context:
        stored = {key: torch.from_numpy(data[key][:, context - 1]).to(device) for key in LATENT_KEYS}
        state = model.rssm.unpack(stored, dtype)
    kept = {key: values[:, context:] for key, values in data.items()}
    noise = _noise(model, before.shape[:2], seed)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin in range(0, before.shape[1], ENCODE_STEPS):
        steps = slice(begin, begin + ENCODE_STEPS)
        observation = {key: _tensor(kept[key][:, steps], device) for key in _keys(model)}
        is_first = _tensor(kept["is_first"][:, steps], device)
        states, statistics = model.filter_posterior(observation, before[:, steps], is_first, state, noise[:, steps])
        parts.append((*states, statistics))
        state = states.map(lambda part: part[:, -1])
    deters, stochs, posterior = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    rssm = model.rssm
    return Belief(kept, State(deters, stochs), rssm.latent(posterior), rssm.latent(rssm.prior(deters)))


@torch.no_grad()
def imagine(model: WorldModel, start: State, action: Tensor, seed: int = 0) -> State:
    """States [N, K, ...] after `start` [N, ...] by the prior and the actions [N, K, A] alone."""
    noise = _noise(model, action.shape[:2], seed)
    state, states = start, []
    for taken, eps in zip(action.unbind(1), noise.unbind(1), strict=True):
        state = model.rssm.step(state, taken, eps)
        states.append(state)
    return State(*(torch.stack(part, 1) for part in zip(*states, strict=True)))


@torch.no_grad()
def decode(model: WorldModel, states: State) -> Arrays:
    """Decoded observations of states [N, T, ...]: every key [N, T, ...]."""
    rows, steps = states.deter.shape[:2]
    flat = states.map(lambda part: part.flatten(0, 1))
    parts: dict[str, list[Tensor]] = {}
    for begin in range(0, len(flat.deter), DECODE_ROWS):
        part = State(*(values[begin : begin + DECODE_ROWS] for values in flat))
        for key, head in model.decoder(part).items():
            mean = head.mean.clamp(0.0, 1.0) if key in model.keys.images else head.mean
            parts.setdefault(key, []).append(mean.float().cpu())
    return {key: _unflat(torch.cat(values), (rows, steps)).numpy() for key, values in parts.items()}


def observed(model: WorldModel, data: Mapping[str, NDArray[Any]]) -> Arrays:
    """Recorded observations [N, T, ...] in the units of `decode`."""
    images = {key: data[key].astype(np.float32) / np.float32(255.0) for key in model.keys.images}
    vectors = {}
    for key, spec in model.keys.vectors.items():
        values = data[key]
        if spec.num_values is not None:
            values = np.eye(spec.num_values, dtype=np.float32)[values.astype(np.int64)]
        vectors[key] = values.reshape(*data["reward"].shape, -1).astype(np.float32)
    return images | vectors


def find_starts(data: Mapping[str, NDArray[Any]], seen: int, horizon: int, stride: int = 1) -> Starts:
    """Every `stride`-th step with `seen` steps of its episode up to and including it, and `horizon` steps after it.

    Raises:
        ValueError: No episode is long enough.
    """
    columns: list[tuple[NDArray[np.int64], ...]] = []
    for row, begin, end in _episodes(data):
        steps = np.arange(begin + seen - 1, end - horizon, stride)
        if len(steps):
            columns.append((np.full(len(steps), row), steps, np.full(len(steps), len(columns))))
    if not columns:
        raise ValueError(f"no episode has {seen + horizon} steps")
    return Starts(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def episode_lengths(data: Mapping[str, NDArray[Any]]) -> list[int]:
    """Recorded steps of every episode, or of the part of one that a sequence holds."""
    return [end - begin for _, begin, end in _episodes(data)]


def _episodes(data: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, int, int]]:
    """(row, first step, step after the last) of every recorded episode."""
    for row, (is_first, episode) in enumerate(zip(data["is_first"], data["episode"], strict=True)):
        bounds = np.union1d(np.flatnonzero(is_first), [0, len(is_first)])
        for begin, end in itertools.pairwise(bounds.tolist()):
            if episode[begin] != PADDING:
                yield row, begin, end


def open_loop(model: WorldModel, belief: Belief, starts: Starts, seen: int, horizon: int, seed: int = 0) -> OpenLoop:
    """Look ahead from the belief at `starts`, with `seen` steps up to them for comparison."""
    windows = starts.step[:, None] + np.arange(1 - seen, horizon + 1)
    window = {key: values[starts.row[:, None], windows] for key, values in belief.data.items()}
    filtered = belief.at(starts.row, windows)
    action = encode_actions(model, window["action"][:, seen - 1 : -1])
    ahead = imagine(model, filtered.map(lambda part: part[:, seen - 1]), action, seed)
    imagined = State(*(torch.cat([past[:, :seen], future], 1) for past, future in zip(filtered, ahead, strict=True)))
    return OpenLoop(
        seen,
        observed(model, window),
        decode(model, filtered),
        decode(model, imagined),
        window["reward"].astype(np.float32),
        rewards(model, imagined),
    )


def encode_actions(model: WorldModel, action: NDArray[Any]) -> Tensor:
    """Recorded actions [N, K, ...] as the model takes them."""
    device, dtype = _place(model)
    return model.action.encode(_tensor(action, device), dtype)


@torch.no_grad()
def rewards(model: WorldModel, states: State) -> NDArray[np.float32]:
    """Expected reward on arriving at each state."""
    array: NDArray[np.float32] = model.reward(states.features).mean.float().cpu().numpy()
    return array


def usage(belief: Belief) -> CategoricalUsage | GaussianUsage:
    """How the latent groups are used over all recorded steps."""
    mask = torch.from_numpy(belief.real)
    posterior, prior = belief.posterior, belief.prior
    if isinstance(posterior, CategoricalLatent):
        assert isinstance(prior, CategoricalLatent)
        return _categorical_usage(posterior, prior, mask)
    assert isinstance(posterior, GaussianLatent)
    assert isinstance(prior, GaussianLatent)
    kl = _each(posterior).kl(_each(prior))
    mean = posterior.mean.cpu()[mask].double()
    return GaussianUsage(_mean(kl, mask), mean.std(0, correction=0).numpy(), _mean(posterior.std, mask))


def _categorical_usage(posterior: CategoricalLatent, prior: CategoricalLatent, mask: Tensor) -> CategoricalUsage:
    marginal = posterior.probs.cpu()[mask].double().mean(0)  # [G, C]
    entropy = -torch.xlogy(marginal, marginal).sum(-1).numpy()
    classes = marginal.shape[-1]
    return CategoricalUsage(
        kl=_mean((posterior.probs * (posterior.log_probs - prior.log_probs)).sum(-1), mask),
        entropy=entropy,
        information=entropy - _mean(-(posterior.probs * posterior.log_probs).sum(-1), mask),
        used=(marginal >= 0.1 / classes).sum(-1).numpy(),
        classes=classes,
    )


def _each(latent: GaussianLatent) -> GaussianLatent:
    """Every normal as a latent of its own."""
    return GaussianLatent(latent.mean.unsqueeze(-1), latent.std.unsqueeze(-1))


def _mean(values: Tensor, mask: Tensor) -> NDArray[np.float64]:
    """Mean over the masked steps of values [B, T, ...]."""
    array: NDArray[np.float64] = values.cpu()[mask].double().mean(0).numpy()
    return array


def _noise(model: WorldModel, shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise [*shape, G] for the latents' `sample`, the same on every device."""
    config = model.rssm.config
    draw: Callable[..., Tensor] = torch.rand if config.latent == "categorical" else torch.randn
    device, dtype = _place(model)
    generator = torch.Generator().manual_seed(seed)
    return draw(*shape, config.groups, generator=generator, dtype=dtype).to(device)


def _unflat(values: Tensor, shape: tuple[int, int]) -> Tensor:
    return values.view(*shape, *values.shape[1:])


def _place(model: WorldModel) -> tuple[torch.device, torch.dtype]:
    weight = model.rssm.prior_out.weight
    return weight.device, weight.dtype


def _keys(model: WorldModel) -> tuple[str, ...]:
    return (*model.keys.images, *model.keys.vectors)


def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
