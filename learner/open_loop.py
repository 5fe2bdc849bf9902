"""Open-loop error of a latent world model, against what was recorded and against what needs no model.

Every prediction is compared with the true observation k steps after a start. Squared errors are divided by the
variance of the test set, so that the definitions of `learner.fidelity` hold: an NRMSE of 1 is predicting the mean.
An image counts as one dimension: its mean squared error over the mean variance of its pixels.

Letters: N start states, H horizon, D dimensions of an observation that vary, P samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.fidelity import Array, HorizonError, summarise
from learner.imagination import (
    Arrays,
    Belief,
    Starts,
    decode,
    encode_actions,
    imagine,
    observed,
    rewards,
)
from learner.models.world_model import WorldModel

PREDICTORS = ("persistence", "reconstruction", "sample", "mean")
"""The last observation again; the posterior given every observation; one imagined future; the mean of P of them."""
CHUNK = 16
"""Start states looked ahead from together."""
CONSTANT = 1e-12
"""Variance up to which a dimension counts as constant and is left out."""


@dataclass(frozen=True)
class OpenLoopErrors:
    """Squared errors over the variance of the test set."""

    squares: dict[str, dict[str, Array]]  # observation key -> predictor -> [N, H, D]
    variance: dict[str, float]  # observation key -> mean variance; times squares: a squared error in units of the key
    reward: dict[str, Array]  # predictor -> [N, H] predicted
    true_reward: Array  # [N, H]
    episode: NDArray[np.int64]  # [N]

    def summary(self, key: str, predictor: str) -> HorizonError:
        """The errors of one predictor at every horizon, with intervals over episodes."""
        return summarise(self.squares[key][predictor], self.episode, self.reward[predictor], self.true_reward)

    def psnr(self, key: str, predictor: str) -> Array:
        """[H] peak signal-to-noise ratio of an image in decibels; its values are in [0, 1]."""
        mse = self.squares[key][predictor].mean((0, 2)) * self.variance[key]
        return np.asarray(-10.0 * np.log10(np.maximum(mse, 1e-12)))


def open_loop_errors(
    model: WorldModel, belief: Belief, starts: Starts, horizon: int, samples: int = 1, seed: int = 0
) -> OpenLoopErrors:
    """Look ahead from every start.

    Args:
        model: The model.
        belief: Its posterior along the recorded sequences.
        starts: Where to start from, each with `horizon` steps ahead.
        horizon: H.
        samples: P imagined futures; their mean is a prediction too.
        seed: Seed of what is imagined.
    """
    variances = _variances(model, belief)
    squares: dict[str, dict[str, list[Array]]] = {key: {name: [] for name in PREDICTORS} for key in variances}
    earned: dict[str, list[Array]] = {name: [] for name in PREDICTORS}
    truths = []
    for part in _chunks(starts):
        ahead = part.step[:, None] + np.arange(1, horizon + 1)
        truth = observed(model, {key: values[part.row[:, None], ahead] for key, values in belief.data.items()})
        predictions, reward = _predict(model, belief, part, ahead, samples, seed)
        for key, variance in variances.items():
            for name, prediction in predictions.items():
                squares[key][name].append(_squares(prediction[key], truth[key], variance))
        for name, values in reward.items():
            earned[name].append(values.astype(np.float64))
        truths.append(belief.data["reward"][part.row[:, None], ahead].astype(np.float64))
        seed += samples
    return OpenLoopErrors(
        {key: {name: np.concatenate(parts) for name, parts in named.items()} for key, named in squares.items()},
        {key: float(variance.mean()) for key, variance in variances.items()},
        {name: np.concatenate(parts) for name, parts in earned.items()},
        np.concatenate(truths),
        starts.episode,
    )


def _predict(
    model: WorldModel, belief: Belief, starts: Starts, ahead: NDArray[np.int64], samples: int, seed: int
) -> tuple[dict[str, Arrays], dict[str, NDArray[np.float32]]]:
    """Observations and rewards [N, H, ...] of every predictor."""
    now = observed(model, {key: values[starts.row, starts.step][:, None] for key, values in belief.data.items()})
    filtered = belief.at(starts.row, ahead)
    action = encode_actions(model, belief.data["action"][starts.row[:, None], ahead - 1])
    futures = [imagine(model, belief.at(starts.row, starts.step), action, seed + k) for k in range(samples)]
    first, first_reward = decode(model, futures[0]), rewards(model, futures[0])
    mean: Arrays = {key: values / np.float32(samples) for key, values in first.items()}
    mean_reward: NDArray[np.float32] = first_reward / np.float32(samples)
    for future in futures[1:]:
        for key, values in decode(model, future).items():
            mean[key] += values / np.float32(samples)
        mean_reward += rewards(model, future) / np.float32(samples)
    observations = dict(zip(PREDICTORS, (now, decode(model, filtered), first, mean), strict=True))
    nothing = np.zeros_like(first_reward)
    earned = dict(zip(PREDICTORS, (nothing, rewards(model, filtered), first_reward, mean_reward), strict=True))
    return observations, earned


def _squares(prediction: NDArray[np.float32], truth: NDArray[np.float32], variance: Array) -> Array:
    """[N, H, D] of one chunk; D = 1 for images."""
    error = (prediction - truth).astype(np.float64) ** 2
    if error.ndim > 3:
        return np.asarray(error.reshape(*error.shape[:2], -1).mean(2, keepdims=True) / variance.mean())
    varies = variance > CONSTANT
    return np.asarray(error[..., varies] / variance[varies])


def _variances(model: WorldModel, belief: Belief) -> dict[str, Array]:
    """Variance over the recorded steps of every observation that varies: of each dimension, or of each pixel."""
    real = belief.real
    sums: dict[str, tuple[Array, Array]] = {}
    for row in range(len(real)):
        kept = {key: values[row, real[row]][None] for key, values in belief.data.items()}
        for key, values in observed(model, kept).items():
            wide = values[0].astype(np.float64)
            one, two = sums.get(key, (np.zeros(()), np.zeros(())))
            sums[key] = one + wide.sum(0), two + np.square(wide).sum(0)
    count = int(real.sum())
    variances = {key: np.maximum(two / count - np.square(one / count), 0.0) for key, (one, two) in sums.items()}
    return {key: variance for key, variance in variances.items() if variance.max() > CONSTANT}


def _chunks(starts: Starts) -> Iterator[Starts]:
    for begin in range(0, len(starts), CHUNK):
        yield starts.take(slice(begin, begin + CHUNK))
