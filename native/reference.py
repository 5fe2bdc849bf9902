"""NumPy twins of the C++ kernels: the oracle of the tests, written for clarity in float64.

The ensemble's twin draws the same random numbers as the kernel, so that single rollouts can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_MASK = np.uint64(0xFFFFFFFF)
_PERMUTATION_DOMAIN = 0xFFFFFFFF


def philox4x32(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).

    Args:
        counter: [..., 4] 32-bit words.
        key: [...] 64-bit keys.

    Returns:
        [..., 4] random 32-bit words.
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    key0, key1 = key & _MASK, key >> np.uint64(32)
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ key0,
            product1 & _MASK,
            (product0 >> np.uint64(32)) ^ c3 ^ key1,
            product0 & _MASK,
        )
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & _MASK, (key1 + np.uint64(0xBB67AE85)) & _MASK
    return np.stack([c0, c1, c2, c3], axis=-1)


def ensemble_noise(seeds: Words, num_candidates: int, particles: int, step: int, size: int) -> Floats:
    """Standard normals [B, N, P, size] of one step, by Box and Muller; counters (candidate, particle, step, d // 4)."""
    groups = -(-size // 4)
    shape = (len(seeds), num_candidates, particles, groups)
    counter = np.zeros((*shape, 4), np.uint64)
    counter[..., 0] = np.arange(num_candidates, dtype=np.uint64)[:, None, None]
    counter[..., 1] = np.arange(particles, dtype=np.uint64)[:, None]
    counter[..., 2] = step
    counter[..., 3] = np.arange(groups, dtype=np.uint64)
    words = (philox4x32(counter, np.broadcast_to(seeds[:, None, None, None], shape)) >> np.uint64(8)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[..., 0::2] + 1.0) * 2.0**-24))
    turn = 2.0 * np.pi * words[..., 1::2] * 2.0**-24
    normals = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1)
    return normals.reshape(*shape[:3], 4 * groups)[..., :size]


def particle_members(seed: int, horizon: int, particles: int, num_members: int, propagation: str) -> NDArray[np.int64]:
    """Member [H, P] of each particle in each step; see native.Ensemble.rollout."""
    members = np.tile(np.arange(particles), (horizon, 1))
    if propagation == "ts1":
        for step in range(horizon):
            for i in range(particles - 1, 0, -1):  # Fisher-Yates
                counter = np.array([i, 0, step, _PERMUTATION_DOMAIN], np.uint64)
                j = int(philox4x32(counter, np.array(seed, np.uint64))[0]) * (i + 1) >> 32
                members[step, [i, j]] = members[step, [j, i]]
    return members % num_members


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "silu": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
}


class EnsembleReference:
    """Twin of native.Ensemble in float64: the same methods and the same noise, without threads or blocks."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        def read(key: str) -> Floats:
            return np.asarray(weights[key], np.float64)

        count = sum(key.startswith("weight_") for key in weights)
        self.layers = [(read(f"weight_{i}"), read(f"bias_{i}")) for i in range(count)]
        self.activation = _ACTIVATIONS[bytes(weights["activation"]).decode()]
        self.is_gaussian = bool(weights["gaussian"])
        self.has_termination = bool(weights["has_termination"])
        self.input_shift, self.input_scale = read("input_shift"), read("input_scale")
        self.output_shift, self.output_scale = read("output_shift"), read("output_scale")
        if self.is_gaussian:
            self.min_logvar, self.max_logvar = read("min_logvar"), read("max_logvar")
        self.num_members = len(self.layers[0][0])
        self.state_size = len(self.output_shift) - 1

    def predict(self, state: NDArray[Any], action: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        """Mean [K, M, S+1], variance [K, M, S+1] and done probability [K, M] of state [M, S] and action [M, A]."""
        x = (np.concatenate([state, action], axis=-1, dtype=np.float64) - self.input_shift) * self.input_scale
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight + bias[:, None]
            if i + 1 < len(self.layers):
                x = self.activation(x)
        width = self.state_size + 1
        mean = x[..., :width] * self.output_scale + self.output_shift
        variance = np.zeros_like(mean)
        if self.is_gaussian:
            logvar = self.max_logvar - np.logaddexp(0.0, self.max_logvar - x[..., width : 2 * width])
            logvar = self.min_logvar + np.logaddexp(0.0, logvar - self.min_logvar)
            variance = np.exp(logvar) * self.output_scale**2
        done = _sigmoid(x[..., -1]) if self.has_termination else np.zeros(x.shape[:-1])
        return mean, variance, done

    def rollout(
        self,
        observation: NDArray[Any],
        actions: NDArray[Any],
        seeds: Words,
        particles: int,
        propagation: str,
        gamma: float,
        sample: bool,
    ) -> Floats:
        """Particle returns [B, N, P]; arguments as native.Ensemble.rollout."""
        _, rewards, done = self._unroll(observation, actions, seeds, particles, propagation, sample)
        alive = np.cumprod(np.concatenate([np.ones_like(done[..., :1]), 1.0 - done[..., :-1]], axis=-1), axis=-1)
        discount = gamma ** np.arange(actions.shape[2], dtype=np.float64)
        total: Floats = np.sum(discount * alive * rewards, axis=-1)
        return total

    def trajectories(
        self,
        observation: NDArray[Any],
        actions: NDArray[Any],
        seeds: Words,
        particles: int,
        propagation: str,
        sample: bool,
    ) -> tuple[Floats, Floats]:
        """States [B, P, H+1, S] and rewards [B, P, H] of actions [B, H, A]."""
        states, rewards, _ = self._unroll(observation, actions[:, None], seeds, particles, propagation, sample)
        return states[:, 0], rewards[:, 0]

    def _unroll(
        self,
        observation: NDArray[Any],
        actions: NDArray[Any],
        seeds: Words,
        particles: int,
        propagation: str,
        sample: bool,
    ) -> tuple[Floats, Floats, Floats]:
        """States [B, N, P, H+1, S], rewards and done probabilities [B, N, P, H]."""
        problems, candidates, horizon, action_size = actions.shape
        tables = [particle_members(int(s), horizon, particles, self.num_members, propagation) for s in seeds]
        rows = (problems, candidates, particles)
        state = np.broadcast_to(observation[:, None, None], (*rows, self.state_size)).astype(np.float64)
        states, rewards, dones = [state], [], []
        for step in range(horizon):
            action = np.broadcast_to(actions[:, :, None, step], (*rows, action_size))
            every = self.predict(state.reshape(-1, self.state_size), action.reshape(-1, action_size))
            member = np.stack([table[step] for table in tables])[:, None].repeat(candidates, axis=1).reshape(-1)
            mean, variance, done = (part[member, np.arange(member.size)] for part in every)
            value = mean.reshape(*rows, -1)
            if sample and self.is_gaussian:
                noise = ensemble_noise(seeds, candidates, particles, step, self.state_size + 1)
                value = value + np.sqrt(variance.reshape(value.shape)) * noise
            state = state + value[..., :-1]
            states.append(state)
            rewards.append(value[..., -1])
            dones.append(done.reshape(rows))
        return np.stack(states, axis=-2), np.stack(rewards, axis=-1), np.stack(dones, axis=-1)
