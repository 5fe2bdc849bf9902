"""The networks of MuZero: representation, dynamics, heads, and the projection of EfficientZero's consistency loss.

Latents of images are feature maps and their layers are residual convolutions; those of vectors are features and their
layers are residual MLPs.

Letters: N rows, D features or channels of a latent, A action size, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.models.distributions import symlog
from learner.models.layers import ACTIVATIONS, Linear, initialise, make_norm
from learner.models.muzero_config import MuZeroNetworkConfig
from learner.models.observation import ObservationKeys


class Chain(nn.Sequential):
    """Modules one after the other without their hooks, whose machinery costs as much as a small layer."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            x = layer.forward(x)
        return x


class _Conv(nn.Conv2d):
    """A 3x3 convolution that keeps the size, or halves it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2)
        initialise(self.weight, inputs * kernel * kernel)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class _NormAct(nn.Module):
    """Norm and activation over the features [N, D], or over the channels of maps [N, D, height, width]."""

    def __init__(self, size: int, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        self.norm, self.act = make_norm(config.norm, size), ACTIVATIONS[config.act]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self.act(self.norm.forward(x))
        return self.act(self.norm.forward(x.movedim(1, -1))).movedim(-1, 1)


class Residual(Chain):
    """x plus two layers of it, each with norm and activation before (He et al. 2016, "Identity Mappings")."""

    def __init__(self, size: int, maps: bool, config: MuZeroNetworkConfig) -> None:
        make = _Conv if maps else Linear
        super().__init__(_NormAct(size, config), make(size, size), _NormAct(size, config), make(size, size))

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, ...] -> the same shape."""
        return x + super().forward(x)


def _trunk(size: int, maps: bool, config: MuZeroNetworkConfig) -> Chain:
    return Chain(*(Residual(size, maps, config) for _ in range(config.blocks)))


class Representation(nn.Module):
    """Observations to latents; vectors beside images are added to all places of the maps.

    Args:
        keys: The observations.
        config: Sizes.
    """

    def __init__(self, keys: ObservationKeys, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        self.keys = keys
        maps = bool(keys.images)
        size = config.channels if maps else config.units
        if maps:
            layers: list[nn.Module] = []
            inputs = keys.channels
            for index in range(config.reductions):
                outputs = size if index else max(1, size // 2)
                layers += [_Conv(inputs, outputs, stride=2), Residual(outputs, True, config)]
                inputs = outputs
            if inputs != size:
                layers.append(_Conv(inputs, size))
            self.reduce = Chain(*layers)
        if keys.vectors:
            # Random biases put the kinks of the first layers at different states; docs/results/muzero.md has a figure.
            self.vector = Linear(keys.vector_size, size)
            nn.init.trunc_normal_(self.vector.bias, 0.0, 1.0, -2.0, 2.0)
        self.trunk = _trunk(size, maps, config)
        self.shape: tuple[int, ...] = (size,)  # of a latent
        if maps:
            self.shape = (size, *(side >> config.reductions for side in keys.image_size))

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Raw observations [N, ...] -> latents [N, D, ...] in [0, 1]."""
        dtype = next(self.parameters()).dtype
        x: Tensor | None = None
        if self.keys.images:
            x = self.reduce.forward(self.keys.image(observation, dtype).movedim(-1, 1))
        if self.keys.vectors:
            features = self.vector(symlog(self.keys.vector(observation, dtype)))
            x = features if x is None else x + features[:, :, None, None]
        assert x is not None
        return normalise_latent(self.trunk.forward(x))


class Dynamics(nn.Module):
    """Latents and actions to the next latents.

    Args:
        shape: Of a latent.
        action: A.
        config: Sizes.
    """

    def __init__(self, shape: tuple[int, ...], action: int, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        size, maps = shape[0], len(shape) > 1
        self.join = (_Conv if maps else Linear)(size + action, size)
        self.trunk = _trunk(size, maps, config)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """Latents [N, D, ...] in [0, 1] and actions [N, A] -> the next latents; actions are planes of a map."""
        planes = action.to(latent.dtype)
        if latent.dim() > 2:
            planes = planes[:, :, None, None].expand(-1, -1, *latent.shape[2:])
        x = latent + self.join.forward(torch.cat([latent, planes], 1))
        return normalise_latent(self.trunk.forward(x))


class Reduce(Chain):
    """A latent [N, *shape] as the features [N, width] that a head begins with: its own, or a few channels of a map."""

    def __init__(self, shape: tuple[int, ...], config: MuZeroNetworkConfig) -> None:
        if len(shape) == 1:
            super().__init__()
            self.width = shape[0]
            return
        channels = config.head_channels
        super().__init__(_Conv(shape[0], channels, kernel=1), _NormAct(channels, config), nn.Flatten())
        self.width = channels * shape[1] * shape[2]


class Outputs(Chain):
    """The layers of a head from features [N, width] on. The last starts at 0, so the first predictions are uniform."""

    def __init__(self, width: int, outputs: int, config: MuZeroNetworkConfig) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.head_layers):
            layers += [Linear(width, config.head_units), _NormAct(config.head_units, config)]
            width = config.head_units
        super().__init__(*layers, Linear(width, outputs, 0.0))


class Head(Chain):
    """Numbers [N, outputs] from latents [N, *shape]."""

    def __init__(self, shape: tuple[int, ...], outputs: int, config: MuZeroNetworkConfig) -> None:
        reduce = Reduce(shape, config)
        super().__init__(reduce, Outputs(reduce.width, outputs, config))


class Projection(nn.Module):
    """What the consistency loss compares (SimSiam; Chen and He 2021): a projector, and a predictor for one side."""

    def __init__(self, features: int, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        sizes = config.projection
        self.projector = Chain(
            Linear(features, sizes.hidden), _NormAct(sizes.hidden, config),
            Linear(sizes.hidden, sizes.hidden), _NormAct(sizes.hidden, config),
            Linear(sizes.hidden, sizes.outputs),
        )  # fmt: skip
        self.predictor = Chain(
            Linear(sizes.outputs, sizes.bottleneck), _NormAct(sizes.bottleneck, config),
            Linear(sizes.bottleneck, sizes.outputs),
        )  # fmt: skip

    def forward(self, latent: Tensor) -> Tensor:
        """Latents [N, *shape] -> what is to be predicted of them [N, outputs]."""
        return self.projector.forward(latent.flatten(1))

    def predict(self, latent: Tensor) -> Tensor:
        """Latents of the dynamics [N, *shape] -> the prediction [N, outputs]."""
        return self.predictor.forward(self.forward(latent))


def normalise_latent(x: Tensor) -> Tensor:
    """Scale every row of x [N, ...] to [0, 1], the range of an action (Schrittwieser et al. 2020, appendix G)."""
    flat = x.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp(min=1e-5)).view_as(x)
