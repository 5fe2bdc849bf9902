"""Schedules, clipping, the moving average and early stopping, against literal values."""

import pytest
import torch
from torch import nn

from learner.early_stopping import EarlyStopping, EarlyStoppingConfig
from learner.models.average import ParameterAverage
from learner.optim import OptimConfig, Optimizer, learning_rate


def test_learning_rate_warms_up_then_falls_by_a_half_cosine() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, decay_steps=10, final_lr_fraction=0.2)
    assert [learning_rate(config, step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(config, 4) == pytest.approx(1.0)
    assert learning_rate(config, 9) == pytest.approx(0.6)
    assert learning_rate(config, 14) == learning_rate(config, 1000) == pytest.approx(0.2)
    assert learning_rate(OptimConfig(lr=0.3), 7) == 0.3


@pytest.mark.parametrize(("grad_clip", "moved"), [(0.0, 1.0), (0.5, 1.0)])
def test_adam_moves_by_the_learning_rate_and_reports_the_unclipped_norm(grad_clip: float, moved: float) -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Optimizer(OptimConfig(lr=0.1, grad_clip=grad_clip), [parameter])
    (0.5 * parameter.square().sum()).backward()  # type: ignore[no-untyped-call]
    assert optimizer.step().item() == pytest.approx(5.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([2.9, 3.9]))
    assert parameter.grad is None


def test_clipping_scales_the_gradient_to_the_limit() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Optimizer(OptimConfig(lr=1.0, grad_clip=0.5, eps=1e3), [parameter])
    (0.5 * parameter.square().sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # with a huge eps Adam's step is lr * gradient / eps
    torch.testing.assert_close(parameter.detach(), torch.tensor([3.0 - 0.3e-3, 4.0 - 0.4e-3]), rtol=0, atol=1e-6)


def test_the_average_moves_with_its_decay_and_stands_in_for_the_parameters() -> None:
    parameter = nn.Parameter(torch.tensor([0.0]))
    average = ParameterAverage([parameter], decay=0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update()  # decay min(0.5, 1 / 10)
    average.update()  # decay min(0.5, 2 / 11)
    with average.applied():
        assert parameter.item() == pytest.approx(1.0 - 0.1 * 2 / 11)
    assert parameter.item() == 1.0
    average.reset()
    with average.applied():
        assert parameter.item() == 1.0


def test_early_stopping_walks_through_its_decisions() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2, smoothing=1, min_improvement=0.1, growth=1.5))
    losses = [5.0, 4.0, 3.9, 2.0, 1.9, 1.9, 1.0, None]
    assert [stopping.observe(loss, 100) for loss in losses] == [
        "restart",  # the first data
        "improved",
        "continue",  # less than a tenth better
        "improved",
        "continue",
        "stop",
        "stopped",
        "stopped",
    ]
    assert stopping.observe(1.0, 149) == "stopped"
    assert stopping.observe(1.0, 150) == "restart"
    assert not stopping.stopped
    assert stopping.observe(9.0, 150) == "improved"  # the old best is forgotten


def test_early_stopping_waits_for_its_smoothing_and_survives_a_restart() -> None:
    config = EarlyStoppingConfig(patience=1, smoothing=4)
    stopping = EarlyStopping(config)
    assert [stopping.observe(v, 10) for v in (4.0, 2.0, 3.0, 3.0)] == ["restart", "continue", "continue", "improved"]
    assert stopping.smoothed == pytest.approx(3.0)
    twin = EarlyStopping(config)
    twin.load_state_dict(stopping.state_dict())
    assert twin.observe(7.0, 10) == stopping.observe(7.0, 10) == "stop"
    assert twin.state_dict() == stopping.state_dict()


def test_no_patience_never_stops() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=0))
    assert {stopping.observe(float(i), 10) for i in range(50)} == {"continue"}
