"""Births of tensors that are not finite are named by operation, module and place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learner.first_nonfinite import Birth, find_births, modules_of, nonfinite_tensors


class Net(nn.Module):
    """`inner` takes a logarithm after a linear map of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.inner = Log()
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.linear(x))  # type: ignore[no-any-return]


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def births(net: nn.Module, x: Tensor) -> tuple[list[Birth], str]:
    return find_births(lambda: net(x).square().sum().backward(), {"net": net})


def test_the_first_operation_of_the_forward_pass_is_named() -> None:
    found, _ = births(Net(), torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, -2.0]]))
    assert (found[0].phase, found[0].operation, found[0].module) == ("forward", "aten.log", "net.inner")
    assert (found[0].value, found[0].count, found[0].shape) == ("-inf", 4, (3, 2))
    assert found[0].where.startswith("tests/learner/test_first_nonfinite.py:")
    assert found[0].where.endswith(" forward")


def test_a_gradient_is_named_by_its_forward_call() -> None:
    x = torch.zeros(3, requires_grad=True)
    found, said = find_births(lambda: (x.sqrt() * 0.0).sum().backward(), {})  # 0 / 0 at zero
    assert (found[0].phase, found[0].operation, found[0].value) == ("backward", "aten.div", "nan")
    assert "test_first_nonfinite.py" in found[0].where
    assert "SqrtBackward0" in said


def test_what_was_not_finite_before_gives_no_birth() -> None:
    net = Net()
    with torch.no_grad():
        net.linear.weight.fill_(torch.nan)
    assert births(net, torch.ones(3, 2))[0] == []
    assert list(nonfinite_tensors({"a": net.state_dict(), "b": [1.0, float("inf")]})) == ["a.linear.weight", "b.1"]


def test_finite_updates_have_no_births() -> None:
    assert births(Net(), torch.ones(3, 2)) == ([], "")


def test_modules_are_found_in_their_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self._net, self.other, self.size = Net(), Log(), 3

    assert list(modules_of(Owner())) == ["net", "other"]
