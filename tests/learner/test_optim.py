"""Schedules, clipping, LaProp, the moving average and early stopping, against literal values."""

from typing import Any

import pytest
import torch
from torch import nn

from learner.early_stopping import EarlyStopping, EarlyStoppingConfig
from learner.models.average import ParameterAverage
from learner.optim import LaProp, Optimizer, clip_adaptively, learning_rate
from learner.optim_config import OptimConfig


def test_learning_rate_warms_up_then_falls_by_a_half_cosine() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, decay_steps=10, final_lr_fraction=0.2)
    assert [learning_rate(config, step) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert learning_rate(config, 4) == pytest.approx(1.0)
    assert learning_rate(config, 9) == pytest.approx(0.6)
    assert learning_rate(config, 14) == learning_rate(config, 1000) == pytest.approx(0.2)
    assert learning_rate(OptimConfig(lr=0.3), 7) == 0.3


def test_an_exponential_learning_rate_goes_on_after_its_decay() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=2, schedule="exponential", decay_steps=10, final_lr_fraction=0.01)
    assert [learning_rate(config, step) for step in (0, 1, 2)] == [0.0, 1.0, 2.0]
    assert [learning_rate(config, step) for step in (7, 12, 22)] == pytest.approx([0.2, 0.02, 2e-4])


def test_sgd_has_momentum_and_decays_weights() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = Optimizer(OptimConfig("sgd", lr=0.1, betas=(0.5, 0.9), weight_decay=2.0), [parameter])
    expected, momentum = 1.0, 0.0
    for _ in range(3):
        (3.0 * parameter).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        momentum = 0.5 * momentum + 3.0 + 2.0 * expected
        expected -= 0.1 * momentum
        assert parameter.item() == pytest.approx(expected)


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


def test_laprop_against_three_steps_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 5.0], dtype=torch.float64))
    optimizer = LaProp([parameter], lr=0.1, betas=(0.9, 0.99), eps=1e-20)
    expected = [
        # mean square 0.01 g^2 / 0.01 = 1: a step of the learning rate
        1.0 - 0.1,
        # (0.99 * 0.01 + 0.01 * 4) / 0.0199 = 2.507538; -2 / 1.583521 = -1.263008; (0.09 - 0.1263008) / 0.19 = -0.191056
        0.9 + 0.0191056,
        # (0.99 * 0.0499 + 0.01 * 0.25) / 0.029701 = 1.747449; 0.5 / 1.321911 = 0.378240;
        # (0.9 * -0.0363008 + 0.0378240) / 0.271 = 0.019014
        0.9191056 - 0.0019014,
    ]
    for gradient, position in zip([1.0, -2.0, 0.5], expected, strict=True):
        parameter.grad = torch.tensor([gradient, 0.0], dtype=torch.float64)
        optimizer.step()
        assert parameter[0].item() == pytest.approx(position, abs=2e-6)
    assert parameter[1].item() == 5.0  # no gradient, no division by zero


def test_laprop_counts_the_steps_of_each_parameter() -> None:
    early, late, alone = (nn.Parameter(torch.tensor([1.0])) for _ in range(3))
    together, apart = LaProp([early, late], lr=0.1), LaProp([alone], lr=0.1)
    early.grad = torch.tensor([2.0])
    for _ in range(50):
        together.step()
    late.grad = alone.grad = torch.tensor([3.0])
    together.step()
    apart.step()
    assert late.item() == alone.item() == pytest.approx(0.9)


def test_laprop_is_invariant_to_the_scale_of_gradients_and_decays_weights() -> None:
    small, large = (nn.Parameter(torch.tensor([1.0, -1.0])) for _ in range(2))
    optimizers = [LaProp([p], lr=0.01) for p in (small, large)]
    for gradient in torch.randn(20, 2, generator=torch.Generator().manual_seed(0)):
        small.grad, large.grad = 1e-8 * gradient, 1e8 * gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(small, large)
    decayed = nn.Parameter(torch.tensor([2.0]))
    decayed.grad = torch.tensor([3.0])
    LaProp([decayed], lr=0.1, weight_decay=0.5).step()
    assert decayed.item() == pytest.approx(2.0 * (1.0 - 0.05) - 0.1)


@pytest.mark.parametrize("name", ["adam", "sgd", "laprop"])
def test_weights_shrink_by_their_share_whatever_the_learning_rate(name: Any) -> None:
    """DreamerV2's decay, w *= 1 - 1e-6, which a decay in units of its learning rate leaves no trace of in float32."""
    parameter = nn.Parameter(torch.tensor([0.5, -2.0]))
    optimizer = Optimizer(OptimConfig(name, lr=3e-4, shrink=1e-6, warmup_steps=1000), [parameter])
    for _ in range(3):
        parameter.grad = torch.zeros(2)
        optimizer.step()
    share = torch.tensor([0.5, -2.0]).double() * (1.0 - 1e-6) ** 3
    torch.testing.assert_close(parameter.detach().double(), share, rtol=2e-7, atol=0.0)
    assert parameter[0].item() < 0.5
    assert torch.tensor(1.0) - 3e-4 * 1e-6 == 1.0


def test_weights_shrink_before_the_step() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([2.0])
    Optimizer(OptimConfig("sgd", lr=0.1, betas=(0.0, 0.0), shrink=0.5), [parameter]).step()
    assert parameter.item() == pytest.approx(0.5 * 1.0 - 0.1 * 2.0)


def test_adaptive_clipping_takes_a_group_as_one_matrix() -> None:
    """Norm 5 and gradient 10 together: alone, the first would be cut to 0.3 * 3 and the second to 0.3 * 4."""
    parameters = [nn.Parameter(torch.tensor([value])) for value in (3.0, 4.0, 1.0)]
    for parameter, gradient in zip(parameters, (6.0, 8.0, 1.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    without = nn.Parameter(torch.ones(1))
    clip_adaptively([*parameters, without], 0.3, together=[[parameters[0], parameters[1], without]])
    gradients = [parameter.grad.item() for parameter in parameters if parameter.grad is not None]
    assert gradients == pytest.approx([6.0 * 0.15, 8.0 * 0.15, 0.3])
    for parameter, gradient in zip(parameters[:2], (0.0, 2.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    clip_adaptively(parameters[:2], 0.3, together=[parameters[:2]])
    assert parameters[1].grad is not None
    assert parameters[1].grad.item() == pytest.approx(0.3 * 5.0)  # alone: 0.3 * 4


def test_adaptive_clipping_is_relative_to_each_parameter() -> None:
    parameters = [nn.Parameter(torch.tensor(value)) for value in ([3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0])]
    for parameter, gradient in zip(parameters, ([6.0, 8.0], [0.3, 0.4], [0.6, 0.8], [0.0, 0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    idle = nn.Parameter(torch.ones(2))
    clip_adaptively([*parameters, idle], 0.3)
    expected = [[0.9, 1.2], [0.3, 0.4], [0.3e-3 * 0.6, 0.3e-3 * 0.8], [0.0, 0.0]]  # norms 1.5, 0.5, 0.3e-3, 0
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient))
    assert idle.grad is None


def test_the_optimizer_clips_before_laprop_and_reports_the_norm_from_before() -> None:
    """The second gradient is ten times too long: its step is that of the clipped one."""
    config = OptimConfig("laprop", lr=0.1, eps=1e-20, agc=0.5)
    ours, twin = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    optimizer, plain = Optimizer(config, [ours]), LaProp([twin], lr=0.1)
    for gradient in ([0.3, 0.4], [30.0, 40.0]):
        ours.grad = torch.tensor(gradient)
        norm = optimizer.step()
        length = min(1.0, 0.5 * twin.detach().norm().item() / torch.tensor(gradient).norm().item())
        twin.grad = length * torch.tensor(gradient)
        plain.step()
    assert norm.item() == pytest.approx(50.0)
    torch.testing.assert_close(ours, twin)


def test_resuming_laprop_continues_its_moments() -> None:
    def run(steps: range, state: dict[str, object] | None, value: torch.Tensor) -> tuple[Optimizer, torch.Tensor]:
        parameter = nn.Parameter(value.clone())
        optimizer = Optimizer(OptimConfig("laprop", lr=0.1, warmup_steps=3, agc=0.3), [parameter])
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            parameter.grad = torch.tensor([1.0, -0.5]) * (step + 1)
            optimizer.step()
        return optimizer, parameter.detach()

    whole = run(range(6), None, torch.tensor([1.0, 2.0]))[1]
    first, value = run(range(3), None, torch.tensor([1.0, 2.0]))
    assert torch.equal(run(range(3, 6), first.state_dict(), value)[1], whole)
