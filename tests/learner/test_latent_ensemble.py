"""Models with a coder: shapes, what trains what, files, the record that planners take."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.coder_observer import CoderObserver
from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.pets import PetsAlgorithm, make_model
from learner.algorithms.pets_config import PetsConfig
from learner.batch import SequenceBatch
from learner.losses.coding import code_rows, coding_losses
from learner.models.coder import Coder
from learner.models.coder_config import CoderConfig
from learner.models.ensemble_config import EnsembleConfig
from learner.models.latent_ensemble import LatentEnsemble
from learner.models.members import load_member, save_members
from learner.optim_config import OptimConfig
from native import Ensemble as NativeEnsemble
from tests.learner.streams import SPEC, make_batch, make_stream

VECTOR = ArraySpec((4,), "float32")
IMAGE = ArraySpec((8, 8, 3), "uint8", 0.0, 255.0)
CONFIG = PetsConfig(
    ensemble=EnsembleConfig(2, (16,), "tanh", termination=True),
    coder=CoderConfig(6, (16,)),
    optimizer=OptimConfig(lr=1e-2),
    validation_fraction=0.2,
)


def model(**coder: Any) -> LatentEnsemble:
    made = make_model(replace(CONFIG, coder=replace(CoderConfig(6, (16,)), **coder)), VECTOR, 2, seed=3)
    assert isinstance(made, LatentEnsemble)
    return made


def batches(count: int) -> list[SequenceBatch]:
    streams, rng = [make_stream(seed) for seed in range(3)], np.random.default_rng(0)
    return [make_batch(streams, 16, 9, rng) for _ in range(count)]


def test_a_latent_model_learns_to_rebuild_and_to_predict_observations() -> None:
    algorithm = PetsAlgorithm(CONFIG, SPEC, torch.device("cpu"), seed=1)
    first, *_, last = [algorithm.update(batch).metrics for batch in batches(300)]
    assert last["loss_reconstruction"] < 0.1 * first["loss_reconstruction"]
    assert last["loss_prediction"] < 0.1 * first["loss_prediction"]
    assert {"loss_reconstruction_member_1", "loss_state_member_1"} <= last.keys()
    states = torch.from_numpy(make_stream(9)["state"])
    with torch.no_grad():
        error = algorithm.model.decode(algorithm.model.observe(states)) - states
    assert error.square().mean() < 0.05 * states.var(0).mean()


def test_dynamics_train_the_coder_only_where_it_is_shared() -> None:
    observation, target = torch.randn(5, 4), torch.randn(5, 5)
    for shared in (True, False):
        coded = code_rows(made := model(shared=shared), observation, target)
        assert not coded.target.requires_grad
        assert coded.latent.requires_grad == shared
        assert coded.sample.requires_grad
        assert made.coder.config.shared == shared


def test_the_divergence_counts_more_and_more() -> None:
    made = model(variational=True)
    coded = code_rows(made, torch.randn(5, 4), torch.randn(5, 5), sample=True)
    prediction = made(coded.latent, torch.randn(5, 2))
    config = replace(CONFIG.loss, kl_scale=2.0, kl_warmup=10)
    scales = [coding_losses(config, made, coded, prediction, updates)["kl"][0] for updates in (0, 5, 10, 99)]
    assert scales == [0.0, 1.0, 2.0, 2.0]


def test_a_variational_code_is_drawn_in_training_alone() -> None:
    made, observation, target = model(variational=True), torch.randn(5, 4), torch.randn(5, 5)
    assert not torch.equal(*(code_rows(made, observation, target, sample=True).latent for _ in range(2)))
    assert torch.equal(code_rows(made, observation, target).latent, made.observe(observation))


def test_divergence_is_that_of_normals() -> None:
    coder = Coder(CoderConfig(3, (8,), variational=True), VECTOR)
    code = coder.encode(torch.randn(7, 4))
    assert code.logvar is not None
    normal = torch.distributions.Normal(code.mean, torch.exp(0.5 * code.logvar))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean(-1)
    torch.testing.assert_close(code.divergence(), expected)


def test_images_are_coded_and_decoded_in_their_own_units() -> None:
    coder = Coder(CoderConfig(32, channels=(4, 8)), IMAGE)
    flat = torch.randint(0, 256, (3, IMAGE.size)).float()
    assert coder.encode(flat).mean.shape == (3, 32)
    assert coder.units(flat).abs().max() <= 0.5
    assert coder.decode(torch.zeros(2, 3, 32)).shape == (2, 3, IMAGE.size)
    torch.testing.assert_close(coder.units(coder.decode(torch.zeros(1, 32))), coder.decode_units(torch.zeros(1, 32)))


def test_images_that_do_not_halve_are_refused_and_odd_latents_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="images of 8 x 8 are no multiple of 16"):
        Coder(CoderConfig(32), IMAGE)
    make_model(replace(CONFIG, coder=CoderConfig(16, channels=(4,))), IMAGE, 2)
    assert "coder.size 16 is outside [32, 128]" in caplog.text


def test_planners_get_the_dynamics_and_policies_the_coder() -> None:
    made = model()
    observer = CoderObserver(made.coder.config, VECTOR)
    weights = observer.update(made.export())
    native = NativeEnsemble(weights)
    assert native.action_size == 2
    states = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    latent = observer(states)
    np.testing.assert_allclose(latent, made.observe(torch.from_numpy(states)).detach().numpy(), rtol=1e-6)
    actions = np.zeros((3, 1, 1, 2), np.float32)
    returns = native.rollout(
        latent, actions, np.zeros(3, np.uint64), particles=2, propagation="ts_inf", gamma=1.0, sample=False
    )
    step = made.imagine(torch.from_numpy(latent), torch.zeros(3, 2))
    np.testing.assert_allclose(returns[:, 0].T, step.reward.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_member_files_hold_the_coder(tmp_path: Path) -> None:
    made = model()
    states = torch.randn(3, 4)
    for member, path in enumerate(save_members(made, tmp_path)):
        loaded = load_member(path)
        torch.testing.assert_close(loaded.observe(states), made.observe(states))
        latent, action = made.observe(states), torch.randn(3, 2)
        torch.testing.assert_close(loaded.predict(latent, action).mean[0], made.predict(latent, action).mean[member])


def test_a_resumed_latent_model_goes_on_as_if_it_had_not_stopped() -> None:
    variational = replace(CONFIG, coder=CoderConfig(6, (16,), variational=True), average_decay=0.9)
    one, other = (PetsAlgorithm(variational, SPEC, torch.device("cpu"), seed=1) for _ in range(2))
    data = batches(6)
    torch.manual_seed(0)
    for batch in data[:3]:
        one.update(batch)
    state, numbers = one.state_dict(), torch.get_rng_state()
    expected = [one.update(batch).metrics for batch in data[3:]]
    other.load_state_dict(state)
    torch.set_rng_state(numbers)
    assert [other.update(batch).metrics for batch in data[3:]] == expected


def test_an_environment_without_the_observation_is_refused() -> None:
    spec = EnvSpec("pixels", {"image": IMAGE}, SPEC.action, 10, 0.1)
    with pytest.raises(ValueError, match="has no observation 'state'"):
        PetsAlgorithm(CONFIG, spec, torch.device("cpu"), seed=0)
