"""Lambda-returns and the range of returns, against literal values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.collective import Collective
from learner.losses.dreamer import ReturnRange, lambda_returns, percentiles

CPU = torch.device("cpu")
REWARD = [99.0, 1.0, 2.0, 3.0]  # the first belongs to what came before
VALUE = [99.0, 4.0, 8.0, 16.0]


def returns(discount: list[float], continues: list[float], lambda_: float = 0.5) -> list[float]:
    rows = (torch.tensor([row]) for row in (REWARD, discount, VALUE))
    reward, per_step, value = rows
    return lambda_returns(reward, per_step, value, lambda_, torch.tensor([continues]))[0].tolist()


@pytest.mark.parametrize(
    ("discount", "continues", "lambda_", "expected"),
    [
        # R_2 = 3 + 16 / 2, R_1 = 2 + (8 / 2 + 11 / 2) / 2, R_0 = 1 + (4 / 2 + 6.75 / 2) / 2
        ([99.0, 0.5, 0.5, 0.5], [99.0, 1.0, 1.0, 1.0], 0.5, [3.6875, 6.75, 11.0]),
        ([99.0, 0.5, 0.5, 0.5], [99.0, 1.0, 1.0, 1.0], 0.0, [3.0, 6.0, 11.0]),  # one step
        ([99.0, 0.5, 0.5, 0.5], [99.0, 1.0, 1.0, 1.0], 1.0, [4.75, 7.5, 11.0]),  # all rewards
        ([99.0, 0.5, 0.0, 0.5], [99.0, 1.0, 1.0, 1.0], 0.5, [2.5, 2.0, 11.0]),  # step 2 is terminal
        ([99.0, 0.5, 0.5, 0.5], [99.0, 0.0, 1.0, 1.0], 0.5, [3.0, 6.75, 11.0]),  # step 1 is the last before a cut
        ([99.0, 0.5, 0.0, 0.5], [99.0, 1.0, 0.0, 1.0], 0.5, [2.5, 2.0, 11.0]),  # step 2 is both
    ],
)
def test_lambda_returns(discount: list[float], continues: list[float], lambda_: float, expected: list[float]) -> None:
    assert returns(discount, continues, lambda_) == pytest.approx(expected)


def test_gradients_flow_through_rewards_discounts_and_values() -> None:
    reward, discount, value = (torch.tensor([row], requires_grad=True) for row in (REWARD, [9.0, 0.5, 0.5, 0.5], VALUE))
    lambda_returns(reward, discount, value, 0.5, torch.ones(1, 4))[0, 0].backward()  # type: ignore[no-untyped-call]
    assert reward.grad is not None
    assert reward.grad.tolist() == [[0.0, 1.0, 0.25, 0.0625]]
    assert value.grad is not None
    assert value.grad.tolist() == [[0.0, 0.25, 0.0625, 0.03125]]
    assert discount.grad is not None
    assert discount.grad.tolist() == [[0.0, 5.375, 0.25 * 9.5, 0.0625 * 16.0]]


def test_percentiles_interpolate_linearly_over_any_number_of_values() -> None:
    values = torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0])
    torch.testing.assert_close(
        percentiles(values, torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])), torch.tensor([0.0, 0.2, 2.0, 3.8, 4.0])
    )
    many = np.random.default_rng(0).normal(size=1001)
    ours = percentiles(torch.from_numpy(many), torch.tensor([0.05, 0.95], dtype=torch.float64))
    np.testing.assert_allclose(ours.numpy(), np.percentile(many, [5.0, 95.0]), rtol=1e-12)
    assert percentiles(torch.tensor([7.0]), torch.tensor([0.05, 0.95])).tolist() == [7.0, 7.0]


def test_the_range_is_a_moving_average_from_zero() -> None:
    span = ReturnRange(0.1, (5.0, 95.0), 1.0, CPU, torch.float64)
    assert span.update(torch.arange(101.0).view(1, 101), Collective()).item() == pytest.approx(9.0)
    torch.testing.assert_close(span.average, torch.tensor([0.5, 9.5], dtype=torch.float64))
    assert span.update(torch.full((2, 4), 10.0), Collective()).item() == pytest.approx(8.1)
    torch.testing.assert_close(span.average, torch.tensor([1.45, 9.55], dtype=torch.float64))


def test_small_returns_are_not_blown_up() -> None:
    span = ReturnRange(1.0, (5.0, 95.0), 1.0, CPU, torch.float32)
    assert span.update(torch.linspace(0.0, 1e-3, 50), Collective()).item() == 1.0
    assert span.update(torch.zeros(50), Collective()).item() == 1.0
    assert span.update(torch.linspace(0.0, 100.0, 101), Collective()).item() == pytest.approx(90.0)


def test_the_range_is_that_of_all_ranks() -> None:
    """One rank has only low, the other only high returns: neither sees the range alone."""

    class WithOther(Collective):
        def gather(self, values: Tensor) -> Tensor:
            return torch.cat([values, values + 100.0])

    span = ReturnRange(1.0, (5.0, 95.0), 1.0, CPU, torch.float64)
    scale = span.update(torch.linspace(0.0, 1.0, 51), WithOther(0, 2))
    everyone = np.concatenate([np.linspace(0.0, 1.0, 51), 100.0 + np.linspace(0.0, 1.0, 51)])
    assert scale.item() == pytest.approx(float(np.subtract(*np.percentile(everyone, [95.0, 5.0]))), rel=1e-6)
