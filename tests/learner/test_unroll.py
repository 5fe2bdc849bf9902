"""Loops over unrolled layers against loops over the layers themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from learner.models.layers import Mlp, UnrolledLinear, unrolled
from learner.models.rssm import BlockGru, Gru
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import Architecture, Dimensions

STEPS, ROWS = 5, 3
SIZES = Dimensions(deter=16, hidden=4)
Loop = Callable[[nn.Module], list[Tensor]]


def loops() -> dict[str, tuple[nn.Module, Loop]]:
    torch.manual_seed(0)
    noise = [torch.randn(ROWS, 8, dtype=torch.float64) for _ in range(STEPS)]

    def deep(net: nn.Module) -> list[Tensor]:
        x, outputs = noise[0], []
        for eps in noise:
            x = net(x) + eps
            outputs.append(x)
        return outputs

    def recurrent(cell: nn.Module) -> list[Tensor]:
        deter, outputs = noise[0].repeat(1, 2), []
        for eps in noise:
            deter = cell(deter, eps, eps[:, :4])
            outputs.append(deter)
        return outputs

    return {
        "mlp": (Mlp(8, 8, 2, Architecture(SIZES)), deep),
        "block_gru": (BlockGru(8, 4, RssmConfig(blocks=2), Architecture(SIZES, "layer", "elu")), recurrent),
        "gru": (Gru(8, 4, RssmConfig(cell="gru"), Architecture(SIZES)), recurrent),
        "gru_memory": (Gru(8, 4, RssmConfig(cell="gru", reset="memory"), Architecture(SIZES, "none")), recurrent),
    }


@pytest.mark.parametrize("name", loops())
def test_outputs_and_gradients_are_those_of_the_layers(name: str) -> None:
    module, loop = loops()[name]
    module = module.double()
    results = []
    for candidate in (module, unrolled(module, STEPS, ROWS)):
        outputs = loop(candidate)
        sum(output.sin().sum() for output in outputs).backward()  # type: ignore[union-attr, no-untyped-call]
        gradients = {key: p.grad for key, p in module.named_parameters() if "action_in" not in key}
        results.append((outputs, gradients))
        module.zero_grad()
    (outputs, gradients), (unrolled_outputs, unrolled_gradients) = results
    torch.testing.assert_close(unrolled_outputs, outputs)
    torch.testing.assert_close(unrolled_gradients, gradients)
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients.values())


def test_the_start_of_each_step_gets_its_own_gradient() -> None:
    start, weight = torch.zeros(2, 1, 3, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    linear = UnrolledLinear(start, weight)
    first, second = linear(torch.tensor([[1.0, 2.0]])), linear(torch.tensor([[10.0, 20.0]]))
    assert first.tolist() == [[3.0] * 3]
    assert second.tolist() == [[30.0] * 3]
    (first[0, 0] + 5.0 * second[0, 1]).backward()  # type: ignore[no-untyped-call]
    assert start.grad is not None
    assert start.grad.tolist() == [[[1.0, 0.0, 0.0]], [[0.0, 5.0, 0.0]]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0], [50.0, 100.0], [0.0, 0.0]]


def test_a_loop_may_need_no_gradients() -> None:
    module, loop = loops()["block_gru"]
    module = module.double()
    with torch.no_grad():
        torch.testing.assert_close(loop(unrolled(module, STEPS, ROWS)), loop(module))


def test_autocast_rounds_the_products_alone() -> None:
    module = Mlp(8, 8, 1, Architecture(SIZES))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        twin = unrolled(module, 1, ROWS)
        output = twin(torch.randn(ROWS, 8))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
