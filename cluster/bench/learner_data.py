"""The work of the learner benchmark: networks, environment and one fixed batch of synthetic sequences.

Letters: B sequences, T trained steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.learner_config import Precision
from learner.models.observation_config import ObservationConfig
from learner.models.rssm import LATENT_KEYS
from learner.models.sizes import Dimensions, SizeName

_SEED = 0
_EPISODE_END = 20  # step of every sequence behind which a new episode begins


@dataclass(frozen=True)
class Workload:
    """What one update works on.

    Args:
        name: As it is shown.
        image: Whether observations are 64 x 64 x 3 images with 3 actions, or 24 numbers with 6 actions.
        strided: Whether images go through strided convolutions, or through pooling and upsampling.
        size: Nominal size of the networks.
        dimensions: Sizes instead of those of `size`.
        batch_size: B.
        length: T.
    """

    name: str
    image: bool = False
    strided: bool = False
    size: SizeName = "1m"
    dimensions: Dimensions | None = None
    batch_size: int = 16
    length: int = 64

    @property
    def config(self) -> DreamerConfig:
        """DreamerV3, imagining 15 steps from every state."""
        observation = ObservationConfig(strided=self.strided)
        return DreamerConfig(size=self.size, dimensions=self.dimensions, observation=observation)

    @property
    def spec(self) -> EnvSpec:
        """The environment."""
        observation = ArraySpec((64, 64, 3), "uint8", 0, 255) if self.image else ArraySpec((24,), "float32")
        action = ArraySpec((3 if self.image else 6,), "float32", -1.0, 1.0)
        return EnvSpec(self.name, {"image" if self.image else "state": observation}, action)

    @property
    def transitions(self) -> int:
        """Trained steps of a batch."""
        return self.batch_size * self.length


WORKLOADS = {
    work.name: work
    for work in (
        Workload("vector 1m"),
        Workload("image 1m pooled", image=True),
        Workload("image 1m strided", image=True, strided=True),
        Workload("vector 12m", size="12m"),
        Workload("image 12m pooled", image=True, size="12m"),
        Workload("image 12m strided", image=True, strided=True, size="12m"),
    )
}
"""What is timed on a CPU."""


def arrays(work: Workload, steps: int) -> dict[str, NDArray[Any]]:
    """`steps` steps of every sequence, [B, steps, ...], without latent states; one episode ends in each."""
    rng = np.random.default_rng(_SEED)
    shape = work.batch_size, steps
    ((key, spec),) = work.spec.observation.items()
    draw = rng.integers(0, 256, (*shape, *spec.shape)) if work.image else rng.standard_normal((*shape, *spec.shape))
    data: dict[str, NDArray[Any]] = {
        key: draw.astype(spec.dtype),
        "action": rng.uniform(-1.0, 1.0, (*shape, work.spec.action.size)).astype(np.float32),
        "reward": rng.standard_normal(shape).astype(np.float32),
    }
    for flag in ("is_first", "is_last", "is_terminal"):
        data[flag] = np.zeros(shape, np.bool_)
    if steps > _EPISODE_END + 1:
        data["is_last"][:, _EPISODE_END] = True
        data["is_first"][:, _EPISODE_END + 1] = True
    return data


def make_batch(work: Workload) -> SequenceBatch:
    """The batch, with the latent states that a replay would hold."""
    config = work.config
    data = arrays(work, work.length + config.context)
    shape, groups = data["reward"].shape, config.rssm.groups
    deter, stoch = np.zeros((*shape, config.sizes.deter), np.float16), np.zeros((*shape, groups), np.uint8)
    ids = np.arange(work.batch_size)
    return SequenceBatch(
        data | dict(zip(LATENT_KEYS, (deter, stoch), strict=True)),
        stream_id=ids.astype(np.uint64),
        first_step=np.zeros_like(ids),
        policy_version=np.zeros_like(ids),
        weight=np.ones(work.batch_size, np.float32),
        handle=np.zeros((work.batch_size, 3), np.int64),
    )


def make_algorithm(
    work: Workload, device: torch.device, precision: Precision = "fp32", compiled: bool = False
) -> DreamerAlgorithm:
    """Our learner."""
    return DreamerAlgorithm(replace(work.config, compile=compiled), work.spec, device, _SEED, precision)


def parameter_count(algorithm: DreamerAlgorithm) -> int:
    """Trained parameters."""
    return sum(p.numel() for optimizer in algorithm.optimizers for p in optimizer.parameters)
