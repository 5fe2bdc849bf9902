"""native.Mcts against mctx's golden trees and its twin, and what a batch, noise and bad input must not change."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from native import Mcts, halving_sequence, reference
from native.reference import MctsReference

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for name in ("mctx_tables.json", "mctx_trees.json")
    for case in json.loads((GOLDEN / name).read_text(encoding="utf-8"))["cases"]
]


@dataclass(frozen=True)
class Table:
    """A model of `states` states: where each action leads, what it pays, and how states look."""

    next_state: NDArray[np.int64]  # [states, A]
    reward: NDArray[np.float32]  # [states, A]
    discount: NDArray[np.float32]  # [states, A]
    logits: NDArray[np.float32]  # [states, A]
    value: NDArray[np.float32]  # [states]

    @classmethod
    def random(cls, states: int, actions: int, seed: int) -> Table:
        rng = np.random.default_rng(seed)
        shape = states, actions
        return cls(
            rng.integers(0, states, shape),
            rng.normal(0.0, 0.3, shape).astype(np.float32),
            rng.uniform(0.8, 1.0, shape).astype(np.float32),
            rng.normal(0.0, 1.5, shape).astype(np.float32),
            rng.normal(0.0, 1.0, states).astype(np.float32),
        )


def run(
    search: Mcts,
    table: Table,
    starts: NDArray[np.int64],
    simulations: int,
    invalid: NDArray[np.bool_] | None = None,
    seeds: NDArray[np.uint64] | None = None,
) -> None:
    """A whole search from the states `starts` [B]."""
    rows = np.arange(len(starts))
    states = np.zeros((len(starts), simulations + 1), np.int64)
    states[:, 0] = starts
    seeds = np.zeros(len(starts), np.uint64) if seeds is None else seeds
    parent, action = search.begin(table.logits[starts], table.value[starts], seeds, invalid)
    for simulation in range(1, simulations + 1):
        above = states[rows, parent]
        leaf = states[:, simulation] = table.next_state[above, action]
        assert (leaf >= 0).all(), f"simulation {simulation} left the golden tree"
        reward, discount = table.reward[above, action], table.discount[above, action]
        search.expand(table.logits[leaf], table.value[leaf], reward, discount)


def run_reference(search: MctsReference, table: Table, start: int, invalid: NDArray[np.bool_] | None = None) -> None:
    states = {0: start}
    logits, value, reward, discount = (
        part.astype(np.float64) for part in (table.logits, table.value, table.reward, table.discount)
    )
    following: tuple[int, int] | None = search.begin(logits[start], value[start], invalid)
    while following is not None:
        parent, action = following
        above = states[parent]
        leaf = int(table.next_state[above, action])
        states[search.simulation + 1] = leaf
        following = search.expand(logits[leaf], value[leaf], reward[above, action], discount[above, action])


def outcome(search: Mcts) -> list[NDArray[Any]]:
    return [*search.nodes(), *search.root(), *search.policy()]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_equals_mctx(case: dict[str, Any]) -> None:
    table = Table(
        np.array(case["next_state"]),
        np.array(case["reward"], np.float32),
        np.full_like(case["reward"], case["discount"], np.float32),
        np.array(case["prior_logits"], np.float32),
        np.array(case["value"], np.float32),
    )
    options = dict(case.get("qtransform_kwargs", {}))
    if case["algorithm"] == "gumbel_muzero":
        options |= {"selection": "gumbel", "max_considered": case["max_num_considered_actions"]}
        options["rescale"] = options.pop("rescale_values", True)
    simulations = case["num_simulations"]
    invalid = None if case["invalid_actions"] is None else np.array([case["invalid_actions"]], np.bool_)
    search = Mcts(num_actions=table.reward.shape[1], simulations=simulations, **options)
    run(search, table, np.array([case["root_state"]]), simulations, invalid)
    expected = case["expected"]
    parent, action, visits, value = search.nodes()
    assert parent[0].tolist() == expected["node_parent"]
    assert action[0].tolist() == expected["node_action"]
    assert visits[0].tolist() == expected["node_visits"]
    np.testing.assert_allclose(value[0], expected["node_value"], rtol=1e-4, atol=2e-6)
    root_visits, q, root_value = search.root()
    assert root_visits[0].tolist() == expected["visit_counts"]
    np.testing.assert_allclose(q[0], np.array(expected["root_qvalues"], float), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(root_value[0], expected["root_value"], rtol=1e-4, atol=2e-6)
    weights, best = search.policy()
    if "action_weights" in expected:
        np.testing.assert_allclose(weights[0], expected["action_weights"], rtol=1e-4, atol=1e-6)
        assert best[0] == expected.get("action", expected.get("action_most_visited"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_its_twin(data: st.DataObject) -> None:
    actions, simulations = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 60))
    table = Table.random(data.draw(st.integers(2, 30)), actions, data.draw(st.integers(0, 10_000)))
    invalid = np.array(data.draw(st.lists(st.booleans(), min_size=actions, max_size=actions)))
    invalid[data.draw(st.integers(0, actions - 1))] = False
    options: dict[str, Any] = {
        "num_actions": actions,
        "simulations": simulations,
        "selection": data.draw(st.sampled_from(["puct", "gumbel"])),
        "max_depth": data.draw(st.sampled_from([0, 1, 2, 5])),
        "max_considered": data.draw(st.integers(1, 12)),
        "rescale": data.draw(st.booleans()),
    }
    search, twin = Mcts(**options), MctsReference(**options)
    run(search, table, np.zeros(1, np.int64), simulations, invalid[None])
    run_reference(twin, table, 0, invalid)
    parent, action, visits, value = (part[0] for part in search.nodes())
    for index in range(simulations + 1):
        node = twin.nodes.get(index)
        if node is None:
            assert (parent[index], action[index], visits[index], value[index]) == (-1, -1, 0, 0.0)
            continue
        assert (parent[index], action[index], visits[index]) == (node.parent, node.action, node.visits), index
        assert value[index] == pytest.approx(node.value, rel=1e-4, abs=1e-5)
    weights, best = search.policy()
    expected, chosen = twin.policy()
    np.testing.assert_allclose(weights[0], expected, rtol=1e-3, atol=1e-5)
    assert best[0] == chosen
    assert not invalid[best[0]]
    assert search.root()[0][0].tolist() == twin.children(twin.nodes[0])[0].tolist()
    assert search.root()[0][0][invalid].sum() == 0


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_tree_is_its_own_whatever_the_batch_the_threads_and_the_search_before(selection: str, noise: float) -> None:
    table = Table.random(40, 6, seed=1)
    starts, seeds = np.arange(70) % 40, np.arange(70, dtype=np.uint64) + 5
    invalid = np.random.default_rng(0).random((70, 6)) < 0.4
    invalid[:, 2] = False
    options: dict[str, Any] = {"selection": selection, "dirichlet_fraction": noise, "gumbel_scale": noise}
    whole = Mcts(num_actions=6, simulations=25, threads=3, **options)
    run(whole, table, starts[::-1].copy(), 25)  # leaves its memory full of something else
    run(whole, table, starts, 25, invalid, seeds)
    everything = outcome(whole)
    single = Mcts(num_actions=6, simulations=25, **options)
    for row in (0, 1, 33, 69):
        some = slice(row, row + 1)
        run(single, table, starts[some], 25, invalid[some], seeds[some])
        for one, many in zip(outcome(single), everything, strict=True):
            np.testing.assert_array_equal(one, many[some])


@pytest.mark.parametrize(
    ("considered", "simulations", "sequence"),
    [
        (8, 24, [0] * 8 + [1] * 4 + [2] * 4 + [3, 3, 4, 4, 5, 5, 6, 6]),
        (8, 2, [0, 0]),
        (8, 13, [0] * 8 + [1] * 4 + [2]),
        (7, 24, [0] * 7 + [1] * 3 + [2] * 3 + [n for n in range(3, 8) for _ in range(2)] + [8]),
        (1, 5, [0, 1, 2, 3, 4]),
        (2, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_sequential_halving(considered: int, simulations: int, sequence: list[int]) -> None:
    assert halving_sequence(considered, simulations) == sequence
    assert reference.halving_sequence(considered, simulations) == sequence


def test_a_bandit_by_hand() -> None:
    """The case of mctx's tests: rewards (20, 3, -1, 10), nothing after them, actions 0 and 3 not allowed."""
    search = Mcts(num_actions=4, simulations=17, selection="gumbel", max_depth=3, value_scale=0.05, maxvisit_init=60.0)
    reward = np.array([20.0, 3.0, -1.0, 10.0], np.float32)
    logits = np.array([[0.0, -1.0, 2.0, 3.0]], np.float32)
    nothing = np.zeros(1, np.float32)
    _, action = search.begin(
        logits, np.array([-5.0], np.float32), np.zeros(1, np.uint64), np.array([[True, False, False, True]])
    )
    for _ in range(17):
        search.expand(logits, nothing, reward[action], nothing)
    assert search.root()[0].tolist() == [[0, 9, 8, 0]]
    assert search.policy()[1].tolist() == [1]


def test_the_first_simulation_follows_the_prior() -> None:
    """LightZero and EfficientZero ignore it there and pick at random (reference conventions, defect of peers)."""
    search = Mcts(num_actions=4, simulations=1)
    _, action = search.begin(
        np.array([[0.0, 0.0, 0.0, 7.0]], np.float32), np.zeros(1, np.float32), np.zeros(1, np.uint64)
    )
    assert action.tolist() == [3]


@pytest.mark.parametrize(("actions", "simulations", "visits"), [(2, 8, [4, 4]), (3, 16, [7, 7, 2])])
def test_considers_no_more_actions_than_there_are(actions: int, simulations: int, visits: list[int]) -> None:
    """A halving that counts on 16 actions where there are 2 spends its simulations on one (defect of LightZero)."""
    search = Mcts(num_actions=actions, simulations=simulations, selection="gumbel")
    table = Table(
        np.zeros((1, actions), np.int64),
        np.zeros((1, actions), np.float32),
        np.ones((1, actions), np.float32),
        np.zeros((1, actions), np.float32),
        np.zeros(1, np.float32),
    )
    run(search, table, np.zeros(1, np.int64), simulations)
    assert sorted(search.root()[0][0].tolist(), reverse=True) == visits


def first_actions(seeds: int, **options: Any) -> Counter[int]:
    """The first action of a search from the same root, for many seeds."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    search = Mcts(num_actions=4, simulations=1, **options)
    _, action = search.begin(
        np.tile(logits, (seeds, 1)), np.zeros(seeds, np.float32), np.arange(seeds, dtype=np.uint64)
    )
    return Counter(action.tolist())


def test_gumbel_noise_draws_from_the_policy() -> None:
    counts = first_actions(20_000, selection="gumbel", gumbel_scale=1.0, value_scale=0.0)
    for action, share in enumerate([0.5, 0.25, 0.15, 0.1]):
        assert counts[action] / 20_000 == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlet_noise_has_its_distribution(alpha: float) -> None:
    """With noise alone the first action is the largest of four equal shares; a small alpha leaves one large."""
    counts = first_actions(20_000, dirichlet_alpha=alpha, dirichlet_fraction=1.0)
    for action in range(4):
        assert counts[action] / 20_000 == pytest.approx(0.25, abs=0.015)
    assert first_actions(500, dirichlet_fraction=0.0) == {0: 500}
    mixed = first_actions(20_000, dirichlet_alpha=alpha, dirichlet_fraction=0.25)
    largest = np.random.default_rng(0).dirichlet([alpha] * 4, 20_000) * 0.25 + 0.75 * np.array([0.5, 0.25, 0.15, 0.1])
    expected = np.bincount(largest.argmax(-1), minlength=4) / 20_000
    for action in range(4):
        assert mixed[action] / 20_000 == pytest.approx(expected[action], abs=0.015)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_actions": 0}, "num_actions must be at least 1, not 0"),
        ({"simulations": 0}, "simulations must be at least 1, not 0"),
        ({"selection": "ucb"}, "selection must be puct or gumbel, not ucb"),
        ({"max_depth": -1}, "max_depth must not be negative, not -1"),
        ({"c2": 0.0}, "c2 must be positive, not 0"),
        ({"dirichlet_fraction": 1.5}, r"dirichlet_fraction must be in \[0, 1\], not 1.5"),
        ({"dirichlet_alpha": 0.0}, "dirichlet_alpha must be positive, not 0"),
        ({"gumbel_scale": float("nan")}, "gumbel_scale must be finite and not negative, not nan"),
        ({"max_considered": 0}, "max_considered must be at least 1, not 0"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Mcts(**({"num_actions": 2, "simulations": 2} | options))


def test_refuses_bad_input_and_goes_on_as_if_nothing_had_been() -> None:
    table, zero = Table.random(5, 3, seed=0), np.zeros(1, np.int64)
    search, untouched = Mcts(num_actions=3, simulations=2), Mcts(num_actions=3, simulations=2)
    run(untouched, table, zero, 2)
    logits, value = table.logits[:1], table.value[:1]
    one, seeds = np.ones(1, np.float32), np.zeros(1, np.uint64)
    bad = np.array([[0.0, np.inf, 0.0]], np.float32)
    with pytest.raises(ValueError, match=r"logits must have shape \[0, 3\], not \[1, 3\]"):
        search.expand(logits, value, one, one)
    with pytest.raises(ValueError, match="there are no roots: begin a search first"):
        search.expand(logits[:0], value[:0], one[:0], one[:0])
    with pytest.raises(ValueError, match="every root needs a valid action, but root 0 has none"):
        search.begin(logits, value, seeds, np.ones((1, 3), np.bool_))
    with pytest.raises(ValueError, match="logits must be finite, not inf at entry 1"):
        search.begin(bad, value, seeds)
    with pytest.raises(ValueError, match=r"logits must have shape \[1, 3\], not \[1, 2\]"):
        search.begin(np.zeros((1, 2), np.float32), value, seeds)
    with pytest.raises(TypeError):
        search.begin(logits.astype(np.float64), value, seeds)
    parent, action = search.begin(logits, value, seeds)
    above = 0
    for _ in range(2):
        for name in ("logits", "value", "reward", "discount"):
            arguments = {"logits": logits, "value": value, "reward": one, "discount": one}
            arguments[name] = np.full_like(arguments[name], np.nan)
            with pytest.raises(ValueError, match=f"{name} must be finite, not nan at entry 0"):
                search.expand(**arguments)
        states = [0, above]
        above = int(table.next_state[states[parent[0]], action[0]])
        from_state = states[parent[0]]
        some = slice(above, above + 1)
        search.expand(
            table.logits[some],
            table.value[some],
            table.reward[from_state, action],
            table.discount[from_state, action],
        )
    for mine, other in zip(outcome(search), outcome(untouched), strict=True):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(ValueError, match="the search is done after 2 simulations"):
        search.expand(logits, value, one, one)
