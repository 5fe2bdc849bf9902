"""Planners that `cluster.bench.planner` compares with, all on the same weights and the same problem.

Letters: N candidates, H horizon, A action size, S state size, K members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Observation [S] -> the action [A] after one full search."""


@dataclass(frozen=True)
class Problem:
    """A reference problem of the planner benchmark: one particle per Gaussian member, SiLU, actions in [-1, 1]."""

    name: str
    state_size: int
    action_size: int
    members: int = 5
    hidden: int = 256
    population: int = 1000
    elites: int = 100
    iterations: int = 10
    horizon: int = 12

    @property
    def flop(self) -> float:
        """Multiply-adds, counted twice, of one action with a constant population."""
        sizes = (self.state_size + self.action_size, self.hidden, self.hidden, 2 * (self.state_size + 1))
        passes = self.population * self.members * self.iterations * self.horizon
        return 2.0 * passes * sum(a * b for a, b in pairwise(sizes))


def random_weights(problem: Problem, seed: int) -> Weights:
    """A weights record whose rollouts stay bounded: unit-variance layers, small state changes."""
    rng = np.random.default_rng(seed)
    states, inputs = problem.state_size, problem.state_size + problem.action_size
    sizes = (inputs, problem.hidden, problem.hidden, 2 * (states + 1))
    weights: Weights = {}
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        shape = (problem.members, rows, columns)
        weights[f"weight_{layer}"] = (rng.standard_normal(shape) * np.sqrt(2.0 / rows)).astype(np.float32)
        weights[f"bias_{layer}"] = (0.1 * rng.standard_normal((problem.members, columns))).astype(np.float32)
    return weights | {
        "input_shift": np.zeros(inputs, np.float32),
        "input_scale": np.ones(inputs, np.float32),
        "output_shift": np.zeros(states + 1, np.float32),
        "output_scale": np.full(states + 1, 0.1, np.float32),
        "min_logvar": np.full(states + 1, -10.0, np.float32),
        "max_logvar": np.full(states + 1, -2.0, np.float32),
        "activation": np.frombuffer(b"silu", np.uint8),
        "gaussian": np.array(1, np.int64),
        "has_termination": np.array(0, np.int64),
    }


class _TorchEnsemble:
    """One sampled step of all members, batched: the shortest fast form in eager torch."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        self.width = problem.state_size + 1
        self.layers = [
            (torch.from_numpy(weights[f"weight_{i}"]), torch.from_numpy(weights[f"bias_{i}"])[:, None])
            for i in range(3)
        ]
        self.scale = torch.from_numpy(weights["output_scale"])
        self.floor = torch.from_numpy(weights["min_logvar"]).exp()
        self.inverse_ceiling = torch.from_numpy(-weights["max_logvar"]).exp()

    def __call__(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(next state [K, N, S], reward [K, N]) of state [K, N, S] and action [K, N, A]."""
        x = torch.cat([state, action], dim=-1)
        for weight, bias in self.layers[:-1]:
            x = torch.nn.functional.silu(torch.baddbmm(bias, x, weight), inplace=True)
        weight, bias = self.layers[-1]
        output = torch.baddbmm(bias, x, weight)
        mean, logvar = output[..., : self.width], output[..., self.width :]
        std = (self.floor + 1.0 / (self.inverse_ceiling + torch.exp(-logvar))).sqrt_()
        value = self.scale * torch.addcmul(mean, std, torch.randn_like(mean))
        return state + value[..., :-1], value[..., -1]


def torch_eager(problem: Problem, weights: Weights) -> Act:
    """CEM over a batched ensemble in eager torch, fp32."""
    model = _TorchEnsemble(problem, weights)
    shape = (problem.population, problem.horizon, problem.action_size)

    @torch.inference_mode()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        mean, std = torch.zeros(shape[1:]), torch.full(shape[1:], 0.5)
        start = torch.from_numpy(observation).expand(problem.members, problem.population, -1)
        for _ in range(problem.iterations):
            candidates = torch.addcmul(mean, std, torch.randn(shape)).clamp_(-1.0, 1.0)
            state, total = start, torch.zeros(problem.members, problem.population)
            for step in range(problem.horizon):
                action = candidates[:, step].expand(problem.members, -1, -1)
                state, reward = model(state, action)
                total += reward
            elites = candidates[total.mean(dim=0).topk(problem.elites).indices]
            mean = 0.1 * mean + 0.9 * elites.mean(dim=0)
            std = 0.1 * std + 0.9 * elites.std(dim=0, correction=0)
        return mean[0].numpy()

    return act


def mbrl_lib(problem: Problem, weights: Weights) -> Act:
    """CEM and GaussianMLP of mbrl-lib with fixed_model propagation.

    Raises:
        ImportError: mbrl is not installed.
    """
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning.trajectory_opt import CEMOptimizer

    model = GaussianMLP(
        problem.state_size + problem.action_size,
        problem.state_size + 1,
        "cpu",
        num_layers=2,
        ensemble_size=problem.members,
        hid_size=problem.hidden,
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    layers = [model.hidden_layers[0][0], model.hidden_layers[1][0], model.mean_and_logvar]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(torch.from_numpy(weights[f"weight_{i}"]))
            layer.bias.copy_(torch.from_numpy(weights[f"bias_{i}"])[:, None])
    spaces = SimpleNamespace(observation_space=None, action_space=None)
    env = ModelEnv(spaces, OneDTransitionRewardModel(model), lambda a, s: torch.zeros(len(s), 1, dtype=torch.bool))
    bounds = np.ones((problem.horizon, problem.action_size)).tolist()
    optimizer = CEMOptimizer(
        problem.iterations,
        problem.elites / problem.population,
        problem.population,
        (-np.asarray(bounds)).tolist(),
        bounds,
        0.1,
        torch.device("cpu"),
        return_mean_elites=True,
        clipped_normal=True,
    )

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        def evaluate(sequences: torch.Tensor) -> torch.Tensor:
            returns: torch.Tensor = env.evaluate_action_sequences(sequences, observation, problem.members)
            return returns

        start = torch.zeros(problem.horizon, problem.action_size)
        action: NDArray[np.float32] = optimizer.optimize(evaluate, x0=start)[0].numpy()
        return action

    return act


def pytorch_mppi(problem: Problem, weights: Weights) -> Act:
    """MPPI of pytorch_mppi, one refinement per iteration, on the batched ensemble of `torch_eager`.

    Raises:
        ImportError: pytorch_mppi is not installed.
    """
    from pytorch_mppi import MPPI

    model = _TorchEnsemble(problem, weights)
    reward = torch.zeros(0)

    def dynamics(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        nonlocal reward
        rows = (problem.members, problem.population, -1)
        following, reward = model(state.reshape(rows), action.reshape(rows))
        return following.reshape(-1, problem.state_size)

    ones = torch.ones(problem.action_size)
    mppi = MPPI(
        dynamics,
        lambda state, action: -reward.reshape(-1),
        problem.state_size,
        0.25 * torch.eye(problem.action_size),
        num_samples=problem.population,
        horizon=problem.horizon,
        u_min=-ones,
        u_max=ones,
        rollout_samples=problem.members,
        U_init=torch.zeros(problem.horizon, problem.action_size),
    )

    @torch.inference_mode()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        for _ in range(problem.iterations):
            action = mppi.command(observation, shift_nominal_trajectory=False)
        chosen: NDArray[np.float32] = action.numpy()
        return chosen

    return act


PEERS: dict[str, Callable[[Problem, Weights], Act]] = {
    "torch eager": torch_eager,
    "mbrl-lib": mbrl_lib,
    "pytorch_mppi": pytorch_mppi,
}
"""Name -> constructor, which raises ImportError if the peer is not installed."""
