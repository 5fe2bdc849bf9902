"""Tiny members of the Dreamer family and batches for them.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.config import resolve
from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.models.sizes import Dimensions
from learner.models.world_model_config import DisagreementConfig
from tests.learner.streams import SPEC, make_batch, make_stream

NAMES = ("dreamer_v1", "dreamer_v2", "dreamer_v3", "planet")
VARIANTS = (*NAMES, "plan2explore", "consistency")
SIZES = Dimensions(deter=16, hidden=8, classes=4, depth=2, units=8)
GROUPS = 4
DISCRETE = replace(SPEC, action=ArraySpec((), "int64", num_values=3))
IMAGE = replace(SPEC, observation={"image": ArraySpec((16, 16, 3), "uint8", 0, 255), **SPEC.observation})


def tiny(name: str, **changes: Any) -> DreamerConfig:
    """The preset `name`, or a variant of v3, with tiny networks."""
    extra: dict[str, Any] = {"plan2explore": {"plan2explore": DisagreementConfig(3, 1, 1.0, 0.5)}}.get(name, {})
    algorithm = resolve(name if name in NAMES else "dreamer_v3", "nav3d", "debug").algorithm
    assert isinstance(algorithm, DreamerConfig)
    config = replace(
        algorithm,
        dimensions=SIZES,
        rssm=replace(algorithm.rssm, groups=GROUPS, blocks=2),
        observation=replace(algorithm.observation, layers=1, multipliers=(1, 2), groups=4),
        behaviour=None if algorithm.behaviour is None else replace(algorithm.behaviour, horizon=4),
        optimizer=replace(algorithm.optimizer, lr=3e-3, warmup_steps=2),
        **extra,
    )
    if name == "consistency":
        config = replace(config, losses=replace(config.losses, consistency=0.5, consistency_steps=2))
    return replace(config, **changes)


def make(config: DreamerConfig, spec: EnvSpec = SPEC, seed: int = 0, **options: Any) -> DreamerAlgorithm:
    return DreamerAlgorithm(config, spec, torch.device("cpu"), seed, **options)


def batches(
    config: DreamerConfig, spec: EnvSpec = SPEC, size: int = 4, length: int = 6, seed: int = 0, terminal: bool = True
) -> list[SequenceBatch]:
    """Eight batches of T = `length` trained steps; latents, images and ids are random where the spec asks for them."""
    rng = np.random.default_rng(seed)
    streams = []
    for index in range(2):
        stream = make_stream(index, episodes=6, length=9, terminal=terminal)
        steps = len(stream["reward"])
        if config.store_latents:
            stream["latent_deter"] = rng.uniform(-1, 1, (steps, SIZES.deter)).astype(np.float16)
            gaussian = config.rssm.latent == "gaussian"
            stoch = rng.normal(size=(steps, GROUPS)) if gaussian else rng.integers(0, SIZES.classes, (steps, GROUPS))
            stream["latent_stoch"] = stoch.astype(np.float16 if gaussian else np.uint8)
        if "image" in spec.observation:
            stream["image"] = rng.integers(0, 256, (steps, *spec.observation["image"].shape), dtype=np.uint8)
        if spec.action.is_discrete:
            stream["action"] = rng.integers(0, spec.action.num_values or 0, steps)
        streams.append(stream)
    return [make_batch(streams, size, length + config.context, rng) for _ in range(8)]


def losses_of(algorithm: DreamerAlgorithm, batch: SequenceBatch) -> dict[str, Tensor]:
    """The losses of a batch, before they are summed."""
    data = algorithm._to_device(batch)
    return algorithm._losses(data, algorithm._draw(*data.is_first.shape))[0]


def with_data(batch: SequenceBatch, **changes: Any) -> SequenceBatch:
    """The batch with some arrays replaced."""
    return replace(batch, data=batch.data | changes)
