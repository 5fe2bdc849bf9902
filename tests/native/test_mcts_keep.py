"""Searches that start from the subtree of the action that was taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from native import Mcts
from native.reference import MctsReference
from tests.native.trees import Table, check_twin, is_tied, outcome, run, run_reference


def states_of(search: Mcts, table: Table, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The table's states [B, S + 1] of the nodes of searches from `starts`."""
    parent, action, visits, _ = search.nodes()
    states = np.zeros(parent.shape, np.int64)
    states[:, 0] = starts
    for row, node in np.argwhere(visits > 0):
        if node > 0:
            states[row, node] = table.next_state[states[row, parent[row, node]], action[row, node]]
    return states


def run_on(
    search: Mcts, table: Table, starts: NDArray[np.int64], taken: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The search after the actions `taken` in the last one; states of the new roots, origins and limits."""
    rows, old = np.arange(len(starts)), states_of(search, table, starts)
    roots = np.where(taken >= 0, table.next_state[starts, np.maximum(taken, 0)], starts)
    parent, action, origin, limit = search.begin_kept(
        table.logits[roots], table.value[roots], np.zeros(len(roots), np.uint64), search.save(), taken,
        table.masks(roots),
    )  # fmt: skip
    kept = np.maximum((origin >= 0).sum(axis=1), 1)
    states = np.where(origin >= 0, np.take_along_axis(old, np.maximum(origin, 0), axis=1), 0)
    states[:, 0] = roots
    simulation = 0
    while not search.done:
        simulation += 1
        above = states[rows, parent]
        leaf = table.next_state[above, action]
        live = simulation <= limit
        states[rows[live], (kept + simulation - 1)[live]] = leaf[live]
        reward, discount = table.reward[above, action], table.discount[above, action]
        search.expand(table.logits[leaf], table.value[leaf], reward, discount, table.masks(leaf))
    assert simulation == limit.max()
    return roots, origin, limit


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_its_twin(data: st.DataObject) -> None:
    actions, simulations = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    table = Table.random(
        data.draw(st.integers(2, 20)), actions, data.draw(st.integers(0, 10_000)),
        invalid=data.draw(st.sampled_from([0.0, 0.3])), two_players=data.draw(st.booleans()),
    )  # fmt: skip
    options: dict[str, Any] = {
        "num_actions": actions,
        "simulations": simulations,
        "normalisation": data.draw(st.sampled_from(["siblings", "tree"])),
    }
    search, twin = Mcts(**options), MctsReference(**options)
    start = 0
    run(search, table, np.zeros(1, np.int64), simulations)
    run_reference(twin, table, 0)
    assume(not is_tied(twin))
    for _ in range(2):
        places = [int(node.action) for node in twin.nodes.values() if node.parent == 0]
        taken = data.draw(st.sampled_from(places))
        following = int(table.next_state[start, taken])
        if table.invalid is not None and table.invalid[following].all():
            return
        old = states_of(search, table, np.array([start]))[0]
        run_on(search, table, np.array([start]), np.array([taken]))
        _run_twin_on(twin, table, following, taken, old)
        start = following
        assume(not is_tied(twin))
        check_twin(search, twin)
        assert search.root()[0].sum() == simulations


def _run_twin_on(twin: MctsReference, table: Table, root: int, taken: int, old: NDArray[np.int64]) -> None:
    invalid = None if table.invalid is None else table.invalid[root]
    before = dict(twin.nodes)
    leaf = twin.begin_kept(taken, table.logits[root].astype(float), float(table.value[root]), invalid)
    kept = [before[0].child[taken]]
    states = {0: root}
    for index in sorted(before):
        node = before[index]
        if node.parent in kept and not (node.parent == kept[0] and invalid is not None and invalid[node.action]):
            states[len(kept)] = int(old[index])
            kept.append(index)
    following: tuple[int, int] | None = leaf
    while following is not None:
        above, action = states[following[0]], following[1]
        state = int(table.next_state[above, action])
        states[twin.first + twin.simulation] = state
        following = twin.expand(
            table.logits[state].astype(float), float(table.value[state]), float(table.reward[above, action]),
            float(table.discount[above, action]), None if table.invalid is None else table.invalid[state],
        )  # fmt: skip


def test_rows_keep_what_is_theirs_whatever_the_batch_and_the_threads() -> None:
    table, starts = Table.random(30, 4, seed=2), np.arange(40) % 30
    whole, single = Mcts(num_actions=4, simulations=24, threads=2), Mcts(num_actions=4, simulations=24)
    run(whole, table, starts, 24)
    taken = whole.policy()[1]
    taken[::5] = -1
    _, origin, limit = run_on(whole, table, starts, taken)
    everything = outcome(whole)
    assert (limit[::5] == 24).all()
    assert (limit < 24).sum() > 20
    assert (whole.root()[0].sum(axis=1) == 24).all()
    for row in (0, 1, 39):
        some = slice(row, row + 1)
        run(single, table, starts[some], 24)
        _, alone, left = run_on(single, table, starts[some], taken[some])
        assert alone.tolist() == origin[some].tolist()
        assert left == limit[some]
        for one, many in zip(outcome(single), everything, strict=True):
            np.testing.assert_array_equal(one, many[some])


def test_a_tree_that_makes_no_sense_is_not_kept() -> None:
    table, starts = Table.random(30, 4, seed=2), np.arange(40) % 30
    search = Mcts(num_actions=4, simulations=24)
    run(search, table, starts, 24)
    shape = search.save().shape
    rng = np.random.default_rng(0)
    one = np.ones(40, np.float32)
    for trees in (rng.integers(0, 256, shape, np.uint8), np.full(shape, 255, np.uint8), np.ones(shape, np.uint8)):
        search.begin_kept(table.logits[starts], one, np.zeros(40, np.uint64), trees, np.zeros(40, np.int64))
        while not search.done:
            search.expand(table.logits[starts], one, one, one)
        assert (search.root()[0].sum(axis=1) <= 24).all()


def test_refuses_what_cannot_be_kept() -> None:
    table, zero, one = Table.random(5, 3, seed=0), np.zeros(1, np.int64), np.ones(1, np.float32)
    for options in ({"selection": "gumbel"}, {"sampled_actions": 2}):
        search = Mcts(num_actions=3, simulations=4, **options)  # type: ignore[arg-type]
        run(search, table, zero, 4)
        with pytest.raises(ValueError, match="subtrees can be kept by puct over all actions only"):
            search.begin_kept(table.logits[:1], one, np.zeros(1, np.uint64), search.save(), zero)
    search = Mcts(num_actions=3, simulations=4)
    run(search, table, zero, 4)
    with pytest.raises(ValueError, match="action must be less than 3, not 3 at row 0"):
        search.begin_kept(table.logits[:1], one, np.zeros(1, np.uint64), search.save(), zero + 3)
    with pytest.raises(ValueError, match="trees must have shape"):
        search.begin_kept(table.logits[:1], one, np.zeros(1, np.uint64), search.save()[:, 1:].copy(), zero)
