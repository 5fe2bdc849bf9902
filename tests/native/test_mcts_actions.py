"""The actions of a node: drawn ones and their prior, masks, noise, players that take turns, and value ranges."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from native import Mcts
from native.reference import sampled_prior
from tests.native.trees import Table, outcome, run

PRIOR = np.array([0.5, 0.25, 0.15, 0.1])


def roots(search: Mcts, prior: NDArray[Any], count: int, invalid: NDArray[np.bool_] | None = None) -> None:
    """Begins `count` searches of one root with seeds of their own."""
    logits = np.tile(np.log(prior).astype(np.float32), (count, 1))
    seeds = np.arange(count, dtype=np.uint64)
    search.begin(logits, np.zeros(count, np.float32), seeds, None if invalid is None else np.tile(invalid, (count, 1)))


def first_actions(seeds: int, **options: Any) -> Counter[int]:
    """The first action of a search from the same root, for many seeds."""
    search = Mcts(num_actions=4, simulations=1, **options)
    logits = np.tile(np.log(PRIOR).astype(np.float32), (seeds, 1))
    _, action = search.begin(logits, np.zeros(seeds, np.float32), np.arange(seeds, dtype=np.uint64))
    return Counter(action.tolist())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_drawn_actions_come_from_the_proposal_and_carry_the_corrected_prior(temperature: float) -> None:
    """Hubert et al. 2021: pi^ = (beta^ / beta) pi, of which a node's prior is the normalised form."""
    count, seeds = 3, 4000
    search = Mcts(num_actions=4, simulations=1, sampled_actions=count, proposal_temperature=temperature)
    roots(search, PRIOR, seeds)
    ids, (weights, _) = search.actions(), search.policy()  # before any simulation the policy is the prior
    beta = PRIOR ** (1.0 / temperature)
    beta /= beta.sum()
    present = np.zeros((seeds, 4))
    for row in range(seeds):
        known = ids[row] >= 0
        assert (np.diff(ids[row, known]) > 0).all()
        assert (weights[row, ~known] == 0.0).all()
        present[row, ids[row, known]] = 1.0
        if row < 200:
            again, logits = sampled_prior(np.log(PRIOR), np.zeros(4, np.bool_), count, temperature, row, 0)
            assert again.tolist() == ids[row, known].tolist()
            draws = np.exp(logits - (1.0 - 1.0 / temperature) * np.log(PRIOR[again])) / count  # beta^
            assert draws.sum() == pytest.approx(1.0)
            corrected = draws / beta[again] * PRIOR[again]
            np.testing.assert_allclose(weights[row, known], corrected / corrected.sum(), rtol=1e-5)
    np.testing.assert_allclose(present.mean(0), 1.0 - (1.0 - beta) ** count, atol=0.03)


def test_a_thousand_ids_are_searched_by_eight_of_them() -> None:
    table = Table.random(30, 1000, seed=3, invalid=0.5)
    search = Mcts(num_actions=1000, simulations=30, sampled_actions=8, selection="gumbel")
    run(search, table, np.zeros(2, np.int64), 30, seeds=np.array([1, 2], np.uint64))
    assert table.invalid is not None
    ids, (visits, _, _) = search.actions(), search.root()
    assert visits.shape == ids.shape == (2, 8)
    assert not table.invalid[0, ids[ids >= 0]].any()
    assert visits.sum(axis=1).tolist() == [30, 30]
    assert ids[0].tolist() != ids[1].tolist()
    _, action, counts, _ = search.nodes()
    assert (action[:, 1:][counts[:, 1:] > 0] > 8).any()  # ids, not places


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
@pytest.mark.parametrize("normalisation", ["siblings", "tree", "bounds"])
@pytest.mark.parametrize("sampled", [0, 3])
def test_masks_that_change_with_the_state_keep_everything_finite(
    selection: Any, normalisation: Any, sampled: int
) -> None:
    table = Table.random(40, 5, seed=8, invalid=0.7)
    assert table.invalid is not None
    assert (table.invalid.sum(axis=1) == 5).any()
    assert (table.invalid.sum(axis=1) == 4).any()
    search = Mcts(
        num_actions=5, simulations=60, selection=selection, normalisation=normalisation, sampled_actions=sampled
    )
    starts = np.flatnonzero((~table.invalid).any(axis=1))
    run(search, table, starts, 60, seeds=starts.astype(np.uint64))
    weights, best = search.policy()
    visits, q, value = search.root()
    assert np.isfinite(weights).all()
    assert np.isfinite(value).all()
    assert np.isfinite(q[visits > 0]).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    ids = search.actions()
    assert visits.sum(axis=1).tolist() == [60] * len(starts)
    for row, start in enumerate(starts):
        assert not table.invalid[start, ids[row, best[row]]]
        assert visits[row, ids[row] < 0].sum() == 0


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
def test_one_valid_action_is_taken(selection: Any) -> None:
    table = Table.random(10, 4, seed=2)
    only = np.array([[True, True, False, True]])
    search = Mcts(num_actions=4, simulations=12, selection=selection, gumbel_scale=1.0, dirichlet_fraction=0.5)
    run(search, table, np.zeros(1, np.int64), 12, only)
    assert search.root()[0].tolist() == [[0, 0, 12, 0]]
    assert search.policy()[0].tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert search.policy()[1].tolist() == [2]


def test_nothing_is_searched_after_a_state_without_a_valid_action() -> None:
    """State 1 ends the episode: it is evaluated again, and never left."""
    search = Mcts(num_actions=2, simulations=5)
    one = np.ones(1, np.float32)
    search.begin(np.zeros((1, 2), np.float32), one, np.zeros(1, np.uint64), np.array([[True, False]]))
    for _ in range(5):
        search.expand(np.zeros((1, 2), np.float32), one, one, one, np.ones((1, 2), np.bool_))
    parent, _, visits, value = search.nodes()
    assert visits.tolist() == [[6, 5, 0, 0, 0, 0]]
    assert parent.tolist() == [[-1, 0, -1, -1, -1, -1]]
    np.testing.assert_allclose(value[0, :2], [(1.0 + 5 * 2.0) / 6, 1.0])


def test_players_that_take_turns_choose_what_is_worst_for_the_other() -> None:
    """A game of two moves: the first player's action 0 leaves the other a win, action 1 does not."""
    search = Mcts(num_actions=2, simulations=40, normalisation="bounds", min_value=-1.0)
    logits, zero = np.zeros((1, 2), np.float32), np.zeros(1, np.float32)
    parent, action = search.begin(logits, zero, np.zeros(1, np.uint64))
    moves: list[tuple[int, ...]] = [()]
    for _ in range(40):
        path = (*moves[int(parent[0])], int(action[0]))
        moves.append(path)
        ends = np.array([len(path) == 2])
        wins = np.array([1.0 if path == (0, 1) else 0.0], np.float32)  # for the second player
        turn = np.array([0.0 if ends[0] else -1.0], np.float32)
        search.expand(logits, zero, wins, turn, np.repeat(ends, 2)[None])
    visits, q, _ = search.root()
    assert q[0, 0] < -0.5
    assert q[0, 1] == 0.0
    assert visits[0, 1] > 2 * visits[0, 0]
    assert search.policy()[1].tolist() == [1]


def normalised_scores(normalisation: Any, **options: Any) -> list[list[int]]:
    """Visits of a root whose actions pay 0 and 0.1, below which a state pays 10 and -10."""
    search = Mcts(num_actions=2, simulations=60, normalisation=normalisation, **options)
    logits, zero = np.zeros((1, 2), np.float32), np.zeros(1, np.float32)
    parent, action = search.begin(logits, zero, np.zeros(1, np.uint64))
    for _ in range(60):
        reward = [0.0, 0.1] if parent[0] == 0 else [-10.0, 10.0]
        weight = np.ones(1, np.float32) if parent[0] > 0 else zero  # what is below does not reach the root
        search.expand(logits, zero, np.array([reward[int(action[0])]], np.float32), weight)
    visits: list[list[int]] = search.root()[0].tolist()
    return visits


def test_a_difference_counts_by_what_it_is_measured_against() -> None:
    siblings, tree = normalised_scores("siblings")[0], normalised_scores("tree")[0]
    narrow, wide = (normalised_scores("bounds", max_value=high)[0] for high in (0.1, 100.0))
    assert siblings == narrow  # both scale 0 to 0.1 to the whole range
    assert siblings[1] > 40
    assert abs(tree[1] - tree[0]) <= 2  # 0.1 is little beside 10
    assert abs(wide[1] - wide[0]) <= 2
    assert abs(normalised_scores("siblings", min_range=100.0)[0][0] - 30) <= 1


def test_gumbel_noise_draws_from_the_policy() -> None:
    counts = first_actions(20_000, selection="gumbel", gumbel_scale=1.0, value_scale=0.0)
    for action, share in enumerate(PRIOR):
        assert counts[action] / 20_000 == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlet_noise_has_its_distribution(alpha: float) -> None:
    """With noise alone the first action is the largest of four equal shares; a small alpha leaves one large."""
    counts = first_actions(20_000, dirichlet_alpha=alpha, dirichlet_fraction=1.0)
    for action in range(4):
        assert counts[action] / 20_000 == pytest.approx(0.25, abs=0.015)
    assert first_actions(500, dirichlet_fraction=0.0) == {0: 500}
    mixed = first_actions(20_000, dirichlet_alpha=alpha, dirichlet_fraction=0.25)
    largest = np.random.default_rng(0).dirichlet([alpha] * 4, 20_000) * 0.25 + 0.75 * PRIOR
    expected = np.bincount(largest.argmax(-1), minlength=4) / 20_000
    for action in range(4):
        assert mixed[action] / 20_000 == pytest.approx(expected[action], abs=0.015)


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
def test_a_search_without_noise_is_that_of_a_search_that_has_none(selection: Any) -> None:
    table, starts, seeds = Table.random(20, 4, seed=5), np.arange(20), np.arange(20, dtype=np.uint64)
    noisy = Mcts(num_actions=4, simulations=20, selection=selection, gumbel_scale=2.0, dirichlet_fraction=0.9)
    quiet = Mcts(num_actions=4, simulations=20, selection=selection)
    run(noisy, table, starts, 20, seeds=seeds)
    disturbed = outcome(noisy)
    run(noisy, table, starts, 20, seeds=seeds, noise=False)
    run(quiet, table, starts, 20, seeds=seeds)
    for one, other in zip(outcome(noisy), outcome(quiet), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(outcome(noisy), disturbed, strict=True))
