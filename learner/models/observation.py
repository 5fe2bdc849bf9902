"""Encoder and decoder of observations: images, vectors, or a dict of both.

Letters: B sequences, T steps, N rows (B * T), E token features, C image channels over all image keys, D vector
features over all vector keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.specs import ArraySpec
from learner.models.distributions import Distribution, Ids, Regression, symlog, widened
from learner.models.layers import ACTIVATIONS, Dense, GroupedLinear, Linear, Mlp, initialise, make_norm, normalise
from learner.models.observation_config import ObservationConfig
from learner.models.rssm import State
from learner.models.sizes import Architecture


@dataclass(frozen=True)
class ObservationKeys:
    """Which observations are images and which are vectors."""

    images: dict[str, ArraySpec]
    vectors: dict[str, ArraySpec]

    @classmethod
    def of(cls, observation: Mapping[str, ArraySpec], config: ObservationConfig) -> ObservationKeys:
        """Sort the chosen observations, in the order of their names.

        Raises:
            ValueError: A chosen key is unknown, or images differ in size or are no multiple of the reduction.
        """
        unknown = sorted(set(config.keys) - set(observation))
        if unknown:
            raise ValueError(f"unknown observation key {unknown[0]!r}; there are {sorted(observation)}")
        chosen = {key: observation[key] for key in sorted(config.keys or observation)}
        images = {key: spec for key, spec in chosen.items() if spec.dtype == "uint8" and len(spec.shape) == 3}
        sizes = {spec.shape[:2] for spec in images.values()}
        reduction = 2 ** len(config.multipliers)
        if len(sizes) > 1 or any(side % reduction for size in sizes for side in size):
            raise ValueError(f"images must share a size that is a multiple of {reduction}, got {sorted(sizes)}")
        return cls(images, {key: spec for key, spec in chosen.items() if key not in images})

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        height, width, _ = next(iter(self.images.values())).shape
        return height, width

    @property
    def channels(self) -> int:
        """C."""
        return sum(spec.shape[2] for spec in self.images.values())

    @property
    def vector_size(self) -> int:
        """D; ids count as one-hot vectors."""
        return sum(_width(spec) for spec in self.vectors.values())

    def vector(self, observation: Mapping[str, Tensor], dtype: torch.dtype, squash: bool = False) -> Tensor:
        """All vector keys side by side: [..., D]; all but ids squashed by symlog if asked for."""
        parts = []
        for key, spec in self.vectors.items():
            part = _flat(observation[key], spec, dtype)
            parts.append(symlog(part) if squash and spec.num_values is None else part)
        return torch.cat(parts, -1)

    def image(self, observation: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """All images side by side, in [0, 1]: [..., height, width, C]."""
        images = [observation[key] for key in self.images]
        return (images[0] if len(images) == 1 else torch.cat(images, -1)).to(dtype) / 255.0


class Encoder(nn.Module):
    """Observations to tokens; vectors and images have a part of the tokens each.

    Args:
        keys: The observations.
        config: Shape.
        arch: Sizes, norm and activation.
    """

    def __init__(self, keys: ObservationKeys, config: ObservationConfig, arch: Architecture) -> None:
        super().__init__()
        self.keys, self._symlog = keys, config.symlog
        self.tokens = 0
        if keys.vectors:
            self.mlp = Mlp(keys.vector_size, arch.sizes.units, config.layers, arch)
            self.tokens += arch.sizes.units
        if keys.images:
            sizes = [keys.channels, *_channels(config, arch)]
            self.convolutions = nn.ModuleList(_Down(i, o, config, arch) for i, o in pairwise(sizes))
            height, width = _smallest(keys, config)
            self.tokens += height * width * sizes[-1]

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Raw observations [N, ...] -> tokens [N, E]."""
        dtype = next(self.parameters()).dtype
        parts = []
        if self.keys.vectors:
            parts.append(self.mlp(self.keys.vector(observation, dtype, self._symlog)))
        if self.keys.images:
            x = (self.keys.image(observation, dtype) - 0.5).movedim(-1, 1)  # channels stay last in memory
            for convolution in self.convolutions:
                x = convolution(x)
            parts.append(x.movedim(1, -1).flatten(1))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Latent states to predictions of every observation key.

    Args:
        keys: The observations.
        config: Shape.
        stoch: Stochastic features of a state.
        arch: Sizes, norm and activation.

    Raises:
        ValueError: The channels of the first image, or the deterministic features, are no multiple of the groups.
    """

    def __init__(self, keys: ObservationKeys, config: ObservationConfig, stoch: int, arch: Architecture) -> None:
        super().__init__()
        self.keys, self._config = keys, config
        deter, units = arch.sizes.deter, arch.sizes.units
        if keys.vectors:
            self.mlp = Mlp(deter + stoch, units, config.layers, arch)
            self.vector_out = Linear(units, keys.vector_size)
        if keys.images:
            channels = _channels(config, arch)
            if channels[-1] % config.groups:
                raise ValueError(
                    f"{channels[-1]} channels of the decoder's first image are no multiple of {config.groups} groups"
                )
            self._smallest = _smallest(keys, config)
            size = self._smallest[0] * self._smallest[1] * channels[-1]
            self.from_deter = GroupedLinear(deter, size, config.groups)
            self.from_stoch = nn.Sequential(Dense(stoch, 2 * units, arch), Linear(2 * units, size))
            self.norm, self.act = make_norm(arch.norm, channels[-1]), ACTIVATIONS[arch.act]
            steps = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
            self.convolutions = nn.ModuleList(_Up(i, o, config, arch) for i, o in steps)
            self.image_out = _Up(channels[0], keys.channels, config, None)

    def forward(self, state: State) -> dict[str, Distribution]:
        """States [N, ...] -> a distribution of every key, [N, ...]; images are in [0, 1]."""
        heads: dict[str, Distribution] = {}
        if self.keys.vectors:
            sizes = [_width(spec) for spec in self.keys.vectors.values()]
            parts = torch.split(self.vector_out(self.mlp(state.features)), sizes, -1)
            for (key, spec), part in zip(self.keys.vectors.items(), parts, strict=True):
                ids = spec.num_values
                heads[key] = Ids(part, ids) if ids is not None else Regression(part, 1, self._config.symlog)
        if self.keys.images:
            channels = [spec.shape[2] for spec in self.keys.images.values()]
            parts = torch.split(self._images(state), channels, -1)
            heads |= {key: Regression(part, 3) for key, part in zip(self.keys.images, parts, strict=True)}
        return heads

    def losses(self, state: State, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Reconstruction loss [N] of every key, for raw observations [N, ...]."""
        heads = self(state)
        dtype = state.deter.dtype
        targets = {key: _flat(observation[key], spec, dtype) for key, spec in self.keys.vectors.items()}
        targets |= {key: observation[key].to(dtype) / 255.0 for key in self.keys.images}
        return {key: head.loss(targets[key]) for key, head in heads.items()}

    def _images(self, state: State) -> Tensor:
        """[N, height, width, C]."""
        height, width = self._smallest
        groups = self._config.groups
        deter = self.from_deter(state.deter).view(len(state.deter), groups, height, width, -1)
        x = deter.movedim(1, 3).flatten(3) + self.from_stoch(state.stoch).view(len(state.stoch), height, width, -1)
        x = normalise(self.norm, self.act, x).movedim(-1, 1)
        for convolution in self.convolutions:
            x = convolution(x)
        x = widened(self.image_out(x)).movedim(1, -1)
        return torch.sigmoid(x) if self._config.sigmoid else x + 0.5


class _ChannelNorm(nn.Module):
    """Norm and activation of images [N, C, H, W] over their channels."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.norm, self.act = make_norm(arch.norm, channels), ACTIVATIONS[arch.act]

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self.norm, self.act, x.movedim(1, -1)).movedim(-1, 1)


class _Down(nn.Module):
    """A convolution that halves an image [N, C, H, W]."""

    def __init__(self, inputs: int, outputs: int, config: ObservationConfig, arch: Architecture) -> None:
        super().__init__()
        self._pool = not config.strided
        self.convolution = nn.Conv2d(inputs, outputs, config.kernel, 2 if config.strided else 1, config.kernel // 2)
        _initialise(self.convolution, inputs)
        self.norm = _ChannelNorm(outputs, arch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return self.norm(F.max_pool2d(x, 2) if self._pool else x)  # type: ignore[no-any-return]


class _Up(nn.Module):
    """A convolution that doubles an image [N, C, H, W]; without norm and activation where `arch` is None."""

    def __init__(self, inputs: int, outputs: int, config: ObservationConfig, arch: Architecture | None) -> None:
        super().__init__()
        half = config.kernel // 2
        self.convolution: nn.Conv2d | nn.ConvTranspose2d
        if config.strided:
            self.convolution = nn.ConvTranspose2d(inputs, outputs, config.kernel, 2, half, output_padding=1)
        else:
            self.convolution = nn.Conv2d(inputs, outputs, config.kernel, 1, half)
        self._upsample = not config.strided
        _initialise(self.convolution, inputs)
        self.norm = nn.Identity() if arch is None else _ChannelNorm(outputs, arch)

    def forward(self, x: Tensor) -> Tensor:
        convolution = self.convolution
        if self._upsample:
            assert convolution.bias is not None
            return self.norm(convolve_upsampled(x, convolution.weight, convolution.bias))  # type: ignore[no-any-return]
        return self.norm(convolution(x))  # type: ignore[no-any-return]


def convolve_upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Twice the size by nearest neighbours, then a convolution that keeps the size, in a third of the products.

    A pixel of x becomes four, and taps of the kernel that read copies of one pixel can be summed first: a convolution
    of x itself, with a smaller kernel for each of the four results, gives the same.

    Args:
        x: [N, C, H, W], channels last in memory.
        weight: [O, C, K, K] with an odd K.
        bias: [O].

    Returns:
        [N, O, 2 H, 2 W], channels last in memory.
    """
    sums = _tap_sums(weight.shape[-1], weight.device, weight.dtype)
    small = torch.einsum("ayk,bxl,ockl->abocyx", sums, sums, weight).flatten(0, 2)
    y = F.conv2d(x, small, bias.repeat(4), padding=small.shape[-1] // 2).movedim(1, -1)
    rows, height, width, _ = y.shape
    y = y.reshape(rows, height, width, 2, 2, -1).transpose(2, 3)
    return y.reshape(rows, 2 * height, 2 * width, -1).movedim(-1, 1)


@cache
def _tap_sums(kernel: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[2, taps, kernel]: 1 where a tap, centred on the left or right of a pixel's two copies, falls on a neighbour."""
    half = kernel // 2
    reach = (half + 1) // 2
    sums = torch.zeros(2, 2 * reach + 1, kernel)
    for side in range(2):
        for tap in range(kernel):
            sums[side, (side + tap - half) // 2 + reach, tap] = 1.0
    return sums.to(device, dtype)


def _initialise(convolution: nn.Conv2d | nn.ConvTranspose2d, inputs: int) -> None:
    initialise(convolution.weight, inputs * convolution.kernel_size[0] * convolution.kernel_size[1])
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)


def _channels(config: ObservationConfig, arch: Architecture) -> list[int]:
    """Channels after each convolution of the encoder."""
    return [arch.sizes.depth * multiplier for multiplier in config.multipliers]


def _smallest(keys: ObservationKeys, config: ObservationConfig) -> tuple[int, int]:
    """(height, width) after all convolutions of the encoder."""
    height, width = keys.image_size
    return height >> len(config.multipliers), width >> len(config.multipliers)


def _width(spec: ArraySpec) -> int:
    """Features of a vector key; ids count as one-hot vectors."""
    return spec.size * (spec.num_values or 1)


def _flat(values: Tensor, spec: ArraySpec, dtype: torch.dtype) -> Tensor:
    """A vector key [..., *shape] as features [..., width]."""
    if spec.num_values is not None:
        values = F.one_hot(values.long(), spec.num_values)
    leading = values.dim() - len(spec.shape) - (spec.num_values is not None)
    return values.reshape(*values.shape[:leading], -1).to(dtype)
