"""Following, imagining and decoding recorded sequences, the use of latents, and open-loop errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from envs.specs import ArraySpec, EnvSpec
from learner import imagination
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.imagination import (
    PADDING,
    Belief,
    CategoricalUsage,
    GaussianUsage,
    Starts,
    decode,
    encode_actions,
    episode_lengths,
    filter_posterior,
    find_starts,
    imagine,
    observed,
    open_loop,
    pad,
    usage,
)
from learner.models.observation_config import ObservationConfig
from learner.models.rssm import CategoricalLatent, GaussianLatent, State
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import Dimensions
from learner.models.world_model import WorldModel
from learner.open_loop import open_loop_errors

SPEC = EnvSpec(
    "fake",
    {
        "image": ArraySpec((8, 8, 3), "uint8", 0, 255),
        "state": ArraySpec((3,), "float32"),
        "room": ArraySpec((), "int64", num_values=4),
    },
    ArraySpec((2,), "float32", -1.0, 1.0),
)
DIMENSIONS = Dimensions(deter=16, hidden=8, classes=4, depth=2, units=8)


def make(latent: Any = "categorical", spec: EnvSpec = SPEC) -> WorldModel:
    config = DreamerConfig(
        dimensions=DIMENSIONS,
        rssm=RssmConfig(latent, groups=3, blocks=4),
        observation=ObservationConfig(multipliers=(1, 2), kernel=3, groups=4),
    )
    return DreamerAlgorithm(config, spec, torch.device("cpu"), seed=0).world


def stream(length: int, first: list[int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random steps whose episodes begin at `first`."""
    rng = np.random.default_rng(seed)
    is_first = np.isin(np.arange(length), first)
    return {
        "image": rng.integers(0, 256, (length, 8, 8, 3), np.uint8),
        "state": rng.normal(size=(length, 3)).astype(np.float32),
        "room": rng.integers(0, 4, length),
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "reward": rng.normal(size=length).astype(np.float32),
        "is_first": is_first,
        "is_last": np.roll(is_first, -1),
        "is_terminal": np.zeros(length, np.bool_),
        "episode": np.cumsum(is_first) - 1,
    }


def test_padding_has_no_episode_and_nobody_starts_there() -> None:
    batch = pad([stream(7, [0, 4]), stream(5, [0])])
    assert batch.shape == (2, 7)
    assert batch.data["episode"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, PADDING, PADDING]]
    assert batch.data["is_first"][1].tolist() == [True, False, False, False, False, True, True]
    assert episode_lengths(batch.data) == [4, 3, 5]
    starts = find_starts(batch.data, seen=2, horizon=2)
    assert list(zip(starts.row.tolist(), starts.step.tolist(), starts.episode.tolist(), strict=True)) == [
        (0, 1, 0),
        (1, 1, 1),
        (1, 2, 1),
    ]
    with pytest.raises(ValueError, match="no episode has 6 steps"):
        find_starts(batch.data, seen=3, horizon=3)
    with pytest.raises(ValueError, match="no stream"):
        pad([])


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_filtering_in_parts_is_filtering_at_once(latent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(latent), pad([stream(12, [0, 5]), stream(12, [0], 1)])
    whole = filter_posterior(model, batch)
    monkeypatch.setattr(imagination, "ENCODE_STEPS", 5)
    parts = filter_posterior(model, batch)
    for one, two in zip(whole.states, parts.states, strict=True):
        torch.testing.assert_close(one, two)
    other = filter_posterior(model, batch, seed=1)
    assert not torch.equal(whole.states.stoch, other.states.stoch)


def test_filtering_continues_from_stored_latents() -> None:
    model, batch = make(), pad([stream(9, [0])])
    whole = filter_posterior(model, batch)
    batch.data.update({key: values.numpy() for key, values in model.rssm.pack(whole.states).items()})
    later = filter_posterior(model, batch, context=4)
    assert later.data["reward"].shape == (1, 5)
    torch.testing.assert_close(later.states.deter[:, 0], whole.states.deter[:, 4], atol=2e-3, rtol=0)


def test_the_first_imagined_step_has_the_memory_of_the_observed_one() -> None:
    """The deterministic state depends on the last state and action alone, so an action off by one would show."""
    model, batch = make(), pad([stream(10, [0]), stream(10, [0], 1)])
    belief = filter_posterior(model, batch)
    rows, steps = np.array([0, 1, 1]), np.array([2, 4, 6])
    action = encode_actions(model, batch.data["action"][rows[:, None], steps[:, None] + np.arange(3)])
    ahead = imagine(model, belief.at(rows, steps), action)
    torch.testing.assert_close(ahead.deter[:, 0], belief.at(rows, steps + 1).deter)
    assert (ahead.deter[:, 1] - belief.at(rows, steps + 2).deter).abs().max() > 1e-4


def test_an_open_loop_window_is_the_posterior_until_the_mark() -> None:
    model, batch = make(), pad([stream(12, [0])])
    belief = filter_posterior(model, batch)
    starts = Starts(np.array([0, 0]), np.array([3, 5]), np.array([0, 0]))
    windows = open_loop(model, belief, starts, seen=3, horizon=4)
    for n, begin in enumerate((1, 3)):
        np.testing.assert_array_equal(windows.reward[n], batch.data["reward"][0, begin : begin + 7])
        np.testing.assert_allclose(
            windows.truth["image"][n] * 255, batch.data["image"][0, begin : begin + 7], atol=1e-4
        )
        np.testing.assert_array_equal(windows.truth["room"][n].argmax(-1), batch.data["room"][0, begin : begin + 7])
    everything = decode(model, belief.states)
    for key in ("image", "state", "room"):
        assert windows.imagined[key].shape == windows.truth[key].shape
        np.testing.assert_allclose(windows.reconstruction[key][1], everything[key][0, 3:10], atol=1e-6)
        np.testing.assert_array_equal(windows.imagined[key][:, :3], windows.reconstruction[key][:, :3])
        assert not np.allclose(windows.imagined[key][:, 3:], windows.reconstruction[key][:, 3:])
    assert windows.imagined["image"].min() >= 0.0
    assert windows.imagined["image"].max() <= 1.0


def belief_of(posterior: Any, prior: Any, episode: NDArray[np.int64]) -> Belief:
    return Belief({"episode": episode}, State(torch.zeros(1), torch.zeros(1)), posterior, prior)


def test_use_of_categorical_latents() -> None:
    """One group always the same, one that tells two kinds of states apart, one that says nothing."""
    certain = [1.0, 0.0, 0.0, 0.0]
    probs = torch.tensor(
        [[certain, certain, [0.25] * 4], [certain, [0.0, 0.0, 1.0, 0.0], [0.25] * 4], [[0.0, 0.0, 0.0, 1.0]] * 3]
    )
    posterior = CategoricalLatent(torch.log(probs + 1e-30)[None])
    prior = CategoricalLatent(torch.zeros(1, 3, 3, 4))
    used = usage(belief_of(posterior, prior, np.array([[0, 0, PADDING]])))
    assert isinstance(used, CategoricalUsage)
    two, four = math.log(2), math.log(4)
    np.testing.assert_allclose(used.kl, [four, four, 0.0], atol=1e-6)
    np.testing.assert_allclose(used.entropy, [0.0, two, four], atol=1e-6)
    np.testing.assert_allclose(used.perplexity, [1.0, 2.0, 4.0], atol=1e-5)
    np.testing.assert_allclose(used.information, [0.0, two, 0.0], atol=1e-6)
    assert used.used.tolist() == [1, 2, 4]
    assert used.classes == 4


def test_use_of_gaussian_latents() -> None:
    mean = torch.tensor([[[1.0, 0.0], [-1.0, 0.01], [90.0, 90.0]]])
    std = torch.tensor([[[0.5, 1.0], [0.5, 1.0], [9.0, 9.0]]])
    prior = GaussianLatent(torch.zeros(1, 3, 2), torch.ones(1, 3, 2))
    used = usage(belief_of(GaussianLatent(mean, std), prior, np.array([[0, 0, PADDING]])))
    assert isinstance(used, GaussianUsage)
    np.testing.assert_allclose(used.kl, [0.5 * (0.25 + 1.0 - 1.0) + math.log(2.0), 0.5 * 0.0001 / 2], atol=1e-6)
    np.testing.assert_allclose(used.spread, [1.0, 0.005], atol=1e-7)
    np.testing.assert_allclose(used.std, [0.5, 1.0])
    assert used.active.tolist() == [True, False]


def test_open_loop_errors_are_over_the_variance_of_the_recorded_steps() -> None:
    model = make()
    data = [stream(20, [0]), stream(14, [0], 1)]
    for one in data:
        one["state"][:, 2] = 5.0  # constant: left out
    belief = filter_posterior(model, pad(data))
    starts = find_starts(belief.data, seen=2, horizon=4, stride=3)
    errors = open_loop_errors(model, belief, starts, horizon=4, samples=3)
    state = np.concatenate([one["state"] for one in data])[:, :2].astype(np.float64)
    n = len(starts) - 1  # in the second stream
    begin = int(starts.step[n])
    now, ahead = data[1]["state"][begin, :2], data[1]["state"][begin + 1 : begin + 5, :2]
    assert starts.row[n] == 1
    np.testing.assert_allclose(
        errors.squares["state"]["persistence"][n], (now - ahead).astype(np.float64) ** 2 / state.var(0), rtol=1e-5
    )
    images = np.concatenate([one["image"] for one in data]) / 255.0
    mse = ((images[20 + begin] - images[20 + begin + 1 : 20 + begin + 5]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(errors.squares["image"]["persistence"][n, :, 0], mse / images.var(0).mean(), rtol=1e-5)
    mean_square = errors.squares["image"]["persistence"].mean((0, 2)) * images.var(0).mean()
    np.testing.assert_allclose(errors.psnr("image", "persistence"), -10 * np.log10(mean_square), rtol=1e-6)
    seen = decode(model, belief.at(starts.row, starts.step[:, None] + np.arange(1, 5)))["state"][..., :2]
    truth = observed(model, belief.data)["state"][starts.row[:, None], starts.step[:, None] + np.arange(1, 5)][..., :2]
    np.testing.assert_allclose(
        errors.squares["state"]["reconstruction"], (seen - truth).astype(np.float64) ** 2 / state.var(0), rtol=1e-4
    )
    assert errors.reward["persistence"].max() == 0.0
    np.testing.assert_array_equal(errors.true_reward[n], data[1]["reward"][begin + 1 : begin + 5])
    summary = errors.summary("room", "mean")
    assert summary.nrmse.shape == (4,)
    assert (summary.lower <= summary.nrmse).all()
    assert (summary.nrmse <= summary.upper).all()
    assert summary.as_dict()["h10"] == 0


def test_the_mean_of_samples_is_nearer_than_one_of_them() -> None:
    model = make()
    belief = filter_posterior(model, pad([stream(60, [0])]))
    starts = find_starts(belief.data, seen=2, horizon=6)
    errors = open_loop_errors(model, belief, starts, horizon=6, samples=8)
    for key in ("image", "state"):
        assert errors.squares[key]["mean"].mean() < errors.squares[key]["sample"].mean()
    one = open_loop_errors(model, belief, starts, horizon=6)
    np.testing.assert_allclose(one.squares["image"]["mean"], one.squares["image"]["sample"])
