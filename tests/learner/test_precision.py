"""Distributions, losses and returns are in float32 whatever the width of the networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.algorithms import dreamer
from learner.algorithms.pets import PetsAlgorithm
from learner.learner_config import Precision
from learner.losses.dreamer import cumulative_weight, lambda_returns
from learner.models.distributions import (
    Bernoulli,
    BoundedNormal,
    Ids,
    Normal,
    OneHot,
    Regression,
    TanhNormal,
    TwoHot,
    symexp_bins,
)
from learner.models.rssm import Rssm
from tests.learner.dreamers import IMAGE, VARIANTS, batches, make, tiny
from tests.learner.streams import SPEC
from tests.learner.test_nonfinite import CPU, PETS, pets_batches

NARROW = torch.linspace(-3.0, 3.0, 24).view(4, 6).bfloat16()
DISCOUNT = 1.0 - 1.0 / 333.0


@pytest.mark.parametrize(
    "make_one",
    [
        lambda: Regression(NARROW, 1).mean,
        lambda: Regression(NARROW, 1, squash=True).loss(NARROW.float()),
        lambda: Bernoulli(NARROW).mean,
        lambda: Bernoulli(NARROW).loss(torch.ones(4, 6)),
        lambda: TwoHot(NARROW[:, :5], symexp_bins(5)).mean,
        lambda: Ids(NARROW, 3).mean,
        lambda: Normal(NARROW, NARROW.exp()).entropy(),
        lambda: BoundedNormal(NARROW, NARROW, 0.1, 1.0).log_prob(torch.zeros(4, 6)),
        lambda: TanhNormal(NARROW, NARROW, 0.1).log_prob(torch.zeros(4, 6)),
        lambda: OneHot(NARROW).entropy(),
        lambda: lambda_returns(NARROW, NARROW, NARROW, 0.95, torch.ones_like(NARROW)),
        lambda: cumulative_weight(NARROW, 0.997),
    ],
)
def test_distributions_and_returns_are_wide(make_one: Callable[[], Tensor]) -> None:
    assert make_one().dtype == torch.float32


def test_probabilities_near_one_keep_their_digits() -> None:
    logit = torch.tensor(math.log(DISCOUNT / (1.0 - DISCOUNT))).bfloat16()
    mean = Bernoulli(logit).mean.item()
    assert mean == pytest.approx(1.0 / (1.0 + math.exp(-logit.item())), rel=1e-6)
    assert 1.0 / (1.0 - mean) == pytest.approx(333.0, rel=0.05)  # the horizon; 256 where the mean is a bfloat16
    assert Bernoulli(torch.tensor(8.0).bfloat16()).mean.item() < 1.0


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """Arguments and results of returns, weights, losses and KLs from now on."""
    seen: list[tuple[str, Tensor]] = []

    def spied(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            found = [*args, *(result if isinstance(result, tuple) else (result,))]
            seen.extend((name, value) for value in found if isinstance(value, Tensor) and value.is_floating_point())
            return result

        return spy

    for name in ("lambda_returns", "cumulative_weight", "actor_loss", "critic_loss", "kl_balance", "free_nats"):
        monkeypatch.setattr(dreamer, name, spied(name, getattr(dreamer, name)))
    return seen


@pytest.mark.parametrize("spec", [SPEC, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_bf16_update_is_close_to_a_float32_one(name: str, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(name)
    batch, seen = batches(config, spec)[0], seen_by(monkeypatch)
    narrow, wide = make(config, spec, precision="bf16"), make(config, spec)
    products: list[torch.dtype] = []
    narrow.world.reward.out.register_forward_hook(lambda module, inputs, output: products.append(output.dtype))
    ours = narrow.update(batch).metrics
    assert set(products) == {torch.bfloat16}  # the networks are narrow indeed
    assert {(name, value.dtype) for name, value in seen} == {(name, torch.float32) for name, _ in seen}
    theirs = wide.update(batch).metrics
    assert ours.keys() == theirs.keys()
    assert ours["loss"] != theirs["loss"]
    for key in theirs:
        # A categorical sample that falls on the other side is a difference of its own, most of all to gradients.
        tolerance = 0.3 if key.startswith("gradient_norm") else 0.1
        assert ours[key] == pytest.approx(theirs[key], rel=tolerance, abs=0.05), key


def test_a_bf16_update_of_an_ensemble_is_close_to_a_float32_one() -> None:
    batch = pets_batches()[0]
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    ours, theirs = (PetsAlgorithm(PETS, SPEC, CPU, 1, each).update(batch).metrics for each in precisions)
    assert ours["loss"] != theirs["loss"]
    assert ours == {key: pytest.approx(value, rel=0.02, abs=0.01) for key, value in theirs.items()}


@pytest.mark.parametrize("name", ["dreamer_v1", "planet"])
def test_gaussian_latents_are_wide(name: str) -> None:
    rssm: Rssm = make(tiny(name)).world.rssm
    statistics = torch.randn(3, 2 * rssm.stoch).bfloat16()
    latent: Any = rssm.latent(statistics)
    other = rssm.latent(statistics + 0.1)
    assert {latent.mean.dtype, latent.std.dtype, latent.kl(other).dtype} == {torch.float32}
    expected = torch.nn.functional.softplus(statistics.float().chunk(2, -1)[1]) + rssm.config.min_std
    torch.testing.assert_close(latent.std, expected)


def test_disagreement_is_of_wide_predictions() -> None:
    algorithm = make(tiny("plan2explore"), precision="bf16")
    assert algorithm.disagreement is not None
    features, action = torch.randn(5, algorithm.world.rssm.features), torch.randn(5, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert algorithm.disagreement.reward(features, action).dtype == torch.float32
