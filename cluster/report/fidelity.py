"""The model-fidelity study: how far single models and ensembles can be trusted open loop.

For every seed the study collects random and on-policy episodes, fits four models to the same episodes with the same
budget (one deterministic and one Gaussian network, an ensemble of each), and rolls them open loop through episodes
that none of them saw: of the same random behaviour, of uniformly random actions, and of a planner that uses the
deterministic ensemble. Definitions are those of `learner.fidelity`.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.planning import PlannerPolicy
from actors.random_policy import RandomPolicy
from actors.records import Policy, PolicyOutput
from actors.rollout import RolloutLoop
from cluster.report.fidelity_page import write_markdown, write_plot
from cluster.run_dir import write_atomic
from cluster.seeding import derive_seed
from envs.registry import env_spec, make_vector_env
from envs.specs import ArraySpec, EnvSpec, StepBatch, VectorEnv
from learner.algorithms.pets import PetsAlgorithm
from learner.algorithms.pets_config import PetsConfig
from learner.dataset import Stream, StreamDataset
from learner.fidelity import (
    Rollout,
    Windows,
    constant_velocity,
    cut_windows,
    horizon_error,
    persistence,
    rollout,
)
from learner.fit import fit
from learner.learner_config import LearnerConfig
from learner.models.ensemble_config import EnsembleConfig
from learner.optim_config import OptimConfig
from planners.config import IcemConfig, PlannerConfig

logger = logging.getLogger(__name__)
MODELS = ("single", "ensemble", "gaussian_single", "gaussian_ensemble")
_NUM_ENVS = 8
ALGORITHMS = ("pets",)
"""Algorithm presets that the study can train: those of ensembles."""


@dataclass(frozen=True)
class StudyConfig:
    """Size of the study.

    Args:
        random_steps: Training steps under smooth random actions, and as many under uniformly random ones.
        planner_steps: Training steps under a planner.
        test_steps: Steps of each test set.
        horizon: Longest open-loop horizon, steps.
        stride: Steps between two start states.
        updates: Gradient steps of every model; the planner that collects training data has had a tenth of them.
        batch_size: Transitions of a gradient step.
        lr: Highest learning rate; it falls by a half cosine.
        members: Members of the ensembles.
        hidden: Hidden widths of every network.
        particles: Particles of the likelihood of Gaussian models, over all members.
        planner: The planner that flies on the deterministic ensemble.
    """

    random_steps: int = 300_000
    planner_steps: int = 16_000
    test_steps: int = 8_000
    horizon: int = 30
    stride: int = 3
    updates: int = 10_000
    batch_size: int = 512
    lr: float = 2e-3
    members: int = 5
    hidden: tuple[int, ...] = (256, 256)
    particles: int = 20
    planner: PlannerConfig = field(default_factory=lambda: IcemConfig(population=128, elites=16, iterations=3))


QUICK = StudyConfig(
    random_steps=800,
    planner_steps=400,
    test_steps=800,
    horizon=10,
    updates=60,
    hidden=(32,),
    members=2,
    planner=IcemConfig(horizon=4, population=16, elites=4, iterations=1),
)


def run(
    output: Path, env: str = "nav3d", seeds: int = 3, quick: bool = False, config: StudyConfig | None = None
) -> Path:
    """Run the study and write `ensemble_fidelity.{md,json,png}`.

    Args:
        output: Folder of the files, created if absent.
        env: Environment with a `state` observation and a box of actions.
        seeds: Number of independent repetitions: data, initial weights and test episodes.
        quick: A study of seconds that shows that the parts work; its figures mean nothing.
        config: Size of the study, instead of the default or the quick one.

    Returns:
        The Markdown file.

    Raises:
        ValueError: If `seeds` is not positive, or the environment has no such observation or discrete actions.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    config = config or (QUICK if quick else StudyConfig())
    spec = env_spec(env)
    torch.set_num_threads(1)
    start = time.perf_counter()
    results = []
    for seed in range(seeds):
        results.append(study(spec, config, seed))
        logger.info("seed %d done after %.0f s", seed, time.perf_counter() - start)
    record = {
        "env": env,
        "step_seconds": spec.step_seconds,
        "config": asdict(config),
        "seconds": round(time.perf_counter() - start, 1),
        "seeds": results,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "ensemble_fidelity.json", json.dumps(record, indent=1) + "\n")
    write_plot(record, output / "ensemble_fidelity.png")
    return write_markdown(record, output / "ensemble_fidelity.md")


def study(spec: EnvSpec, config: StudyConfig, seed: int) -> dict[str, Any]:
    """One repetition: test set -> predictor -> error curves, as plain lists."""
    streams = collect(_env(spec), SmoothRandomPolicy(spec.action), config.random_steps, derive_seed(seed, "smooth"))
    streams += collect(_env(spec), RandomPolicy(spec.action), config.random_steps, derive_seed(seed, "uniform"))
    scout = replace(config, updates=max(config.updates // 10, 20))
    pilot = planner_policy(spec, config, train(spec, scout, "ensemble", streams, seed))
    streams += collect(_env(spec), pilot, config.planner_steps, derive_seed(seed, "planner"))
    algorithms = {name: train(spec, config, name, streams, seed) for name in MODELS}
    policies: dict[str, Policy] = {
        "smooth": SmoothRandomPolicy(spec.action),
        "uniform": RandomPolicy(spec.action),
        "planner": planner_policy(spec, config, algorithms["ensemble"]),
    }
    result: dict[str, Any] = {}
    for name, policy in policies.items():
        test = collect(_env(spec), policy, config.test_steps, derive_seed(seed, f"test {name}"))
        windows = cut_windows(test, "state", config.horizon, config.stride)
        result[name] = measure(windows, algorithms, config.particles)
    return result


def train(spec: EnvSpec, config: StudyConfig, name: str, streams: list[Stream], seed: int) -> PetsAlgorithm:
    """Fit one of MODELS to the streams."""
    single = name.endswith("single")
    ensemble = EnsembleConfig(
        members=1 if single else config.members, hidden=config.hidden, gaussian=name.startswith("gaussian")
    )
    warmup = min(100, config.updates // 10)
    algorithm_config = PetsConfig(
        ensemble=ensemble,
        optimizer=OptimConfig(lr=config.lr, warmup_steps=warmup, decay_steps=config.updates - warmup, grad_clip=10.0),
        bootstrap="none" if single else "poisson",
        validation_fraction=0.05,
    )
    algorithm = PetsAlgorithm(algorithm_config, spec, torch.device("cpu"), derive_seed(seed, name))
    learner_config = LearnerConfig(batch_size=config.batch_size, sequence_length=2, device="cpu")
    records = fit(algorithm, StreamDataset(streams), learner_config, config.updates, derive_seed(seed, name, 1))
    logger.info("%s: held-out loss %.4f", name, records[-1]["validation_loss_smoothed"])
    return algorithm


def measure(windows: Windows, algorithms: dict[str, PetsAlgorithm], particles: int) -> dict[str, Any]:
    """Error curves of every model and baseline on one test set."""
    result: dict[str, Any] = {
        "windows": len(windows.state),
        "episodes": int(windows.episode.max()) + 1,
        "persistence": _curves(windows, persistence(windows)),
        "constant_velocity": _curves(windows, constant_velocity(windows)),
    }
    for name, algorithm in algorithms.items():
        model = algorithm.model
        curves = _curves(windows, rollout(model, windows))
        curves["mean_model"] = horizon_error(windows, rollout(model, windows, average=True), 1).nrmse.tolist()
        if model.config.gaussian:
            sampled = rollout(model, windows, particles // model.config.members)
            assert sampled.nll is not None
            curves["nll"] = sampled.nll.mean(0).tolist()
        result[name] = curves
    return result


def _curves(windows: Windows, prediction: Rollout) -> dict[str, Any]:
    return horizon_error(windows, prediction).as_dict()


def _env(spec: EnvSpec) -> VectorEnv:
    return make_vector_env(spec.name, _NUM_ENVS)


def collect(env: VectorEnv, policy: Policy, steps: int, seed: int) -> list[Stream]:
    """At least `steps` exploring steps of the policy, as one stream per environment; closes the environments."""
    try:
        loop = RolloutLoop(env, policy, seed)
        blocks = loop.collect(-(-steps // env.num_envs)).blocks + loop.flush()
    finally:
        env.close()
    parts: dict[int, list[Stream]] = {}
    for block in sorted(blocks, key=lambda block: block.first_step):
        parts.setdefault(block.stream_id, []).append(block.data)
    return [{key: np.concatenate([part[key] for part in stream]) for key in stream[0]} for stream in parts.values()]


def planner_policy(spec: EnvSpec, config: StudyConfig, algorithm: PetsAlgorithm) -> PlannerPolicy:
    """The planner on the weights of an algorithm, with a little exploration noise."""
    policy = PlannerPolicy(spec, (algorithm.config.observation_key,), config.planner, exploration_std=0.1)
    policy.update(1, algorithm.export_weights())
    return policy


@dataclass(frozen=True)
class _NoiseCarry:
    rngs: tuple[np.random.Generator, ...]
    noise: NDArray[np.float64]  # [N, A]


class SmoothRandomPolicy:
    """Ornstein-Uhlenbeck actions, clipped to the box: what an untrained but smooth behaviour looks like.

    Args:
        action: A bounded box.
        memory: Correlation between the noise of two consecutive steps.
        scale: Stationary standard deviation in half-widths of the box.
    """

    def __init__(self, action: ArraySpec, memory: float = 0.9, scale: float = 0.7) -> None:
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._low, self._high = action.bounds()
        self._memory, self._scale = memory, scale

    def initial(self, seeds: NDArray[np.uint64]) -> _NoiseCarry:
        """Every row draws from its own seed."""
        rngs = tuple(np.random.default_rng(int(seed)) for seed in seeds)
        return _NoiseCarry(rngs, np.stack([rng.standard_normal(self._low.size) for rng in rngs]))

    def act(self, step: StepBatch, carry: _NoiseCarry, explore: bool) -> PolicyOutput:
        """One action per row; the noise goes on across episodes."""
        fresh = np.stack([rng.standard_normal(self._low.size) for rng in carry.rngs])
        noise = self._memory * carry.noise + np.sqrt(1.0 - self._memory**2) * fresh
        half = 0.5 * (self._high - self._low)
        action = 0.5 * (self._high + self._low) + half * self._scale * noise.reshape(-1, *half.shape)
        clipped = np.clip(action, self._low, self._high).astype(np.float32)
        return PolicyOutput(clipped, _NoiseCarry(carry.rngs, noise))

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Smooth noise has no weights."""
