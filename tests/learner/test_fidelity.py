"""Open-loop errors against literal arrays and against a model that is exact."""

import numpy as np
import pytest
import torch

from learner.dataset import Stream
from learner.fidelity import (
    Rollout,
    Windows,
    constant_velocity,
    cut_windows,
    horizon_error,
    persistence,
    reliable_horizon,
    rollout,
    skill,
)
from learner.models.ensemble import Ensemble
from learner.models.ensemble_config import EnsembleConfig
from tests.learner.streams import make_stream


def windows(truth: list[list[list[float]]], episode: list[int], std: list[float]) -> Windows:
    """Windows that start at 0 with velocity 1 and one action dimension."""
    states = np.array(truth, np.float32)
    size, horizon, dims = states.shape
    rewards = np.ones((size, horizon), np.float32)
    rewards[0] = 3.0
    return Windows(
        np.zeros((size, dims), np.float32),
        np.ones((size, dims), np.float32),
        np.zeros((size, horizon, 1), np.float32),
        states,
        rewards,
        np.array(episode),
        np.array(std),
    )


TRUTH = windows([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 4.0], [2.0, 8.0]]], [0, 1], [2.0, 4.0])


def test_errors_are_normalised_by_the_test_set_and_averaged_over_dimensions() -> None:
    error = horizon_error(TRUTH, persistence(TRUTH))
    # squares over sigma^2: dimension 0: 1/4 then 1; dimension 1: mean(0, 1) then mean(0, 4)
    np.testing.assert_allclose(error.dimensions, [[0.5, np.sqrt(0.5)], [1.0, np.sqrt(2.0)]])
    np.testing.assert_allclose(error.nrmse, np.sqrt([(0.25 + 0.5) / 2, (1 + 2) / 2]))
    np.testing.assert_allclose(error.worst, [np.sqrt(0.5), np.sqrt(2.0)])
    starts = np.sqrt([[0.125, 0.5], [0.625, 2.5]])  # of the single windows, at both horizons
    np.testing.assert_allclose(error.p90, np.quantile(starts, 0.9, axis=0))
    # summed rewards are 3, 1 then 6, 2: errors of predicting 0 over standard deviations 1 and 2
    np.testing.assert_allclose(error.reward, np.sqrt([5.0, 20.0]) / [1.0, 2.0])


def test_baselines() -> None:
    assert not persistence(TRUTH).mean.any()
    np.testing.assert_array_equal(constant_velocity(TRUTH).mean[0], [[1, 1], [2, 2]])


def test_the_interval_resamples_episodes_not_windows() -> None:
    rng = np.random.default_rng(0)
    per_episode = rng.normal(size=(20, 1, 1, 1)).repeat(50, 1).reshape(1000, 1, 1)
    data = Windows(
        np.zeros((1000, 1), np.float32),
        np.zeros((1000, 1), np.float32),
        np.zeros((1000, 1, 1), np.float32),
        per_episode.astype(np.float32),
        np.zeros((1000, 1), np.float32),
        np.repeat(np.arange(20), 50),
        np.ones(1),
    )
    error = horizon_error(data, persistence(data))
    assert error.lower[0] < error.nrmse[0] < error.upper[0]
    assert error.upper[0] - error.lower[0] > 0.3  # 1000 independent windows would give about 0.09
    np.testing.assert_allclose(error.worst_upper, error.upper)


def test_reliable_horizon_ends_at_the_first_excess() -> None:
    assert reliable_horizon(np.array([0.05, 0.1, 0.11, 0.01])) == 2
    assert reliable_horizon(np.array([0.2])) == 0
    assert reliable_horizon(np.array([0.01, 0.02])) == 2
    np.testing.assert_allclose(skill(np.array([0.1, 2.0]), np.array([1.0, 1.0])), [0.9, -1.0])


def test_windows_stay_inside_episodes_and_align_actions_with_what_followed() -> None:
    steps = np.arange(20)
    stream: Stream = {
        "state": steps[:, None].astype(np.float32) ** 2,
        "action": 0.5 * steps[:, None].astype(np.float32),
        "reward": steps.astype(np.float32),
        "is_first": np.isin(steps, [0, 12]),
    }
    cut = cut_windows([stream, stream], "state", horizon=3, stride=4)
    starts = [1, 5, 13]
    np.testing.assert_array_equal(cut.state[:, 0], np.square(starts * 2))
    np.testing.assert_array_equal(cut.states[1, :, 0], np.square([6, 7, 8]))
    np.testing.assert_array_equal(cut.actions[1, :, 0], 0.5 * np.array([5, 6, 7]))
    np.testing.assert_array_equal(cut.rewards[1], [6, 7, 8])
    np.testing.assert_array_equal(cut.velocity[1], [25 - 16])
    np.testing.assert_array_equal(cut.episode, [0, 0, 1, 2, 2, 3])
    np.testing.assert_allclose(cut.std, [(steps**2).std()])
    with pytest.raises(ValueError, match="the 32 steps"):
        cut_windows([stream], "state", horizon=30, stride=1)


def linear_model(members: int, gaussian: bool = False, logvar: float = -40.0, offset: float = 0.0) -> Ensemble:
    """The point mass of tests.learner.streams as a network without hidden layers; members are `offset` apart."""
    model = Ensemble(EnsembleConfig(members, (), gaussian=gaussian, min_logvar=-50.0, max_logvar=10.0), 4, 2)
    with torch.no_grad():
        weight, bias = model.weights[0], model.biases[0]
        weight.zero_()
        bias.zero_()
        for axis in range(2):
            weight[:, 2 + axis, axis], weight[:, 4 + axis, axis] = 0.09, 0.02
            weight[:, 2 + axis, 2 + axis], weight[:, 4 + axis, 2 + axis] = -0.1, 0.2
        bias[:, :4] += offset * torch.linspace(-1, 1, members)[:, None] if members > 1 else 0.0
        if gaussian:
            bias[:, 5:] = logvar
    return model


@pytest.mark.parametrize("average", [False, True])
def test_the_true_model_predicts_exactly_to_the_end(average: bool) -> None:
    cut = cut_windows([make_stream(0)], "state", 20, 3)
    error = horizon_error(cut, rollout(linear_model(3, offset=0.1), cut, average=average, chunk=7))
    assert error.nrmse.max() < 1e-5  # the members' offsets cancel
    one = horizon_error(cut, rollout(linear_model(1), cut))
    assert one.nrmse.max() < 1e-5
    assert reliable_horizon(one.upper) == 20
    assert horizon_error(cut, persistence(cut)).nrmse[-1] > 0.3


def test_likelihood_is_that_of_the_moments_of_the_particles() -> None:
    cut = cut_windows([make_stream(0)], "state", 1, 3)
    single = rollout(linear_model(1, gaussian=True, logvar=-4.0), cut)
    assert single.nll is not None
    # the mean is exact and sigma is e^-2, so the density is that of the mode
    np.testing.assert_allclose(single.nll, 0.5 * (np.log(2 * np.pi) - 4.0), atol=1e-4)
    spread = rollout(linear_model(2, offset=0.5), cut)
    assert spread.nll is not None
    np.testing.assert_allclose(spread.nll, 0.5 * np.log(2 * np.pi * 0.25), atol=1e-4)
    assert rollout(linear_model(1), cut).nll is None
    assert rollout(linear_model(2), cut, average=True).nll is None


def test_particles_spread_by_the_aleatoric_noise() -> None:
    cut = cut_windows([make_stream(0)], "state", 10, 2)
    model = linear_model(1, gaussian=True, logvar=-2.0)
    noisy = rollout(model, cut, particles=64, seed=1)
    again = rollout(model, cut, particles=64, seed=1)
    np.testing.assert_array_equal(noisy.mean, again.mean)
    exact = rollout(model, cut).mean
    assert 0.0 < np.abs(noisy.mean - exact).mean() < 0.3
    assert noisy.nll is not None
    assert noisy.nll[:, -1].mean() > noisy.nll[:, 0].mean()  # the uncertainty has grown


def test_a_rollout_is_a_plain_record() -> None:
    record = Rollout(np.zeros((2, 2, 2)), np.zeros((2, 2)), None)
    assert horizon_error(TRUTH, record).nrmse.shape == (2,)
