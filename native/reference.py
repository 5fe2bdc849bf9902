"""NumPy twins of the C++ kernels: the oracle of the tests, written for clarity in float64.

The ensemble's twin draws the same random numbers as the kernel, so that single rollouts can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_MASK = np.uint64(0xFFFFFFFF)
_PERMUTATION_DOMAIN = 0xFFFFFFFF
_ACTIONS_PURPOSE = 2  # of a tree search's random numbers


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


def colour_matrix(horizon: int, beta: float) -> Floats:
    """[H, H] matrix C for which C z has a power spectrum ~ frequency^-beta and variance 1 when z is white.

    The rows combine the real Fourier basis; frequency 0 takes the amplitude of frequency 1/H (Timmer & Koenig, 1995).
    """
    order = (np.arange(horizon) + 1) // 2
    amplitude = (np.maximum(order, 1) / horizon) ** (-beta / 2.0)
    phase = 2.0 * np.pi * np.outer(np.arange(horizon), order) / horizon
    is_sine = (np.arange(horizon) % 2 == 0) & (order > 0)
    is_paired = (order > 0) & (2 * order < horizon)
    basis = np.where(is_sine, np.sin(phase), np.cos(phase)) * np.where(is_paired, np.sqrt(2.0), 1.0)
    matrix: Floats = basis * amplitude / np.sqrt(np.sum(amplitude**2))
    return matrix


class SearchReference:
    """Twin of native.Search and SearchState for one problem in float64, Gaussian or uniform sampling.

    Args are those of native.Search; the carry's arrays lose their axis B.
    """

    def __init__(self, low: NDArray[Any], high: NDArray[Any], **config: Any) -> None:
        defaults: dict[str, Any] = {
            "momentum": 0.1, "noise_beta": 0.0, "population_decay": 1.0, "keep_fraction": 0.0, "init_std": 0.5,
            "min_std": 0.0, "temperature": 1.0, "sampling": "gaussian", "weighting": "uniform", "update_std": True,
            "include_mean": False, "execute_best": False, "warm_start": True,
        }  # fmt: skip
        self.config = defaults | config
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.half_width = 0.5 * (self.high - self.low)
        self.shape = (self.config["horizon"], len(self.low))
        self.num_kept = int(np.floor(self.config["keep_fraction"] * self.config["elites"] + 0.5))
        self.colour = colour_matrix(self.shape[0], self.config["noise_beta"])

    def begin(self, mean: NDArray[Any], elites: NDArray[Any], has_elites: bool, seed: int, step: int) -> None:
        """Starts a plan; pass the middle of the box and no elites for the first step of an episode."""
        self.mean = np.clip(mean if self.config["warm_start"] else self.low + self.half_width, self.low, self.high)
        self.mean = np.broadcast_to(self.mean, self.shape).astype(np.float64)
        std = max(self.config["init_std"], self.config["min_std"]) * self.half_width
        self.std = np.broadcast_to(std, self.shape).copy()
        self.elites = np.asarray(elites, np.float64) if has_elites and self.config["warm_start"] else None
        self.seed, self.step, self.iteration, self.best = seed, step, 0, self.mean

    def num_candidates(self) -> int:
        """N of this iteration."""
        decayed = int(self.config["population"] * self.config["population_decay"] ** -self.iteration)
        return min(int(self.config["population"]), max(decayed, 2 * int(self.config["elites"])))

    def ask(self) -> Floats:
        """Candidates [N, H, A]."""
        count, size = self.num_candidates(), self.shape[0] * self.shape[1]
        if self.config["sampling"] == "uniform":
            words = self._words(count, size)[..., 0]
            values = self.low + (words >> np.uint64(8)).reshape(count, *self.shape) * 2.0**-24 * (self.high - self.low)
        else:
            words = (self._words(count, -(-size // 4)) >> np.uint64(8)).astype(np.float64)
            radius = np.sqrt(-2.0 * np.log((words[..., 0::2] + 1.0) * 2.0**-24))
            angle = 2.0 * np.pi * words[..., 1::2] * 2.0**-24
            normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
            white = normals.reshape(count, -1)[:, :size].reshape(count, *self.shape)
            noise = np.einsum("tj,nja->nta", self.colour, white) if self.config["noise_beta"] else white
            values = self.mean + self.std * noise
        if self.elites is not None:
            values[: len(self.elites)] = self.elites
        if self.config["include_mean"] and self.iteration == self.config["iterations"] - 1:
            values[-1] = self.mean
        self.candidates: Floats = np.clip(values, self.low, self.high)
        return self.candidates

    def tell(self, scores: NDArray[Any], violations: NDArray[Any] | None = None) -> None:
        """Refits to scores [N], with violations of constraints [N]."""
        self.iteration += 1
        excess = np.zeros(len(scores)) if violations is None else np.asarray(violations, np.float64)
        finite = np.flatnonzero(np.isfinite(scores) & np.isfinite(excess))
        self.elites = None
        self.best = self.mean
        if len(finite) == 0:
            return
        order = finite[np.lexsort((-scores[finite], excess[finite]))][: self.config["elites"]]
        chosen = self.candidates[order]
        weight = np.ones(len(order))
        if self.config["weighting"] == "softmax":
            weight = np.exp((scores[order] - scores[order[0]]) / self.config["temperature"])
            weight = np.where(excess[order] == excess[order[0]], weight, 0.0)
        weight = (weight / weight.sum())[:, None, None]
        mean = np.sum(weight * chosen, axis=0)
        std = np.sqrt(np.sum(weight * (chosen - mean) ** 2, axis=0))
        keep = self.config["momentum"]
        self.mean = np.clip(keep * self.mean + (1.0 - keep) * mean, self.low, self.high)
        if self.config["update_std"]:
            self.std = np.maximum(keep * self.std + (1.0 - keep) * std, self.config["min_std"] * self.half_width)
        self.best = chosen[0]
        if self.num_kept:
            self.elites = chosen[np.arange(self.num_kept) % len(chosen)]

    def plan(self) -> Floats:
        """The plan [H, A]."""
        return self.best if self.config["execute_best"] else self.mean

    def _words(self, count: int, groups: int) -> Words:
        """Random words [count, groups, 4] of this iteration's candidates."""
        counter = np.zeros((count, groups, 4), np.uint64)
        counter[..., 0] = np.arange(groups, dtype=np.uint64)
        counter[..., 1] = np.arange(count, dtype=np.uint64)[:, None]
        counter[..., 2], counter[..., 3] = self.iteration, self.step
        return philox4x32(counter, np.full((count, groups), self.seed, np.uint64))


class SumTreeReference:
    """Twin of native.SumTree by prefix sums: equal wherever the sums are exact in float64."""

    def __init__(self, size: int) -> None:
        self.leaves = np.zeros(size)

    @property
    def total(self) -> float:
        """Sum of the priorities."""
        return float(self.leaves.sum())

    def update(self, index: NDArray[np.int64], priority: Floats) -> None:
        """Set the leaves index [n] to priority [n], one after the other."""
        for i, p in zip(index.tolist(), priority.tolist(), strict=True):
            self.leaves[i] = p

    def assign(self, first: int, priority: Floats) -> None:
        """Set the leaves from `first` on to priority [n]."""
        self.leaves[first : first + len(priority)] = priority

    def fill(self, first: int, count: int, priority: float) -> None:
        """Set `count` leaves from `first` on to one priority."""
        self.leaves[first : first + count] = priority

    def sample(self, uniform: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Leaves [n] in which uniform [n] * total falls, and their priorities [n]."""
        index = np.searchsorted(np.cumsum(self.leaves), uniform * self.total, side="right")
        return index, self.leaves[index]


def gather_rows(array: NDArray[Any], first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[Any]:
    """Rows first[i] .. first[i] + count[i] - 1, run behind run; see native.RowGather.gather."""
    runs = [array[f : f + n] for f, n in zip(first.tolist(), count.tolist(), strict=True)]
    return np.concatenate([array[:0], *runs])


def chain_rows(
    chunk: NDArray[np.int64],
    offset: NDArray[np.int64],
    length: int,
    chunk_steps: int,
    next_chunk: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rows [B, length] of sequences that follow chains of chunks; see native.RowGather.gather_chains."""
    rows = np.empty((len(chunk), length), np.int64)
    for b, (c, at) in enumerate(zip(chunk.tolist(), offset.tolist(), strict=True)):
        for t in range(length):
            if at == chunk_steps:
                c, at = int(next_chunk[c]), 0
            rows[b, t] = c * chunk_steps + at
            at += 1
    return rows


def halving_sequence(considered: int, simulations: int) -> list[int]:
    """Visits of the considered actions before each simulation; see native.halving_sequence."""
    sequence: list[int] = []
    visits, fewest = [0] * considered, min(considered, 2)
    rounds = math.ceil(math.log2(max(considered, 2)))
    while len(sequence) < simulations:
        for _ in range(max(1, simulations // (rounds * considered))):
            sequence += visits[:considered]
            visits[:considered] = [n + 1 for n in visits[:considered]]
        considered = max(fewest, considered // 2)
    return sequence[:simulations]


@dataclass
class TreeNode:
    """A node of `MctsReference`; its actions are all ids, or the distinct ones that were drawn."""

    raw_value: float
    ids: NDArray[np.int64]  # [N]
    logits: Floats  # [N], -inf where an action is invalid
    parent: int
    action: int  # the id
    reward: float
    discount: float
    value: float = 0.0
    visits: int = 1
    child: dict[int, int] = field(default_factory=dict)  # by id

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N] what may be done."""
        return self.logits > -np.inf


def sampled_prior(
    logits: Floats, invalid: NDArray[np.bool_], count: int, temperature: float, seed: int, node: int
) -> tuple[NDArray[np.int64], Floats]:
    """Distinct ids [N] of `count` draws from beta ~ pi^(1 / temperature), and logits [N] of (beta^ / beta) pi.

    beta^ is an id's share of the draws: Hubert et al. 2021, section 5.1. In logarithms, up to a constant, that is
    log draws + (1 - 1 / temperature) logit, in which equal priors remain exactly equal.
    """
    if invalid.all():
        return np.zeros(0, np.int64), np.zeros(0)
    proposal = _softmax(np.where(invalid, -np.inf, logits) / temperature)
    counter = np.zeros((count, 4), np.uint64)
    counter[:, 0], counter[:, 1], counter[:, 2] = np.arange(count), node, _ACTIONS_PURPOSE
    uniform = (philox4x32(counter, np.full(count, seed, np.uint64))[:, 0] + 0.5) * 2.0**-32
    drawn = np.searchsorted(np.cumsum(proposal), uniform, side="right")
    ids, found = np.unique(drawn, return_counts=True)
    return ids, np.log(found) + (1.0 - 1.0 / temperature) * logits[ids]


class MctsReference:
    """Twin of native.Mcts for one root, without noise.

    `margin` is the least lead of a choice over another action, relative where scores exceed 1: below float32's
    precision the two may differ. Actions alike in prior, visits and Q are no rivals: the first of them wins in both.
    """

    def __init__(self, num_actions: int, simulations: int, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "selection": "puct", "max_depth": 0, "sampled_actions": 0, "proposal_temperature": 1.0,
            "normalisation": "siblings", "min_value": 0.0, "max_value": 1.0, "min_range": 1e-8, "c1": 1.25,
            "c2": 19652.0, "max_considered": 16, "value_scale": 0.1, "maxvisit_init": 50.0, "rescale": True,
            "mixed_value": True,
        }  # fmt: skip
        if unknown := options.keys() - defaults.keys():
            raise TypeError(f"unknown options {sorted(unknown)}")
        self.num_actions, self.simulations, self.config = num_actions, simulations, defaults | options
        self.gumbel = self.config["selection"] == "gumbel"
        self.nodes: dict[int, TreeNode] = {}
        self.simulation = 0
        self.path: list[tuple[int, int]] = []  # nodes and ids from the root
        self.extremes = (0.0, 0.0)
        self.margin = math.inf

    def begin(
        self, logits: Floats, value: float, invalid: NDArray[np.bool_] | None = None, seed: int = 0
    ) -> tuple[int, int]:
        """The first leaf's parent and action, for logits [A] of the root and invalid [A] actions there."""
        self.margin = math.inf
        self.seed, self.simulation, self.extremes = seed, 0, (value, value)
        self.first, self.limit = 1, self.simulations
        ids, known = self._actions(logits, invalid, 0)
        self.nodes = {0: TreeNode(value, ids, known, -1, -1, 0.0, 1.0, value)}
        considered = min(self.config["max_considered"], int(self.nodes[0].valid.sum()))
        self.sequence = halving_sequence(considered, self.simulations)
        return self._descend()

    def begin_kept(
        self, taken: int, logits: Floats, value: float, invalid: NDArray[np.bool_] | None = None
    ) -> tuple[int, int]:
        """`begin` with the subtree of the action `taken` at the root of the last search."""
        before = self.nodes
        following = self.begin(logits, value, invalid)
        if taken not in before[0].child:
            return following
        root, places = self.nodes[0], {before[0].child[taken]: 0}
        for index in sorted(before):
            node = before[index]
            if node.parent not in places or (places[node.parent] == 0 and not root.valid[node.action]):
                continue
            parent, place = places[node.parent], len(places)
            places[index] = place
            self.nodes[place] = replace(node, parent=parent, child={})
            self.nodes[parent].child[node.action] = place
        visits, q = self.children(root)
        root.visits, root.value = 1 + int(visits.sum()), (value + float(visits @ q)) / (1 + visits.sum())
        self.extremes = (root.value, root.value)
        for node in list(self.nodes.values())[1:]:
            self._widen(node.reward + node.discount * node.value)
        self.first, self.limit = len(self.nodes), self.simulations - int(visits.sum())
        return self._descend()

    def expand(
        self,
        logits: Floats,
        value: float,
        reward: float,
        discount: float,
        invalid: NDArray[np.bool_] | None = None,
    ) -> tuple[int, int] | None:
        """The next leaf's parent and action, None when the search is done."""
        self.simulation += 1
        parent, action = self.path[-1]
        index = self.nodes[parent].child.setdefault(action, self.first + self.simulation - 1)
        visits = self.nodes[index].visits + 1 if index in self.nodes else 1
        ids, known = self._actions(logits, invalid, index)
        self.nodes[index] = TreeNode(value, ids, known, parent, action, reward, discount, value, visits)
        for parent, action in reversed(self.path):
            child = self.nodes[self.nodes[parent].child[action]]
            value = child.reward + child.discount * value
            node = self.nodes[parent]
            node.value = (node.value * node.visits + value) / (node.visits + 1)
            node.visits += 1
            self._widen(child.reward + child.discount * child.value)
        self._widen(self.nodes[0].value)
        return self._descend() if self.simulation < self.limit else None

    def children(self, node: TreeNode) -> tuple[Floats, Floats]:
        """Visits [N] and Q values [N] of the node's actions, 0 where there is no child."""
        visits, q = np.zeros(len(node.ids)), np.zeros(len(node.ids))
        for action, index in node.child.items():
            child, place = self.nodes[index], int(np.searchsorted(node.ids, action))
            visits[place], q[place] = child.visits, child.reward + child.discount * child.value
        return visits, q

    def policy(self) -> tuple[Floats, int]:
        """Weights [N] and the place of the best action of the root."""
        root = self.nodes[0]
        visits, _ = self.children(root)
        if self.gumbel:
            return _softmax(root.logits + self._completed(root)), self._considered(root, visits.max())
        weights = visits / visits.sum() if visits.any() else _softmax(root.logits)
        return weights, int(np.argmax(weights))

    def _actions(
        self, logits: Floats, invalid: NDArray[np.bool_] | None, index: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """The ids of a node and their logits."""
        invalid = np.zeros(self.num_actions, np.bool_) if invalid is None else invalid
        count, temperature = self.config["sampled_actions"], self.config["proposal_temperature"]
        if count:
            return sampled_prior(logits, invalid, count, temperature, self.seed, index)
        return np.arange(self.num_actions), np.where(invalid, -np.inf, logits)

    def _widen(self, value: float) -> None:
        low, high = self.extremes
        self.extremes = min(low, value), max(high, value)

    def _scale(self, low: float, high: float) -> tuple[float, float]:
        """What becomes 0, and what 1 above it, for a node whose own extremes are these."""
        if self.config["normalisation"] == "tree":
            low, high = self.extremes
        if self.config["normalisation"] == "bounds":
            low, high = self.config["min_value"], self.config["max_value"]
        return low, max(high - low, self.config["min_range"])

    def _descend(self) -> tuple[int, int]:
        index, self.path = 0, []
        while True:
            node, place = self.nodes[index], self._select(index)
            action = int(node.ids[place])
            self.path.append((index, action))
            following = node.child.get(action)
            ends = following is None or len(self.path) == self.config["max_depth"]
            if ends or not self.nodes[following].valid.any():  # type: ignore[index]
                return index, action
            index = following  # type: ignore[assignment]

    def _select(self, index: int) -> int:
        node = self.nodes[index]
        visits, q = self.children(node)
        if self.gumbel and index == 0:
            return self._considered(node, self.sequence[self.simulation])
        if self.gumbel:
            score = _softmax(node.logits + self._completed(node)) - visits / (1 + visits.sum())
        else:
            seen = np.where(visits > 0, q, node.value)
            low, span = self._scale(min(seen.min(), node.value), max(seen.max(), node.value))
            scaled = (np.where(visits > 0, q, low) - low) / span
            c1, c2 = self.config["c1"], self.config["c2"]
            explore = math.sqrt(node.visits) * (c1 + math.log((node.visits + c2 + 1) / c2))
            score = explore * _softmax(node.logits) / (visits + 1) + scaled
        return self._best(node, score, node.valid)

    def _considered(self, root: TreeNode, visits: float) -> int:
        score = np.maximum(-1e9, root.logits - root.logits.max() + self._completed(root))
        return self._best(root, score, (self.children(root)[0] == visits) & root.valid)

    def _best(self, node: TreeNode, score: Floats, allowed: NDArray[np.bool_]) -> int:
        best = int(np.argmax(np.where(allowed, score, -np.inf)))
        known = np.stack([node.logits, *self.children(node)])
        rivals = score[allowed & (known != known[:, best, None]).any(axis=0)]
        if len(rivals):
            self.margin = min(self.margin, (score[best] - rivals.max()) / max(1.0, abs(score[best])))
        return best

    def _completed(self, node: TreeNode) -> Floats:
        """Q values in logits [N]; those of unvisited actions are the mixed value."""
        visits, q = self.children(node)
        prior = np.maximum(_softmax(node.logits), np.finfo(np.float32).tiny)[visits > 0]
        weighted = float((prior * q[visits > 0]).sum() / prior.sum()) if visits.any() else 0.0
        mixed = (node.raw_value + visits.sum() * weighted) / (1 + visits.sum())
        completed = np.where(visits > 0, q, mixed if self.config["mixed_value"] else node.raw_value)
        if self.config["rescale"]:
            low, span = self._scale(completed[node.valid].min(), completed[node.valid].max())
            completed = (completed - low) / span
        scaled: Floats = (self.config["maxvisit_init"] + visits.max()) * self.config["value_scale"] * completed
        return scaled


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    probabilities: Floats = weights / weights.sum()
    return probabilities
