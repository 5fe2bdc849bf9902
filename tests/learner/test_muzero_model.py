"""The model of MuZero: shapes, the range of its latents, its first predictions, the memory of the value prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from envs.specs import ArraySpec, EnvSpec
from learner.models.distributions import BoundedNormal, OneHot
from learner.models.muzero import MuZeroModel
from learner.models.muzero_config import GaussianConfig
from learner.models.muzero_network import normalise_latent
from tests.learner.muzeros import IDS, IMAGE, SPEC, tiny

ONLY_IMAGE = replace(IMAGE, observation={"image": IMAGE.observation["image"]})


def observe(spec: EnvSpec, rows: int) -> dict[str, torch.Tensor]:
    made = {"state": torch.randn(rows, 4)}
    if "image" in spec.observation:
        made["image"] = torch.randint(0, 256, (rows, 16, 16, 3), dtype=torch.uint8)
    return made


@pytest.mark.parametrize("spec", [SPEC, IDS, IMAGE, ONLY_IMAGE], ids=["box", "ids", "image and state", "image"])
@pytest.mark.parametrize("name", ["muzero", "efficientzero"])
def test_latents_stay_between_zero_and_one_and_first_predictions_are_even(name: str, spec: EnvSpec) -> None:
    config = tiny(name)
    model = MuZeroModel(config.model, spec)
    with torch.no_grad():
        latent = model.represent(observe(spec, 3))
        for _ in range(4):
            assert latent.state.shape == ((3, 4, 4, 4) if "image" in spec.observation else (3, 8))
            flat = latent.state.flatten(1)
            assert flat.amin(1).tolist() == [0.0] * 3
            assert flat.amax(1).tolist() == pytest.approx([1.0] * 3)
            policy, value = model.predict(latent.state)
            assert value.mean.tolist() == [0.0] * 3
            if isinstance(policy, OneHot):
                torch.testing.assert_close(policy.probs, torch.full((3, 3), 1 / 3))
            else:
                assert isinstance(policy, BoundedNormal)
                assert policy.mean.tolist() == [[0.0, 0.0]] * 3
            before = latent
            latent, reward = model.step(latent, torch.zeros(3, model.action.size))
            assert model.received(before, reward).tolist() == [0.0] * 3


def test_features_of_vectors_begin_with_different_biases() -> None:
    bias = MuZeroModel(tiny("muzero").model, IDS).representation.vector.bias
    assert len(set(bias.tolist())) == len(bias)


def test_there_is_no_decoder() -> None:
    parts = {name.partition(".")[0] for name, _ in MuZeroModel(tiny("efficientzero").model, IMAGE).named_parameters()}
    assert parts == {"representation", "dynamics", "reward", "value", "policy", "projection"}


def test_actions_change_the_next_latent() -> None:
    for spec in (IDS, IMAGE):
        model = MuZeroModel(tiny("muzero").model, spec)
        latent = model.represent(observe(spec, 1))
        following = [model.step(latent, torch.eye(3)[index : index + 1])[0].state for index in range(3)]
        assert not torch.equal(following[0], following[1])
        assert not torch.equal(following[1], following[2])


def test_a_flat_latent_is_zero_and_not_nan() -> None:
    assert normalise_latent(torch.tensor([[2.0, 2.0], [1.0, 3.0]])).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_the_memory_of_a_prefix_holds_the_sum_and_the_steps() -> None:
    config = tiny("efficientzero")
    model = MuZeroModel(config.model, IDS)
    assert config.network.prefix is not None
    units = config.network.prefix.units
    latent = model.represent(observe(IDS, 2))
    assert not latent.memory.any()
    for step in (1.0, 2.0, 3.0):
        latent, predicted = model.step(latent, torch.eye(3)[:2])
        assert latent.memory.shape == (2, 2 * units + 2)
        assert latent.memory[:, -1].tolist() == [step] * 2
        torch.testing.assert_close(latent.memory[:, -2], predicted.mean)
    assert MuZeroModel(tiny("muzero").model, IDS).represent(observe(IDS, 2)).memory.shape == (2, 0)


def test_refuses_deviations_out_of_order_and_images_that_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match=r"min_std must be below max_std 0.5, got 0.5"):
        GaussianConfig(0.5, 0.5)
    odd = replace(IDS, observation={"image": ArraySpec((18, 16, 3), "uint8", 0, 255)})
    with pytest.raises(ValueError, match="multiple of 4"):
        MuZeroModel(tiny("muzero").model, odd)
