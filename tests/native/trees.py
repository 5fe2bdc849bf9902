"""Table models for tree searches, and whole searches of them by the kernel and by its twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from native import Mcts
from native.reference import MctsReference


@dataclass(frozen=True)
class Table:
    """A model of `states` states: where each action leads, what it pays, and how states look."""

    next_state: NDArray[np.int64]  # [states, A]
    reward: NDArray[np.float32]  # [states, A]
    discount: NDArray[np.float32]  # [states, A]
    logits: NDArray[np.float32]  # [states, A]
    value: NDArray[np.float32]  # [states]
    invalid: NDArray[np.bool_] | None = None  # [states, A]

    @classmethod
    def random(cls, states: int, actions: int, seed: int, invalid: float = 0.0, two_players: bool = False) -> Table:
        """Any table; state 0 has a valid action where a share `invalid` of all actions is not."""
        rng = np.random.default_rng(seed)
        shape = states, actions
        sign = rng.choice([-1.0, 1.0], shape) if two_players else np.ones(shape)
        masks = rng.random(shape) < invalid
        masks[0, rng.integers(actions)] = False
        return cls(
            rng.integers(0, states, shape),
            rng.normal(0.0, 0.3, shape).astype(np.float32),
            (sign * rng.uniform(0.8, 1.0, shape)).astype(np.float32),
            rng.normal(0.0, 1.5, shape).astype(np.float32),
            rng.normal(0.0, 1.0, states).astype(np.float32),
            masks if invalid else None,
        )

    def masks(self, states: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """What is invalid in them."""
        return None if self.invalid is None else self.invalid[states]


def run(
    search: Mcts,
    table: Table,
    starts: NDArray[np.int64],
    simulations: int,
    invalid: NDArray[np.bool_] | None = None,
    seeds: NDArray[np.uint64] | None = None,
    noise: bool = True,
) -> None:
    """A whole search from the states `starts` [B]; `invalid` is of the roots, on top of the table's own."""
    rows = np.arange(len(starts))
    states = np.zeros((len(starts), simulations + 1), np.int64)
    states[:, 0] = starts
    seeds = np.zeros(len(starts), np.uint64) if seeds is None else seeds
    invalid = table.masks(starts) if invalid is None else invalid
    parent, action = search.begin(table.logits[starts], table.value[starts], seeds, invalid, noise)
    for simulation in range(1, simulations + 1):
        above = states[rows, parent]
        leaf = states[:, simulation] = table.next_state[above, action]
        reward, discount = table.reward[above, action], table.discount[above, action]
        search.expand(table.logits[leaf], table.value[leaf], reward, discount, table.masks(leaf))


def run_reference(
    search: MctsReference, table: Table, start: int, invalid: NDArray[np.bool_] | None = None, seed: int = 0
) -> None:
    """The same of one root by the twin."""
    states = {0: start}
    logits, value, reward, discount = (
        part.astype(np.float64) for part in (table.logits, table.value, table.reward, table.discount)
    )

    def masked(state: int) -> NDArray[np.bool_] | None:
        return None if table.invalid is None else table.invalid[state]

    invalid = masked(start) if invalid is None else invalid
    following: tuple[int, int] | None = search.begin(logits[start], value[start], invalid, seed)
    while following is not None:
        parent, action = following
        above = states[parent]
        leaf = int(table.next_state[above, action])
        states[search.simulation + 1] = leaf
        following = search.expand(
            logits[leaf], value[leaf], reward[above, action], discount[above, action], masked(leaf)
        )


def outcome(search: Mcts) -> list[NDArray[Any]]:
    """All that a search says."""
    return [*search.nodes(), *search.details(), *search.root(), *search.policy(), search.actions()]


def is_tied(twin: MctsReference) -> bool:
    """Whether float32's last digit was a choice of a whole search, that of its action among them."""
    twin.policy()
    return twin.margin <= 1e-5


def check_twin(search: Mcts, twin: MctsReference) -> None:
    """Fails unless both found the same."""
    parent, action, visits, value = (part[0] for part in search.nodes())
    _, reward, discount, raw_value = (part[0] for part in search.details())
    for index in range(twin.simulations + 1):
        node = twin.nodes.get(index)
        if node is None:
            assert (parent[index], action[index], visits[index], value[index]) == (-1, -1, 0, 0.0)
            continue
        assert (parent[index], action[index], visits[index]) == (node.parent, node.action, node.visits), index
        found = value[index], reward[index], discount[index], raw_value[index]
        assert found == pytest.approx((node.value, node.reward, node.discount, node.raw_value), rel=1e-4, abs=1e-5)
    root = twin.nodes[0]
    count, ids = len(root.ids), search.actions()[0]
    assert ids[:count].tolist() == np.where(root.valid, root.ids, -1).tolist()
    assert (ids[count:] == -1).all()
    weights, best = search.policy()
    expected, chosen = twin.policy()
    np.testing.assert_allclose(weights[0, :count], expected, rtol=1e-3, atol=1e-5)
    assert best[0] == chosen
    assert ids[chosen] >= 0
    counted = search.root()[0][0]
    assert counted[:count].tolist() == twin.children(root)[0].tolist()
    assert counted[ids < 0].sum() == 0
    assert (weights[0, ids < 0] == 0.0).all()
