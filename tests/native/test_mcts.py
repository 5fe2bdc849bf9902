"""native.Mcts against mctx's golden trees and its twin, and what a batch, noise and bad input must not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from native import Mcts, halving_sequence, reference
from native.reference import MctsReference
from tests.golden import check_search
from tests.native.trees import Table, check_twin, is_tied, outcome, run, run_reference

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [case for file in sorted(GOLDEN.glob("mctx_*.json")) for case in check_search.read_cases(file)]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_equals_mctx(case: dict[str, Any]) -> None:
    assert check_search.differences(case) == []


def test_a_golden_case_is_the_same_in_a_batch_on_two_threads() -> None:
    case = CASES[0]
    alone, batch = check_search.run_case(case), check_search.run_case(case, copies=40, threads=2)
    for one, many in zip(outcome(alone), outcome(batch), strict=True):
        np.testing.assert_array_equal(np.repeat(one, 40, axis=0), many)


def test_the_golden_check_counts_and_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, wrong = CASES[0], dict(CASES[0], name="wrong", root_state=1)
    (tmp_path / "cases.json").write_text(json.dumps({"cases": [good, wrong]}))
    assert check_search.main([str(tmp_path / "cases.json")]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "2 cases, 1 differ"
    assert lines
    assert all(line.startswith("wrong: ") for line in lines)
    with pytest.raises(ValueError, match="there is no muzero with qtransform_of_mine"):
        check_search.search_options(CASES[0] | {"algorithm": "muzero", "qtransform": "qtransform_of_mine"})


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_equals_its_twin(data: st.DataObject) -> None:
    actions, simulations = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 60))
    table = Table.random(
        data.draw(st.integers(2, 30)),
        actions,
        data.draw(st.integers(0, 10_000)),
        invalid=data.draw(st.sampled_from([0.0, 0.3, 0.8])),
        two_players=data.draw(st.booleans()),
    )
    invalid = np.array(data.draw(st.lists(st.booleans(), min_size=actions, max_size=actions)))
    invalid[data.draw(st.integers(0, actions - 1))] = False
    options: dict[str, Any] = {
        "num_actions": actions,
        "simulations": simulations,
        "selection": data.draw(st.sampled_from(["puct", "gumbel"])),
        "max_depth": data.draw(st.sampled_from([0, 1, 2, 5])),
        "sampled_actions": data.draw(st.sampled_from([0, actions, (actions + 1) // 2])),
        "proposal_temperature": data.draw(st.sampled_from([1.0, 2.0, 0.7])),
        "normalisation": data.draw(st.sampled_from(["siblings", "tree", "bounds"])),
        "min_value": -0.5,
        "min_range": data.draw(st.sampled_from([1e-3, 0.5])),  # less would make float32's last digit a choice
        "max_considered": data.draw(st.integers(1, 12)),
        "rescale": data.draw(st.booleans()),
        "mixed_value": data.draw(st.booleans()),
    }
    search, twin = Mcts(**options), MctsReference(**options)
    seed = data.draw(st.integers(0, 2**64 - 1))
    run(search, table, np.zeros(1, np.int64), simulations, invalid[None], np.array([seed], np.uint64))
    run_reference(twin, table, 0, invalid, seed)
    assume(not is_tied(twin))
    check_twin(search, twin)


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


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_actions": 0}, "num_actions must be at least 1, not 0"),
        ({"simulations": 0}, "simulations must be at least 1, not 0"),
        ({"selection": "ucb"}, "selection must be puct or gumbel, not ucb"),
        ({"max_depth": -1}, "max_depth must not be negative, not -1"),
        ({"sampled_actions": -1}, "sampled_actions must not be negative, not -1"),
        ({"sampled_actions": 3}, "sampled_actions must be at most num_actions 2, not 3"),
        ({"proposal_temperature": 0.0}, "proposal_temperature must be positive, not 0"),
        ({"normalisation": "all"}, "normalisation must be siblings, tree or bounds, not all"),
        ({"min_value": 1.0}, r"max_value must be more than min_value 1.0*, not 1.0"),
        ({"min_range": 0.0}, "min_range must be positive, not 0"),
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
    with pytest.raises(ValueError, match="logits must be finite, not inf at row 0, action 1"):
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
            with pytest.raises(ValueError, match=f"{name} must be finite, not nan at row 0"):
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
