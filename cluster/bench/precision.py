"""What bfloat16 networks change in an update: the discount, the lambda-returns and the losses of every algorithm.

Both precisions take an update of the same weights, batch and noise. The discount is what the continuation head makes of
the logit of the configured one (or the configured one itself, where the head does not learn it), lambda the share by
which the returns pass on a reward one step further away; both are measured in the functions that the update uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.bench.row import BenchRow
from cluster.config import build_run, load_preset, preset_names
from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer import DreamerAlgorithm, Imagined
from learner.algorithms.dreamer_config import DreamerConfig
from learner.algorithms.pets import PetsAlgorithm
from learner.batch import SequenceBatch
from learner.device import autocast, resolve_device
from learner.learner_config import Precision
from learner.models.world_model_config import DisagreementConfig

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
SPEC = EnvSpec("random", {"state": ArraySpec((24,), "float32")}, ArraySpec((6,), "float32", -1.0, 1.0))
PLAN2EXPLORE = "plan2explore"


def run(algorithms: str = "", batch_size: int = 16, length: int = 16) -> Iterator[BenchRow]:
    """A row for every quantity: bf16, beside float32 as the peer.

    Args:
        algorithms: Names of presets, or `plan2explore`, separated by commas; empty for all.
        batch_size: Sequences.
        length: Trained steps of each.

    Raises:
        ValueError: An algorithm is unknown, or a number is too small.
    """
    if batch_size < 1 or length < 2:
        raise ValueError(f"batch_size must be at least 1 and length at least 2, got {batch_size} and {length}")
    known = [*preset_names("algorithms"), PLAN2EXPLORE]
    names = [name.strip() for name in algorithms.split(",") if name.strip()] or known
    for name in names:
        if name not in known:
            raise ValueError(f"unknown algorithm {name!r}; there are {', '.join(known)}")
        ours, theirs = (measure(name, precision, batch_size, length) for precision in PRECISIONS)
        for quantity, value in theirs.items():
            case, ratio = f"{name}: {quantity}", ours[quantity] / value if value else None
            yield BenchRow("precision", case, ours[quantity], "", torch.get_num_threads(), "fp32", value, ratio)


def measure(name: str, precision: Precision, batch_size: int, length: int) -> dict[str, float]:
    """Discount, lambda and losses of the first update of an algorithm."""
    algorithm = make(name, precision)
    measured = discount_and_lambda(algorithm) if isinstance(algorithm, DreamerAlgorithm) else {}
    metrics = algorithm.update(make_batch(algorithm, batch_size, length)).metrics
    chosen = ("loss", "kl", "imagined/", "gradient_norm", "validation_loss")
    return measured | {key: metrics[key] for key in sorted(metrics) if key.startswith(chosen) and "member" not in key}


def make(name: str, precision: Precision) -> PetsAlgorithm | DreamerAlgorithm:
    """An algorithm of the smallest nominal size."""
    device = resolve_device("auto")
    config: Any = build_run(load_preset("algorithms", "dreamer_v3" if name == PLAN2EXPLORE else name)).algorithm
    if not isinstance(config, DreamerConfig):
        return PetsAlgorithm(config, SPEC, device, 0, precision)
    explores = DisagreementConfig() if name == PLAN2EXPLORE else None
    config = replace(config, size="1m", dimensions=None, compile=False, plan2explore=explores)
    if config.value.output == "linear":  # bins reach to 1e8, and random masses on them mean as much
        config = replace(config, reward=replace(config.reward, outscale=1.0), value=replace(config.value, outscale=1.0))
    return DreamerAlgorithm(config, SPEC, device, 0, precision)


@torch.no_grad()
def discount_and_lambda(algorithm: DreamerAlgorithm) -> dict[str, float]:
    """What an update discounts by, and what its returns mix by; nothing without a behaviour."""
    behaviour, head = algorithm.behaviour, algorithm.world.continuation
    if behaviour is None:
        return {}
    config = behaviour.config
    if head is not None:
        before = {key: value.clone() for key, value in head.out.state_dict().items()}
        target = config.discount if config.discount_in_continuation else 1.0 - 1e-3
        head.out.weight.zero_()
        head.out.bias.fill_(math.log(target / (1.0 - target)))
    device = algorithm.world.reward.bins.device
    features = torch.zeros(3, 1, algorithm.world.rssm.features, device=device)
    with autocast(device, algorithm._precision):
        continuation = algorithm.world.predict_continuation(features)
        reward, action = torch.zeros(3, 1, device=device), torch.zeros(2, 1, SPEC.action.size, device=device)
        reward[2] = 1.0
        imagined = Imagined(features, action, reward, continuation)
        returns, weight = algorithm._imagined_returns(behaviour, imagined, torch.zeros_like(reward))
    if head is not None:
        head.out.load_state_dict(before)
    discount = float(weight[1] / weight[0])
    return {
        "discount": discount,
        "horizon 1 / (1 - discount)": 1.0 / (1.0 - discount),
        "lambda": float(returns[0]) / discount,
    }


def make_batch(algorithm: PetsAlgorithm | DreamerAlgorithm, batch_size: int, length: int) -> SequenceBatch:
    """Random sequences of a random walk with its distance as the reward, one episode each."""
    config, rng = algorithm.config, np.random.default_rng(0)
    shape = batch_size, length + config.context
    state = np.cumsum(rng.normal(0.0, 0.3, (*shape, 24)), 1).astype(np.float32)
    data: dict[str, NDArray[Any]] = {
        "state": state,
        "action": rng.uniform(-1.0, 1.0, (*shape, 6)).astype(np.float32),
        "reward": np.linalg.norm(state[..., :3], axis=-1).astype(np.float32),
        "episode": np.repeat(np.arange(batch_size)[:, None], shape[1], 1),
        **{flag: np.zeros(shape, np.bool_) for flag in ("is_first", "is_last", "is_terminal")},
    }
    if isinstance(config, DreamerConfig) and config.store_latents:
        data["latent_deter"] = np.zeros((*shape, config.sizes.deter), np.float16)
        data["latent_stoch"] = np.zeros((*shape, config.rssm.groups), np.uint8)
    rows = np.arange(batch_size)
    weight, handle = np.ones(batch_size, np.float32), np.zeros((batch_size, 3), np.int64)
    return SequenceBatch(data, rows.astype(np.uint64), rows, rows, weight, handle)
