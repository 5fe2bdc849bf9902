"""Scalars as categoricals: the transform and its inverse, the code, and what saturates it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from learner.models.muzero_config import SupportConfig
from learner.models.muzero_scalar import Scalar, h, inverse_h, saturated, squash, support_bins

POINTS = [0.0, 1e-6, 0.5, 1.0, 3.0, 99.0, 1e4, 2.5e5]


def test_squash_against_literals() -> None:
    x = torch.tensor([0.0, 3.0, -3.0, 99.0, -8.0], dtype=torch.float64)
    assert h(x).tolist() == pytest.approx([0.0, 1.003, -1.003, 9.099, -2.008], abs=1e-12)
    assert inverse_h(torch.tensor([1.003, -2.008], dtype=torch.float64)).tolist() == pytest.approx(
        [3.0, -8.0], abs=1e-12
    )


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
def test_there_and_back_again_to_the_last_digits(dtype: torch.dtype, error: float) -> None:
    x = torch.tensor(POINTS, dtype=dtype)
    for values in (x, -x):
        torch.testing.assert_close(inverse_h(h(values)), values, rtol=error, atol=0.0)
        torch.testing.assert_close(h(inverse_h(values)), values, rtol=error, atol=0.0)


def test_the_inverse_is_the_papers() -> None:
    """Pohlen et al. 2018, proposition A.2, in float64 and without care for its rounding."""
    eps, y = 0.001, np.linspace(-300.0, 300.0, 1201)
    root = (np.sqrt(1.0 + 4.0 * eps * (np.abs(y) + 1.0 + eps)) - 1.0) / (2.0 * eps)
    np.testing.assert_allclose(
        inverse_h(torch.from_numpy(y)).numpy(), np.sign(y) * (root**2 - 1.0), rtol=1e-9, atol=1e-9
    )


def test_the_support_mirrors_itself_and_has_a_bin_at_zero() -> None:
    bins = support_bins(SupportConfig(300.0, 601))
    assert bins[[0, 299, 300, 301, 600]].tolist() == [-300.0, -1.0, 0.0, 1.0, 300.0]
    assert torch.equal(bins, -bins.flip(0))


def test_no_preference_is_exactly_zero() -> None:
    config = SupportConfig(300.0, 601)
    assert Scalar(torch.zeros(3, 601), support_bins(config), config).mean.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("transform", ["h", "none"])
def test_the_code_of_a_scalar_means_it(transform: str) -> None:
    """The loss is least at the two-hot code, whose mean is the scalar."""
    config = SupportConfig(20.0, 41, transform)  # type: ignore[arg-type]
    target = torch.tensor([0.0, 0.25, -3.0, 7.7, 15.0], dtype=torch.float64)
    place = (squash(target, config) + 20.0).numpy()
    code = np.zeros((5, 41))
    low = np.floor(place).astype(int)
    code[np.arange(5), low] = 1.0 - (place - low)
    code[np.arange(5), np.minimum(low + 1, 40)] += place - low
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(code).clip(-80.0))
    scalar = Scalar(logits, support_bins(config).double(), config)
    torch.testing.assert_close(scalar.mean, target, rtol=1e-9, atol=1e-9)
    entropy = -(code * np.log(code, out=np.zeros_like(code), where=code > 0)).sum(1)
    np.testing.assert_allclose(scalar.loss(target).numpy(), entropy, atol=1e-9)


def test_a_uniform_guess_costs_the_logarithm_of_the_bins() -> None:
    config = SupportConfig(10.0, 21)
    loss = Scalar(torch.zeros(2, 21), support_bins(config), config).loss(torch.tensor([3.7, 1e9]))
    assert loss.tolist() == pytest.approx([math.log(21)] * 2)


def test_saturation_begins_at_the_ends_of_the_support() -> None:
    config = SupportConfig(1.003, 3)
    assert saturated(torch.tensor([2.9, -2.9, 3.1, -3.1, 1e9]), config).tolist() == [False, False, True, True, True]
    assert saturated(torch.tensor([1.9, 2.0]), SupportConfig(2.0, 3, "none")).tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bins": 1}, "bins"), ({"bins": 600}, "bins must be odd.*600"), ({"limit": 0.0}, "limit")],
)
def test_refuses_a_support_that_is_too_small(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupportConfig(**options)  # type: ignore[arg-type]
