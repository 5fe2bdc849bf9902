"""One step of the RSSM against a NumPy twin written from the papers, and what an episode's start resets.

The twins: block GRU, prior and posterior of Hafner et al. 2025 (Methods, "RSSM"); the GRU with normalised gates of
Hafner et al. 2021 and the one of Hafner et al. 2020, which resets the memory alone; the Gaussian latents of Hafner et
al. 2019.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from learner.models.rssm import BlockGru, Gru, Rssm, State
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import SIZES, Architecture, Dimensions, NormName

Array = NDArray[np.float64]
SIZES_HERE = Dimensions(deter=12, hidden=5, classes=3, depth=1, units=1)
GROUPS, BLOCKS, TOKENS, ACTION = 4, 3, 6, 2
KINDS = list(product(["categorical", "gaussian"], ["block_gru", "gru"], ["rms", "layer", "none"]))


def make(latent: Any, cell: Any, norm: NormName = "rms", layers: int = 2, **changes: Any) -> Rssm:
    """A model whose every parameter, also norms and biases, is random."""
    config = RssmConfig(
        latent, cell, GROUPS, BLOCKS, prior_layers=layers, posterior_layers=layers, unimix=0.1, **changes
    )
    rssm = Rssm(config, TOKENS, ACTION, Architecture(SIZES_HERE, norm)).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in rssm.parameters():
        nn.init.normal_(parameter, 0.2, 0.5, generator)
    return rssm


class Twin:
    """The RSSM in NumPy, one row at a time."""

    def __init__(self, rssm: Rssm, norm: str) -> None:
        self.rssm, self.norm_name = rssm, norm

    def step(self, deter: Array, stoch: Array, action: Array) -> Array:
        """The next deterministic state."""
        action = np.clip(action, -1.0, 1.0)
        cell = self.rssm.cell
        if isinstance(cell, BlockGru):
            seen = [
                self.dense(cell.deter_in, deter),
                self.dense(cell.stoch_in, stoch),
                self.dense(cell.action_in, action),
            ]
            inputs = np.concatenate(seen)
            weight, shared = array(cell.hidden.weight), array(cell.hidden.shared)
            x = self.blocks(deter, weight) + shared @ inputs + array(cell.hidden.bias)
            x = silu(self.norm(cell.norm, x))
            gates = self.blocks(x, array(cell.gates.weight)) + array(cell.gates.bias)
            per_block = gates.reshape(BLOCKS, 3, -1)  # each block has its own three gates
            reset, candidate, update = (per_block[:, i].reshape(-1) for i in range(3))
        else:
            assert isinstance(cell, Gru)
            x = self.dense(cell.input, np.concatenate([stoch, action]))
            if cell.memory is not None:
                seen, kept = np.split(linear(cell.gates, x), 3), np.split(linear(cell.memory, deter), 3)
                proposal = np.tanh(seen[1] + sigmoid(seen[0] + kept[0]) * kept[1])
                keep = 1.0 - sigmoid(seen[2] + kept[2] + self.rssm.config.update_bias)
                return keep * deter + (1.0 - keep) * proposal
            gates = self.norm(cell.norm, linear(cell.gates, np.concatenate([x, deter])))
            reset, candidate, update = np.split(gates, 3)
        keep = 1.0 - sigmoid(update + self.rssm.config.update_bias)
        return keep * deter + (1.0 - keep) * np.tanh(sigmoid(reset) * candidate)

    def prior(self, deter: Array) -> Array:
        for layer in self.rssm.prior_net:
            deter = self.dense(layer, deter)
        return linear(self.rssm.prior_out, deter)

    def posterior(self, deter: Array, tokens: Array) -> Array:
        x = np.concatenate([deter, tokens])
        for layer in self.rssm.posterior_net:
            x = self.dense(layer, x)
        return linear(self.rssm.posterior_out, x)

    def sample(self, statistics: Array, noise: Array) -> Array:
        if self.rssm.config.latent == "gaussian":
            mean, raw = np.split(statistics, 2)
            return mean + (np.log1p(np.exp(raw)) + 0.1) * noise
        logits = statistics.reshape(GROUPS, 3)
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        probs = 0.9 * probs + 0.1 / 3.0
        ids = [np.searchsorted(np.cumsum(p), eps, side="right") for p, eps in zip(probs, noise, strict=True)]
        return np.eye(3)[ids].reshape(-1)

    def dense(self, layer: Any, x: Array) -> Array:
        return silu(self.norm(layer.norm, linear(layer.linear, x)))

    def norm(self, norm: Any, x: Array) -> Array:
        if self.norm_name == "rms":
            return x / np.sqrt(np.mean(x**2) + 1e-4) * array(norm.scale)
        if self.norm_name == "layer":
            return (x - x.mean()) / np.sqrt(x.var() + 1e-3) * array(norm.weight) + array(norm.bias)
        return x

    @staticmethod
    def blocks(x: Array, weight: Array) -> Array:
        """A matrix with the blocks on its diagonal, times x."""
        groups, inputs, outputs = weight.shape
        whole = np.zeros((groups * outputs, groups * inputs))
        for g in range(groups):
            whole[g * outputs : (g + 1) * outputs, g * inputs : (g + 1) * inputs] = weight[g].T
        return whole @ x


def array(parameter: Any) -> Array:
    return parameter.detach().numpy()  # type: ignore[no-any-return]


def linear(layer: Any, x: Array) -> Array:
    return array(layer.weight) @ x + array(layer.bias)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def sequences(rssm: Rssm, rows: int = 3, steps: int = 4) -> dict[str, Any]:
    """Inputs of `filter_posterior`; some actions leave [-1, 1]."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    categorical = rssm.config.latent == "categorical"
    noise = torch.rand(rows, steps, GROUPS, generator=generator, dtype=torch.float64)
    is_first = torch.zeros(rows, steps, dtype=torch.bool)
    is_first[0, 2] = is_first[1, 0] = True
    return {
        "tokens": normal(rows, steps, TOKENS),
        "action": 1.5 * normal(rows, steps, ACTION),
        "is_first": is_first,
        "state": State(normal(rows, rssm.deter), normal(rows, rssm.stoch)),
        "noise": noise if categorical else normal(rows, steps, GROUPS),
    }


@pytest.mark.parametrize(("latent", "cell", "norm"), KINDS)
def test_filtering_equals_the_twin(latent: str, cell: str, norm: NormName) -> None:
    rssm = make(latent, cell, norm)
    twin, inputs = Twin(rssm, norm), sequences(rssm)
    states, statistics = rssm.filter_posterior(**inputs)
    for n in range(3):
        deter, stoch = (part[n].numpy() for part in inputs["state"])
        for t in range(4):
            action = inputs["action"][n, t].numpy()
            if inputs["is_first"][n, t]:
                deter, stoch, action = np.zeros(12), np.zeros(rssm.stoch), np.zeros(ACTION)
            deter = twin.step(deter, stoch, action)
            expected = twin.posterior(deter, inputs["tokens"][n, t].numpy())
            stoch = twin.sample(expected, inputs["noise"][n, t].numpy())
            np.testing.assert_allclose(array(states.deter[n, t]), deter, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(array(statistics[n, t]), expected, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(array(states.stoch[n, t]), stoch, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("latent", "cell", "norm"), KINDS)
def test_a_step_without_an_observation_equals_the_twin(latent: str, cell: str, norm: NormName) -> None:
    rssm = make(latent, cell, norm)
    twin, inputs = Twin(rssm, norm), sequences(rssm)
    state, action, noise = inputs["state"], inputs["action"][:, 0], inputs["noise"][:, 0]
    after = rssm.step(state, action, noise)
    for n in range(3):
        deter = twin.step(state.deter[n].numpy(), state.stoch[n].numpy(), action[n].numpy())
        stoch = twin.sample(twin.prior(deter), noise[n].numpy())
        np.testing.assert_allclose(array(after.deter[n]), deter, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(array(after.stoch[n]), stoch, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("update_bias", [0.0, -1.0])
def test_a_gru_that_resets_its_memory_alone_equals_the_twin(update_bias: float) -> None:
    """The cell of Dreamer v1 (no bias) and of PlaNet."""
    rssm = make("gaussian", "gru", "none", reset="memory", update_bias=update_bias)
    twin, inputs = Twin(rssm, "none"), sequences(rssm)
    state, action = inputs["state"], inputs["action"][:, 0]
    after = rssm.step(state, action, inputs["noise"][:, 0])
    states, _ = rssm.filter_posterior(**(inputs | {"is_first": torch.zeros(3, 4, dtype=torch.bool)}))
    for n in range(3):
        deter = twin.step(state.deter[n].numpy(), state.stoch[n].numpy(), action[n].numpy())
        np.testing.assert_allclose(array(after.deter[n]), deter, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(array(states.deter[n, 0]), deter, rtol=1e-9, atol=1e-12)


def test_the_gates_may_have_the_only_norm() -> None:
    """As in Dreamer v2."""
    rssm = make("categorical", "gru", "none", gru_norm="layer")
    norms = [name for name, module in rssm.named_modules() if isinstance(module, nn.LayerNorm)]
    assert norms == ["cell.norm"]


@pytest.mark.parametrize(
    ("changes", "norm", "message"),
    [
        ({"cell": "gru"}, "layer", "rssm.reset 'memory' needs rssm.gru_norm 'none', got 'layer'"),
        ({"cell": "block_gru"}, "none", "reset 'memory' is a choice of cell 'gru', got cell 'block_gru'"),
    ],
)
def test_only_plain_gates_reset_the_memory_alone(changes: Any, norm: NormName, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("gaussian", changes["cell"], norm, reset="memory")


@pytest.mark.parametrize(("latent", "cell"), list(product(["categorical", "gaussian"], ["block_gru", "gru"])))
def test_an_episode_start_forgets_the_state_and_the_action_before(latent: str, cell: str) -> None:
    rssm = make(latent, cell)
    inputs = sequences(rssm)
    inputs["is_first"][:] = False
    inputs["is_first"][:, 2] = True

    def after_start(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        states, statistics = rssm.filter_posterior(**(inputs | changes))
        return states.features[:, 2:], statistics[:, 2:]

    other_action = inputs["action"].clone()
    other_action[:, :3] += 1.0
    expected = after_start()
    for changes in ({"action": other_action}, {"state": State(*(part + 1.0 for part in inputs["state"]))}):
        for ours, theirs in zip(expected, after_start(**changes), strict=True):
            assert torch.equal(ours, theirs)
    none = inputs | {name: inputs[name][:, 2:] for name in ("tokens", "action", "is_first", "noise")}
    states, _ = rssm.filter_posterior(**(none | {"state": rssm.initial(3)}))
    torch.testing.assert_close(states.features, expected[0])


def test_gradients_do_not_cross_an_episode_start() -> None:
    rssm = make("gaussian", "block_gru")
    inputs = sequences(rssm)
    inputs["is_first"][:] = False
    inputs["is_first"][:, 2] = True
    inputs["tokens"].requires_grad_()
    states, _ = rssm.filter_posterior(**inputs)
    (gradient,) = torch.autograd.grad(states.features[:, 3].sum(), inputs["tokens"])
    assert gradient[:, 2].any()
    assert not gradient[:, :2].any()


@pytest.mark.parametrize(
    ("config", "moved"),
    [
        (RssmConfig(blocks=3), 1.0 / (1.0 + np.e)),
        (RssmConfig(cell="gru"), 1.0 / (1.0 + np.e)),
        (RssmConfig(cell="gru", update_bias=0.0), 0.5),
        (RssmConfig(blocks=3, update_bias=0.0), 0.5),
    ],
)
def test_the_memory_starts_biased_to_be_kept(config: RssmConfig, moved: float) -> None:
    """With all gates at 0 the update gate is the sigmoid of its bias."""
    kind = BlockGru if config.cell == "block_gru" else Gru
    cell = kind(4, 2, config, Architecture(SIZES_HERE, "none"))
    nn.init.zeros_(cell.gates.weight)
    before = torch.linspace(-1, 1, 24).view(2, 12)
    after = cell(before, torch.ones(2, 4), cell.embed_action(torch.ones(2, 2)))
    torch.testing.assert_close(after, before * (1.0 - moved))


def test_packed_latents_come_back() -> None:
    categorical, gaussian = make("categorical", "gru"), make("gaussian", "gru")
    states, _ = categorical.filter_posterior(**sequences(categorical))
    packed = categorical.pack(states)
    assert packed["latent_deter"].dtype == torch.float16
    assert packed["latent_stoch"].dtype == torch.uint8
    assert packed["latent_stoch"].shape == (3, 4, GROUPS)
    back = categorical.unpack(packed, torch.float64)
    assert torch.equal(back.stoch, states.stoch.round())
    torch.testing.assert_close(back.deter, states.deter, rtol=1e-3, atol=1e-6)
    states, _ = gaussian.filter_posterior(**sequences(gaussian))
    packed = gaussian.pack(states)
    assert packed["latent_stoch"].dtype == torch.float16
    torch.testing.assert_close(gaussian.unpack(packed, torch.float64).stoch, states.stoch, rtol=1e-3, atol=1e-6)


def test_ids_of_the_largest_size_fit_a_byte() -> None:
    rssm = Rssm(RssmConfig(groups=2), 4, 2, Architecture(Dimensions(16, 8, 256, 1, 1)))
    one_hot = torch.eye(256)[[255, 128]].view(1, 512)
    packed = rssm.pack(State(torch.zeros(1, 16), one_hot))
    assert packed["latent_stoch"].tolist() == [[255, 128]]
    assert torch.equal(rssm.unpack(packed, torch.float32).stoch, one_hot)
    assert max(dimensions.classes for dimensions in SIZES.values()) <= 256
    with pytest.raises(ValueError, match="classes must be"):
        Dimensions(classes=257)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "mixture"}, "'mixture'"),
        ({"cell": "lstm"}, "'lstm'"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"unimix": 1.0}, "unimix must be less than 1, got 1.0"),
        ({"min_std": 0.0}, "min_std must be greater than 0, got 0.0"),
    ],
)
def test_refuses_what_makes_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RssmConfig(**options)


def test_refuses_sizes_that_do_not_divide_into_blocks() -> None:
    with pytest.raises(ValueError, match="12 and 12 are not multiples of 5"):
        Rssm(RssmConfig(blocks=5), TOKENS, ACTION, Architecture(SIZES_HERE))
