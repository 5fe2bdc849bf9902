"""Encoder and decoder of images, vectors, ids and dicts of them; sizes of whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer import Behaviour
from learner.algorithms.dreamer_config import DreamerConfig
from learner.models.layers import GroupedLinear, initialise
from learner.models.observation import Decoder, Encoder, ObservationKeys, convolve_upsampled
from learner.models.observation_config import ObservationConfig
from learner.models.rssm import State
from learner.models.sizes import SIZES, Architecture, Dimensions, SizeName
from learner.models.world_model import ActionCodec, WorldModel

SMALL = Architecture(Dimensions(deter=16, hidden=8, classes=4, depth=2, units=8))
IMAGES = {"camera": ArraySpec((16, 16, 3), "uint8", 0, 255), "depth": ArraySpec((16, 16, 1), "uint8", 0, 255)}
VECTORS = {
    "state": ArraySpec((3,), "float32"),
    "grid": ArraySpec((2, 2), "float64"),
    "mode": ArraySpec((), "int64", num_values=5),
    "switches": ArraySpec((2,), "int64", num_values=3),
}
CONFIG = ObservationConfig(layers=2, multipliers=(2, 4))


def count(spec: EnvSpec, size: SizeName) -> int:
    """Trained parameters of DreamerV3."""
    config = DreamerConfig(size=size)
    world = WorldModel(config.world_model, spec)
    behaviour = Behaviour(config, spec, world.rssm.features)
    return sum(p.numel() for module in (world, behaviour) for p in module.parameters() if p.requires_grad)


def spec_of(observation: dict[str, ArraySpec], actions: int) -> EnvSpec:
    return EnvSpec("test", observation, ArraySpec((actions,), "float32", -1.0, 1.0))


def test_parameter_counts_are_the_published_ones() -> None:
    image = {"image": ArraySpec((64, 64, 3), "uint8", 0, 255)}
    assert count(spec_of({"state": ArraySpec((24,), "float32")}, 6), "1m") == 640_867
    assert count(spec_of(image, 3), "1m") == 686_264
    assert count(spec_of(image, 3), "12m") == 10_491_848


def test_sizes_are_the_published_ones() -> None:
    table = {name: (s.deter, s.hidden, s.classes, s.depth, s.units) for name, s in SIZES.items()}
    assert table == {
        "1m": (512, 64, 4, 4, 64),
        "12m": (2048, 256, 16, 16, 256),
        "25m": (3072, 384, 24, 24, 384),
        "50m": (4096, 512, 32, 32, 512),
        "100m": (6144, 768, 48, 48, 768),
        "200m": (8192, 1024, 64, 64, 1024),
        "400m": (12288, 1536, 96, 96, 1536),
    }


def observations(rows: int = 5) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        "camera": torch.from_numpy(rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8)),
        "depth": torch.from_numpy(rng.integers(0, 256, (rows, 16, 16, 1), dtype=np.uint8)),
        "state": torch.from_numpy(rng.normal(size=(rows, 3)).astype(np.float32)),
        "grid": torch.from_numpy(rng.normal(size=(rows, 2, 2))),
        "mode": torch.from_numpy(rng.integers(0, 5, rows)),
        "switches": torch.from_numpy(rng.integers(0, 3, (rows, 2))),
    }


def networks(
    observation: dict[str, ArraySpec], config: ObservationConfig = CONFIG
) -> tuple[ObservationKeys, Encoder, Decoder]:
    torch.manual_seed(0)
    keys = ObservationKeys.of(observation, config)
    return keys, Encoder(keys, config, SMALL), Decoder(keys, config, 16, SMALL)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("chosen", "tokens"),
    [
        (["state"], 8),
        (["mode"], 8),
        (["camera"], 4 * 4 * 8),
        (["camera", "depth"], 4 * 4 * 8),
        (["state", "grid", "mode", "switches"], 8),
        (["camera", "depth", "state", "grid", "mode", "switches"], 8 + 4 * 4 * 8),
    ],
)
def test_every_key_is_encoded_and_decoded(chosen: list[str], tokens: int, strided: bool) -> None:
    observation = {key: (IMAGES | VECTORS)[key] for key in chosen}
    _, encoder, decoder = networks(observation, replace(CONFIG, strided=strided))
    raw = observations()
    encoded = encoder(raw)
    assert encoded.shape == (5, tokens) == (5, encoder.tokens)
    state = State(torch.randn(5, 16), torch.randn(5, 16))
    losses = decoder.losses(state, raw)
    assert losses.keys() == observation.keys()
    assert all(loss.shape == (5,) and bool((loss > 0).all()) for loss in losses.values())
    heads = decoder(state)
    widths = {"state": (3,), "grid": (4,), "mode": (5,), "switches": (6,), "camera": (16, 16, 3), "depth": (16, 16, 1)}
    assert {key: tuple(head.mean.shape[1:]) for key, head in heads.items()} == {key: widths[key] for key in chosen}
    for key in chosen:
        other = {**raw, key: raw[key].flip(0)}
        assert not torch.equal(encoder(other), encoded), key
        sum(decoder.losses(state, raw).values()).sum().backward()  # type: ignore[union-attr, no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.any()) for p in decoder.parameters())


def test_losses_are_squares_or_cross_entropies_summed_over_a_key() -> None:
    _, _, decoder = networks(IMAGES | VECTORS)
    raw, state = observations(), State(torch.randn(5, 16), torch.randn(5, 16))
    heads, losses = decoder(state), decoder.losses(state, raw)
    for key in IMAGES:
        expected = (heads[key].mean - raw[key] / 255.0).square().sum((1, 2, 3))
        torch.testing.assert_close(losses[key], expected)
        assert 0.0 < heads[key].mean.min() < heads[key].mean.max() < 1.0
    for key, target in {"state": raw["state"], "grid": raw["grid"].float().flatten(1)}.items():
        mean = heads[key].mean  # symexp of the prediction
        squashed, wanted = (torch.sign(x) * torch.log1p(x.abs()) for x in (mean, target))
        torch.testing.assert_close(losses[key], (squashed - wanted).square().sum(1), rtol=1e-4, atol=1e-5)
    ids = {"mode": torch.eye(5)[raw["mode"]], "switches": torch.eye(3)[raw["switches"]].flatten(1)}
    for key, chosen in ids.items():
        torch.testing.assert_close(losses[key], -(heads[key].mean.log() * chosen).sum(1))


def test_images_may_be_unbounded_and_vectors_unsquashed() -> None:
    config = replace(CONFIG, sigmoid=False, symlog=False, strided=True)
    _, _, decoder = networks({"camera": IMAGES["camera"], "state": VECTORS["state"]}, config)
    state = State(50.0 * torch.randn(5, 16), torch.zeros(5, 16))
    raw, heads = observations(), decoder(state)
    assert heads["camera"].mean.max() > 1.0
    assert heads["camera"].mean.min() < 0.0
    expected = (heads["state"].mean - raw["state"]).square().sum(1)
    torch.testing.assert_close(decoder.losses(state, raw)["state"], expected)


def test_the_first_image_of_the_decoder_holds_the_groups_side_by_side() -> None:
    """A group of the deterministic state gives its share of the channels, everywhere in the image."""
    _, _, decoder = networks({"camera": IMAGES["camera"]}, replace(CONFIG, groups=4))
    seen: list[Tensor] = []
    decoder.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    state = State(torch.randn(2, 16), torch.randn(2, 16))
    decoder(state)
    state.deter[:, 4:8] += 1.0  # the second of four groups
    decoder(state)
    changed = (seen[0] != seen[1]).all((0, 1, 2))
    assert seen[0].shape == (2, 4, 4, 8)
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_convolution_of_the_upsampled_image_needs_no_upsampled_image(kernel: int) -> None:
    torch.manual_seed(0)
    shapes = (2, 3, 4, 6), (5, 3, kernel, kernel), (5,)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    actual = convolve_upsampled(x, weight, bias)
    large = torch.nn.functional.interpolate(x, scale_factor=2.0)
    expected = torch.nn.functional.conv2d(large, weight, bias, padding=kernel // 2)
    torch.testing.assert_close(actual, expected)
    error = torch.randn_like(expected)
    gradients = (torch.autograd.grad(y, (x, weight, bias), error) for y in (actual, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_ids_are_not_squashed() -> None:
    """symlog of a one-hot vector would be ln 2 where it is 1."""
    keys = ObservationKeys.of({key: VECTORS[key] for key in ("mode", "state")}, CONFIG)
    raw = {"mode": torch.tensor([2]), "state": torch.tensor([[np.e - 1.0, 0.0, 1.0 - np.e]]).float()}
    expected = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, -1.0]])
    torch.testing.assert_close(keys.vector(raw, torch.float32, squash=True), expected)
    _, encoder, _ = networks({key: VECTORS[key] for key in ("mode", "state")})
    seen: list[Tensor] = []
    encoder.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(raw)
    torch.testing.assert_close(seen[0], expected)


def test_all_vectors_share_one_input_matrix() -> None:
    """Whose norm bounds its gradient: the keys have no norms of their own."""
    _, encoder, _ = networks(VECTORS)
    assert [name for name, p in encoder.named_parameters() if p.dim() == 2] == [
        "mlp.0.linear.weight",
        "mlp.1.linear.weight",
    ]
    assert encoder.mlp[0].linear.weight.shape == (8, 3 + 4 + 5 + 6)


def test_chosen_keys_come_in_the_order_of_their_names() -> None:
    keys = ObservationKeys.of(IMAGES | VECTORS, replace(CONFIG, keys=("state", "camera", "mode")))
    assert (list(keys.images), list(keys.vectors)) == (["camera"], ["mode", "state"])
    assert (keys.vector_size, keys.channels, keys.image_size) == (8, 3, (16, 16))
    raw = observations()
    vector = keys.vector(raw, torch.float32)
    torch.testing.assert_close(vector, torch.cat([torch.eye(5)[raw["mode"]], raw["state"]], 1))
    image = keys.image(raw, torch.float32)
    torch.testing.assert_close(image, raw["camera"] / 255.0)


@pytest.mark.parametrize(
    ("observation", "config", "message"),
    [
        (VECTORS, replace(CONFIG, keys=("lidar",)), "unknown observation key 'lidar'"),
        ({"image": ArraySpec((18, 16, 3), "uint8")}, CONFIG, "multiple of 4"),
        ({**IMAGES, "large": ArraySpec((32, 32, 3), "uint8")}, CONFIG, r"share a size.*\(16, 16\), \(32, 32\)"),
    ],
)
def test_refuses_observations_that_do_not_fit(
    observation: dict[str, ArraySpec], config: ObservationConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ObservationKeys.of(observation, config)


def test_refuses_groups_that_do_not_divide_the_first_image() -> None:
    with pytest.raises(ValueError, match="8 channels of the decoder's first image are no multiple of 16 groups"):
        networks(IMAGES, replace(CONFIG, groups=16))


@pytest.mark.parametrize("options", [{"layers": 0}, {"kernel": 4}, {"multipliers": ()}, {"groups": 0}])
def test_refuses_what_makes_no_network(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ObservationConfig(**options)


def test_initial_weights_are_truncated_and_scaled_by_their_inputs() -> None:
    torch.manual_seed(0)
    weight = torch.empty(1000, 400)
    initialise(weight, 400)
    assert weight.std().item() == pytest.approx(1.0 / 20.0, rel=0.01)
    assert weight.abs().max().item() <= 2.0 * 1.1369 / 20.0
    initialise(weight, 400, 0.0)
    assert not weight.any()


def test_a_grouped_map_is_block_diagonal_beside_what_all_groups_share() -> None:
    torch.manual_seed(0)
    layer = GroupedLinear(6, 9, 3, shared=2)
    x, shared = torch.randn(4, 6), torch.randn(4, 2)
    assert layer.shared is not None
    expected = torch.block_diag(*(block.T for block in layer.weight)) @ x.T + layer.shared @ shared.T
    torch.testing.assert_close(layer(x, shared), expected.T + layer.bias)
    with pytest.raises(ValueError, match="7 and 9 are not multiples of 3"):
        GroupedLinear(7, 9, 3)


def test_grouped_weights_start_with_the_fan_in_of_all_groups() -> None:
    torch.manual_seed(0)
    layer = GroupedLinear(400, 1600, 4, shared=300)  # 4 * (100 + 300) = 40 ** 2
    assert layer.shared is not None
    assert layer.weight.std().item() == pytest.approx(1.0 / 40.0, rel=0.01)
    assert layer.shared.std().item() == pytest.approx(1.0 / 40.0, rel=0.01)
    assert not layer.bias.any()


def test_actions_of_any_box_become_its_unit_box_and_come_back() -> None:
    codec = ActionCodec(ArraySpec((3,), "float32", (-0.1, 0.0, -5.0), (0.3, 1.0, 7.0)))
    stored = torch.tensor([[-0.1, 0.5, 7.0], [0.1, 0.0, 1.0]])
    encoded = codec.encode(stored[None], torch.float32)
    torch.testing.assert_close(encoded[0], torch.tensor([[-1.0, 0.0, 1.0], [0.0, -1.0, 0.0]]), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(codec.decode(encoded[0]), stored, atol=1e-6, rtol=0.0)


def test_a_fixed_dimension_is_a_constant_for_the_model_and_its_bound_for_the_environment() -> None:
    codec = ActionCodec(ArraySpec((3,), "float32", (-1.0, 0.1, 1e6), (1.0, 0.1, 1e6)))
    stored = torch.tensor([[0.5, 0.1, 1e6], [1.0, 0.1, 1e6]])
    encoded = codec.encode(stored, torch.float32)
    assert encoded.tolist() == [[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert torch.equal(codec.decode(encoded + torch.tensor([0.0, 0.7, -3.0])), stored)


def test_ids_become_one_hot_and_come_back() -> None:
    codec = ActionCodec(ArraySpec((), "int64", num_values=4))
    ids = torch.tensor([[3, 0], [1, 2]])
    assert torch.equal(codec.encode(ids, torch.float32), torch.eye(4)[ids])
    assert torch.equal(codec.decode(torch.eye(4)[[3, 1]]), torch.tensor([3, 1]))


@pytest.mark.parametrize("bounds", [((-1.8,), (0.2,)), ((-2.6,), (-0.8,)), ((0.7,), (1.9,)), ((-1.0,), (1.0,))])
def test_decoded_actions_never_leave_the_box(bounds: Any) -> None:
    """Also where low + 2 * half width rounds to beyond high."""
    spec = ArraySpec((1,), "float32", *bounds)
    low, high = spec.bounds()
    decoded = ActionCodec(spec).decode(torch.tensor([[-9.0], [-1.0], [1.0 - 2.0**-24], [1.0], [9.0]])).numpy()
    assert (decoded >= low).all()
    assert (decoded <= high).all()


@pytest.mark.parametrize(
    ("action", "message"),
    [(ArraySpec((2,), "float32"), "bounded"), (ArraySpec((2,), "int64", num_values=3), "ids of shape")],
)
def test_refuses_actions_without_a_code(action: ArraySpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(action)
