"""DreamerV3 against losses and gradients of the reference implementation; tests/golden/README.md describes the files.

Samples are fixed: latents and discrete actions are the most likely class, with straight-through gradients, and the
noise of a continuous action is 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import BehaviourConfig, DreamerConfig
from learner.batch import SequenceBatch
from learner.models.distributions import OneHot
from learner.models.observation_config import ObservationConfig
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import Dimensions
from learner.models.world_model_config import PolicyConfig

GOLDEN = Path(__file__).parents[1] / "golden"
OBSERVATION = {
    "image": ArraySpec((64, 64, 3), "uint8", 0, 255),
    "state": ArraySpec((5,), "float32"),
    "vel": ArraySpec((2,), "float32"),
}
ACTIONS = {"cont": ArraySpec((3,), "float32", -1.0, 1.0), "disc": ArraySpec((), "int64", num_values=3)}
CONFIG = DreamerConfig(
    dimensions=Dimensions(deter=16, hidden=8, classes=4, depth=2, units=8),
    observation=ObservationConfig(layers=1, multipliers=(1, 2, 2, 2), groups=4),
    rssm=RssmConfig(groups=4, blocks=2),
    behaviour=BehaviourConfig(horizon=4),
)
Arrays = dict[str, NDArray[Any]]


def most_likely(self: OneHot, noise: Tensor) -> Tensor:
    """Stands in for `OneHot.sample`."""
    return self.mode() + (self.probs - self.probs.detach())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cont", "disc"])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[DreamerAlgorithm, Arrays]:
    """An algorithm whose gradients of the golden batch are computed, and the golden arrays."""
    name = request.param
    with np.load(GOLDEN / f"dreamer_v3_{name}.npz") as file:
        golden = dict(file)
    config = replace(CONFIG, policy=PolicyConfig(unimix=0.0)) if name == "disc" else CONFIG
    spec = EnvSpec("golden", OBSERVATION, ACTIONS[name])
    algorithm = DreamerAlgorithm(config, spec, torch.device("cpu"), seed=0)
    for prefix, module in algorithm._modules().items():
        weights = part(golden, f"weights/{prefix}/")
        module.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    monkeypatch.setattr(OneHot, "sample", most_likely)
    return algorithm, golden


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


@pytest.mark.usefixtures("one_thread")
def test_losses_return_range_and_gradients_equal_the_references(case: tuple[DreamerAlgorithm, Arrays]) -> None:
    algorithm, golden = case
    data = part(golden, "batch/")
    rows = np.arange(3)
    batch = SequenceBatch(data, rows.astype(np.uint64), rows, rows, np.ones(3, np.float32), np.zeros((3, 3), np.int64))
    tensors = algorithm._to_device(batch)
    noise = algorithm._draw(*tensors.is_first.shape)
    losses, _, _ = algorithm._losses(tensors, replace(noise, action=torch.full_like(noise.action, 0.7)))
    total = torch.stack(list(losses.values())).sum()
    total.backward()

    expected = part(golden, "loss/")
    measured = {name: loss.item() for name, loss in losses.items()} | {"total": total.item()}
    assert measured == {name: pytest.approx(float(value), rel=1e-5) for name, value in expected.items()}
    np.testing.assert_allclose(algorithm.return_range.average.flip(0).numpy(), golden["return_range"], rtol=1e-5)
    assert_gradients_equal(algorithm, part(golden, "gradient/"))


def assert_gradients_equal(algorithm: DreamerAlgorithm, expected: Arrays) -> None:
    """Every gradient to 2e-4 of its largest entry; the files lack that of one bias alone."""
    gradients = {
        f"{prefix}/{name}": parameter.grad
        for prefix, module in algorithm._modules().items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    assert set(gradients) - set(expected) == {"world/decoder.vector_out.bias"}
    for name, reference in expected.items():
        gradient = gradients[name]
        assert gradient is not None, name
        np.testing.assert_allclose(
            gradient.numpy(), reference, rtol=0, atol=2e-4 * np.abs(reference).max(), err_msg=name
        )
