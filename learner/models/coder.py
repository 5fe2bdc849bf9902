"""Encoder and decoder of one observation, vector or image, around the latent that a dynamics model predicts.

Letters: N rows, S flat observation size, L latent features, H x W x C an image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from envs.specs import ArraySpec
from learner.models.coder_config import CoderConfig
from learner.models.layers import ACTIVATIONS
from learner.models.normaliser import RunningNormaliser

_MIN_STD = 1e-6
_PIXEL = 255.0
_MIN_LOGVAR, _MAX_LOGVAR = -10.0, 2.0


@dataclass(frozen=True)
class Code:
    """What an observation is coded as."""

    mean: Tensor  # [N, L]
    logvar: Tensor | None  # [N, L] of a variational coder

    def sample(self) -> Tensor:
        """[N, L] drawn from the code, its mean where it has no variance."""
        if self.logvar is None:
            return self.mean
        return self.mean + torch.exp(0.5 * self.logvar) * torch.randn_like(self.mean)

    def divergence(self) -> Tensor:
        """[N] Kullback-Leibler divergence from a standard normal, nats per feature."""
        if self.logvar is None:
            return self.mean.new_zeros(len(self.mean))
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).mean(-1)


class Coder(nn.Module):
    """Codes flat observations [N, S] as latents and decodes them.

    Vectors are coded in standard deviations of the data, images in [-0.5, 0.5]. Both have the unit in which
    reconstruction is measured: `units`.

    Args:
        config: Shape.
        observation: A float vector of any shape, or an image [H, W, C] of uint8.

    Raises:
        ValueError: The sides of the image are no multiple of what the convolutions divide them by.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: CoderConfig, observation: ArraySpec) -> None:
        super().__init__()
        self.config = config
        self.is_image = observation.dtype == "uint8" and len(observation.shape) == 3
        outputs = config.size * (2 if config.variational else 1)
        if self.is_image:
            self.statistics: RunningNormaliser | None = None
            self.encoder, self.decoder = _image_networks(config, observation.shape, outputs)
        else:
            self.statistics = RunningNormaliser(observation.size)
            sizes = [observation.size, *config.hidden]
            self.encoder = _mlp([*sizes, outputs], config)
            self.decoder = _mlp([config.size, *reversed(sizes)], config)
        size = 1 if self.is_image else observation.size
        self.register_buffer("shift", torch.full((size,), 0.5 * _PIXEL if self.is_image else 0.0))
        self.register_buffer("scale", torch.full((size,), _PIXEL if self.is_image else 1.0))

    def refresh_scales(self) -> None:
        """Take the units of a vector from the running statistics; without any they stay as they are."""
        if self.statistics is None or self.statistics.count == 0:
            return
        mean, std = self.statistics.moments()
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(std > _MIN_STD, std, 1.0))

    def units(self, observation: Tensor) -> Tensor:
        """Observations [..., S] in the units of reconstruction."""
        return (observation - self.shift) / self.scale

    def encode(self, observation: Tensor) -> Code:
        """Flat observations [N, S] -> their code."""
        output = self.encoder(self.units(observation)).to(observation.dtype)
        if not self.config.variational:
            return Code(output, None)
        mean, logvar = output.chunk(2, -1)
        return Code(mean, logvar.clamp(_MIN_LOGVAR, _MAX_LOGVAR))

    def decode_units(self, latent: Tensor) -> Tensor:
        """Latents [..., L] -> observations [..., S] in the units of reconstruction."""
        flat = self.decoder(latent.flatten(0, -2)).to(latent.dtype)
        return flat.view(*latent.shape[:-1], flat.shape[-1])  # type: ignore[no-any-return]

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [..., L] -> observations [..., S]."""
        return self.decode_units(latent) * self.scale + self.shift


class _ToImage(nn.Module):
    """Flat rows [N, H W C] -> [N, C, H, W]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, *self._shape).movedim(-1, 1)


class _FromImage(nn.Module):
    """[N, C, H, W] -> flat rows [N, H W C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)


def _mlp(sizes: list[int], config: CoderConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), _Activation(config.activation)]
    return _orthogonal(nn.Sequential(*layers[:-1]))


def _image_networks(config: CoderConfig, shape: tuple[int, ...], outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder to `outputs` features and decoder of latents, of images [H, W, C]."""
    factor = 2 ** len(config.channels)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(f"images of {shape[0]} x {shape[1]} are no multiple of {factor}, see algorithm.coder.channels")
    smallest = (shape[0] // factor, shape[1] // factor, config.channels[-1])
    channels = [shape[2], *config.channels]
    down: list[nn.Module] = [_ToImage(shape)]
    for inputs, out in itertools.pairwise(channels):
        down += [nn.Conv2d(inputs, out, 4, 2, 1), _Activation(config.activation)]
    down += [_FromImage(), nn.Linear(math.prod(smallest), outputs)]
    up: list[nn.Module] = [nn.Linear(config.size, math.prod(smallest)), _ToImage(smallest)]
    for inputs, out in itertools.pairwise(reversed(channels)):
        up += [_Activation(config.activation), nn.ConvTranspose2d(inputs, out, 4, 2, 1)]
    return _orthogonal(nn.Sequential(*down)), _orthogonal(nn.Sequential(*up, _FromImage()))


def _orthogonal(network: nn.Sequential) -> nn.Sequential:
    """The network with orthogonal weights and biases of 0."""
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.orthogonal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


class _Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)
