"""Tiny members of the MuZero family and batches for them.

Letters: B sequences, T steps, N actions searched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cluster.config import resolve
from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.muzero import MuZeroAlgorithm
from learner.algorithms.muzero_config import MuZeroConfig
from learner.batch import SequenceBatch
from learner.searched import SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE
from tests.learner.streams import SPEC, make_batch, make_stream

NAMES = ("muzero", "gumbel_muzero", "sampled_muzero", "efficientzero")
SAMPLES = 3
IDS = replace(SPEC, action=ArraySpec((), "int64", num_values=3))
IMAGE = replace(IDS, observation={"image": ArraySpec((16, 16, 3), "uint8", 0, 255), **IDS.observation})
SPECS = {name: SPEC if name == "sampled_muzero" else IDS for name in NAMES}


def tiny(name: str, **changes: Any) -> MuZeroConfig:
    """The preset `name` with tiny networks and an unroll of three steps."""
    env = "nav3d" if name == "sampled_muzero" else "gym:CartPole-v1"
    algorithm = resolve(name, env, "debug").algorithm
    assert isinstance(algorithm, MuZeroConfig)
    network = replace(algorithm.network, units=8, head_units=8, reductions=2)
    optimizer = replace(algorithm.optimizer, lr=0.05, warmup_steps=0)
    small: dict[str, Any] = {"network": network, "optimizer": optimizer, "unroll_steps": 3, "td_steps": 2}
    return replace(algorithm, **{**small, **changes})


def make(config: MuZeroConfig, spec: EnvSpec | None = None, seed: int = 0, **options: Any) -> MuZeroAlgorithm:
    options = {"priorities": True, **options}
    return MuZeroAlgorithm(config, spec or SPECS[config.name], torch.device("cpu"), seed, **options)


def randomise_heads(algorithm: MuZeroAlgorithm, seed: int = 0, scale: float = 1.0) -> None:
    """Give last layers, which begin at 0, weights: predictions then depend on the state."""
    generator = torch.Generator().manual_seed(seed)
    for module in (algorithm.model, algorithm.target):
        for parameter in module.parameters():
            if not parameter.any():
                with torch.no_grad():
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def batches(
    spec: EnvSpec = IDS, size: int = 4, length: int = 6, seed: int = 0, terminal: bool = True, count: int = 4
) -> list[SequenceBatch]:
    """Batches of short episodes with the statistics of made-up searches, and importance weights."""
    rng = np.random.default_rng(seed)
    streams = []
    for index in range(2):
        stream = make_stream(index, episodes=6, length=9, terminal=terminal)
        steps = len(stream["reward"])
        if "image" in spec.observation:
            stream["image"] = rng.integers(0, 256, (steps, *spec.observation["image"].shape), dtype=np.uint8)
        if spec.action.is_discrete:
            stream["action"] = rng.integers(0, spec.action.num_values or 0, steps)
        else:
            stream[SEARCH_ACTIONS] = rng.uniform(-1, 1, (steps, SAMPLES, 2)).astype(np.float32)
        stream[SEARCH_POLICY] = rng.dirichlet(np.ones(3), steps).astype(np.float32)
        stream[SEARCH_VALUE] = rng.normal(size=steps).astype(np.float32)
        streams.append(stream)
    made = [make_batch(streams, size, length, rng) for _ in range(count)]
    return [replace(batch, weight=rng.uniform(0.2, 1.0, size).astype(np.float32)) for batch in made]
