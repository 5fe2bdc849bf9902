"""TreePlanner on small models whose best actions are known and which check what they are given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.carry import take_rows
from planners.base import Expansion
from planners.config import MctsConfig, Selection
from planners.tree import TreeCarry, TreePlanner


class Word(NamedTuple):
    """The letters so far, as digits of a number behind a leading 1, and the row."""

    letters: Tensor  # [B]
    row: Tensor  # [B]


class Lock:
    """Three letters open it: reward 1 for each row's own word of 3 letters, 0 else; then the episode is over.

    A latent is the whole history, so that a state gathered from the wrong node or row would be noticed.
    """

    discrete, num_actions, num_draws = False, 3, 2

    def __init__(self, words: list[int]) -> None:
        self.words = torch.tensor(words)
        self.opened = 0

    def step(self, latent: Word, action: Tensor, noise: Tensor) -> tuple[Word, Tensor, Tensor]:
        assert noise.shape == (len(latent.row), 2)
        assert ((noise >= 0.0) & (noise < 1.0)).all()
        assert latent.row.equal(torch.arange(len(latent.row)))
        letter = action[:, :3].argmax(-1)
        assert (action[:, :3].sum(-1) == 1.0).all()
        assert action[:, 3].equal(latent.letters.float())
        letters = 10 * latent.letters + letter
        opens = letters == self.words[latent.row]
        self.opened += int(opens.sum())
        return Word(letters, latent.row), opens.float(), (letters < 1000).float()

    def expand(self, latent: Word, noise: Tensor) -> Expansion:
        rows = len(latent.row)
        actions = torch.zeros(rows, 3, 4)
        actions[:, range(3), range(3)] = 1.0
        actions[:, :, 3] = latent.letters[:, None].float()
        return Expansion(torch.zeros(rows, 3), torch.zeros(rows), actions)


def start(rows: int) -> Word:
    return Word(torch.ones(rows, dtype=torch.long), torch.arange(rows))


def seeds(rows: int) -> np.ndarray:
    return np.arange(rows, dtype=np.uint64) + 7


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
def test_finds_what_is_three_actions_away(selection: Selection) -> None:
    words = [1000, 1222, 1210, 1021, 1111]
    model = Lock(words)
    planner = TreePlanner(MctsConfig(gamma=0.9, simulations=120, selection=selection), model)
    carry = planner.initial(seeds(5))
    plan, after = planner.plan(start(5), carry, np.ones(5, np.bool_), explore=False)
    assert model.opened >= 5
    assert plan.action[:, :3].argmax(-1).tolist() == [word // 100 % 10 for word in words]
    assert plan.actions.shape == (5, 3, 4)
    np.testing.assert_array_equal(plan.actions[:, :, :3], np.broadcast_to(np.eye(3), (5, 3, 3)))
    assert plan.weights.argmax(-1).tolist() == plan.action[:, :3].argmax(-1).tolist()
    np.testing.assert_allclose(plan.weights.sum(-1), 1.0, rtol=1e-5)
    assert plan.visits.sum(-1).tolist() == [120] * 5
    assert (plan.depth >= 3).all()
    np.testing.assert_array_equal(plan.value, plan.return_mean)
    assert ((plan.return_mean > 0.1) & (plan.return_mean <= 0.81)).all()  # gamma^2 for opening with the third letter
    assert (plan.return_variance > 0.0).all()
    assert after.step.tolist() == [1] * 5


def test_nothing_counts_behind_the_end_of_an_episode() -> None:
    class Endless(Lock):
        def step(self, latent: Word, action: Tensor, noise: Tensor) -> tuple[Word, Tensor, Tensor]:
            following, reward, continuation = super().step(latent, action, noise)
            return following, torch.ones_like(reward), continuation

    planner = TreePlanner(MctsConfig(simulations=200), Endless([0]))
    plan, _ = planner.plan(start(1), planner_carry(1), np.ones(1, np.bool_), explore=False)
    assert 2.5 < plan.return_mean[0] <= 3.0


def planner_carry(rows: int) -> TreeCarry:
    return TreePlanner(MctsConfig(), Lock([0])).initial(seeds(rows))


class Walk(NamedTuple):
    position: Tensor  # [B]


class Drift:
    """A position that random numbers move too; actions are drawn around it, and near 0 is good."""

    discrete, num_actions, num_draws = False, 4, 5

    def step(self, latent: Walk, action: Tensor, noise: Tensor) -> tuple[Walk, Tensor, Tensor]:
        position = latent.position + action[:, 0] + noise[:, 0] - 0.5
        return Walk(position), -position.abs(), torch.ones_like(position)

    def expand(self, latent: Walk, noise: Tensor) -> Expansion:
        actions = 2.0 * noise[:, 1:, None] - 1.0
        return Expansion(torch.zeros(len(actions), 4), -latent.position.abs(), actions)


def test_a_plan_is_the_same_in_any_batch_and_another_in_the_next_step() -> None:
    planner = TreePlanner(MctsConfig(gamma=0.9, simulations=30, gumbel_scale=1.0), Drift())
    states, carry = Walk(torch.tensor([2.0, -1.0, 0.5, 2.0])), planner_carry(4)
    first = np.ones(4, np.bool_)
    together, after = planner.plan(states, carry, first, explore=True)
    for row in (3, 0, 1):
        some = slice(row, row + 1)
        alone, _ = planner.plan(Walk(states.position[some]), take_rows(carry, some), first[some], explore=True)
        for name in ("action", "return_mean", "return_variance", "weights", "visits", "depth"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[some])
    assert together.action[0] != together.action[3]  # equal states, other seeds
    again, _ = planner.plan(states, after, first, explore=True)
    assert (again.action != together.action).any()
    assert together.action[0] < 0.0 < together.action[1]


def test_deeper_trees_only_as_far_as_they_are_allowed() -> None:
    class Counting(Lock):
        longest = 0

        def step(self, latent: Word, action: Tensor, noise: Tensor) -> tuple[Word, Tensor, Tensor]:
            following, reward, continuation = super().step(latent, action, noise)
            self.longest = max(self.longest, len(str(int(following.letters.max()))) - 1)
            return following, reward, continuation

    for depth in (1, 2):
        model = Counting([1222])
        planner = TreePlanner(MctsConfig(simulations=40, max_depth=depth), model)
        plan, _ = planner.plan(start(1), planner_carry(1), np.ones(1, np.bool_), explore=False)
        assert model.longest == depth
        assert plan.depth.tolist() == [depth]


class Level(Drift):
    """The same without noise of its own: whatever is random then is the search's."""

    num_draws = 1

    def step(self, latent: Walk, action: Tensor, noise: Tensor) -> tuple[Walk, Tensor, Tensor]:
        return super().step(latent, action, torch.full_like(noise, 0.5))

    def expand(self, latent: Walk, noise: Tensor) -> Expansion:
        return super().expand(latent, torch.linspace(0.0, 1.0, 5).expand(len(noise), -1))


NOISY = {"puct": {"dirichlet_fraction": 0.9, "dirichlet_alpha": 0.3}, "gumbel": {"gumbel_scale": 3.0}}


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
def test_only_exploring_searches_are_disturbed(selection: Selection) -> None:
    """Rows are the same problem with seeds of their own."""
    rows = 40
    states, carry, first = Walk(torch.full((rows,), 2.0)), planner_carry(rows), np.ones(rows, np.bool_)
    quiet = TreePlanner(MctsConfig(simulations=8, selection=selection), Level())
    noisy = TreePlanner(MctsConfig(simulations=8, selection=selection, **NOISY[selection]), Level())  # type: ignore[arg-type]
    evaluated, _ = noisy.plan(states, carry, first, explore=False)
    explored, _ = noisy.plan(states, carry, first, explore=True)
    for plan in (quiet.plan(states, carry, first, explore=explore)[0] for explore in (True, False)):
        np.testing.assert_array_equal(plan.visits, evaluated.visits)
        np.testing.assert_array_equal(plan.weights, evaluated.weights)
    assert (evaluated.visits == evaluated.visits[:1]).all()
    assert len(np.unique(explored.visits, axis=0)) > 3
    again, _ = noisy.plan(states, carry, first, explore=True)
    np.testing.assert_array_equal(again.visits, explored.visits)


def test_a_skipped_step_moves_the_random_numbers_on() -> None:
    planner = TreePlanner(MctsConfig(), Drift())
    carry = planner.initial(seeds(2))
    assert planner.skip(carry).step.tolist() == [1, 1]
    assert planner.skip(carry).seed.tolist() == carry.seed.tolist()


class Position(NamedTuple):
    at: Tensor  # [B]


class Grid:
    """Ids that move a position; the reward is 1 for arriving at 3, where the episode ends; not below 0."""

    discrete, num_draws = True, 1

    def __init__(self, num_actions: int = 3) -> None:
        self.num_actions = num_actions  # 0 goes back, 1 stays, 2 goes on, the others do nothing
        self.bad_row: int | None = None

    def step(self, latent: Position, action: Tensor, noise: Tensor) -> tuple[Position, Tensor, Tensor]:
        assert action.shape == (len(latent.at), self.num_actions)
        assert (action.sum(-1) == 1.0).all()
        move = action[:, 2] - action[:, 0]
        assert ((latent.at > 0.0) | (move >= 0.0)).all(), "an invalid action was searched"
        at = latent.at + move
        return Position(at), (at == 3.0).float(), (at < 3.0).float()

    def expand(self, latent: Position, noise: Tensor) -> Expansion:
        rows = len(latent.at)
        value = torch.zeros(rows)
        if self.bad_row is not None:
            value[self.bad_row] = torch.nan
        invalid = torch.zeros(rows, self.num_actions, dtype=torch.bool)
        invalid[:, 0] = latent.at <= 0.0
        invalid[latent.at >= 3.0] = True
        return Expansion(torch.zeros(rows, self.num_actions), value, invalid=invalid)


def at(*positions: float) -> Position:
    return Position(torch.tensor(positions))


@pytest.mark.parametrize("selection", ["puct", "gumbel"])
def test_ids_are_searched_under_the_masks_of_the_model_and_of_the_environment(selection: Selection) -> None:
    planner = TreePlanner(MctsConfig(gamma=0.9, simulations=60, selection=selection), Grid())
    carry, first = planner.initial(seeds(3)), np.ones(3, np.bool_)
    plan, _ = planner.plan(at(0.0, 2.0, 2.0), carry, first, explore=False)
    assert plan.ids.tolist() == [[-1, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert plan.action.argmax(-1).tolist() == [2, 2, 2]
    assert plan.actions[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert plan.visits[0, 0] == 0
    assert plan.weights[0, 0] == 0.0
    assert plan.q[1, 2] == 1.0
    assert np.isnan(plan.q[0, 0])
    forbidden = np.array([[False, False, False], [False, False, True], [False, False, False]])
    plan, _ = planner.plan(at(0.0, 2.0, 2.0), carry, first, explore=False, invalid=forbidden)
    assert plan.ids.tolist() == [[-1, 1, 2], [0, 1, -1], [0, 1, 2]]
    assert plan.action.argmax(-1).tolist() == [2, 1, 2]
    with pytest.raises(ValueError, match="every root needs a valid action, but root 2 has none"):
        planner.plan(at(1.0, 1.0, 3.0), carry, first, explore=False)


def test_some_of_many_ids_are_searched() -> None:
    planner = TreePlanner(MctsConfig(gamma=0.9, simulations=20, sampled_actions=6), Grid(500))
    plan, _ = planner.plan(at(1.0, 1.0), planner.initial(seeds(2)), np.ones(2, np.bool_), explore=False)
    assert plan.ids.shape == plan.weights.shape == (2, 6)
    assert plan.actions.shape == (2, 6, 500)
    assert plan.ids[0].tolist() != plan.ids[1].tolist()
    for row in range(2):
        assert plan.actions[row].argmax(-1)[plan.ids[row] >= 0].tolist() == plan.ids[row][plan.ids[row] >= 0].tolist()
        assert plan.action[row].argmax() in plan.ids[row]
    with pytest.raises(ValueError, match="sampled_actions must be at most the number of actions 3, got 6"):
        TreePlanner(MctsConfig(sampled_actions=6), Grid(3))


def test_numbers_that_are_not_finite_are_refused_with_their_row() -> None:
    model = Grid()
    planner = TreePlanner(MctsConfig(simulations=5), model)
    model.bad_row = 1
    with pytest.raises(ValueError, match="value must be finite, not nan at row 1"):
        planner.plan(at(1.0, 1.0, 1.0), planner.initial(seeds(3)), np.ones(3, np.bool_), explore=False)


def test_the_temperature_of_the_training_step_spreads_what_explorers_choose() -> None:
    rows = 2000
    temperatures = (0, 1.0), (10, 0.5), (20, 0.0)
    config = MctsConfig(gamma=0.9, simulations=12, selection="puct", action_temperature=temperatures)
    planner = TreePlanner(config, Grid())
    carry, first = planner.initial(seeds(rows)), np.ones(rows, np.bool_)

    def chosen(explore: bool) -> tuple[np.ndarray, np.ndarray]:
        plan, _ = planner.plan(at(*[1.0] * rows), carry, first, explore)
        return np.bincount(plan.action.argmax(-1), minlength=3) / rows, plan.weights[0]

    for step, power in ((0, 1.0), (10, 2.0)):
        planner.training_step = step
        shares, weights = chosen(explore=True)
        np.testing.assert_allclose(shares, weights**power / (weights**power).sum(), atol=0.04)
        assert chosen(explore=False)[0].max() == 1.0
    planner.training_step = 20
    assert chosen(explore=True)[0].max() == 1.0


def test_players_that_take_turns_plan_for_themselves() -> None:
    """Who takes the last of 4 stones wins; 1 or 2 may be taken, so taking 1 wins and the value is 1."""

    class Stones(Grid):
        def __init__(self) -> None:
            super().__init__(2)

        def step(self, latent: Position, action: Tensor, noise: Tensor) -> tuple[Position, Tensor, Tensor]:
            left = latent.at - 1.0 - action[:, 1]
            return Position(left), (left == 0.0).float(), torch.where(left > 0.0, -1.0, 0.0)

        def expand(self, latent: Position, noise: Tensor) -> Expansion:
            invalid = torch.stack([latent.at < 1.0, latent.at < 2.0], dim=-1)
            return Expansion(torch.zeros(len(latent.at), 2), torch.zeros(len(latent.at)), invalid=invalid)

    config = MctsConfig(simulations=200, selection="puct", normalisation="bounds", min_value=-1.0)
    planner = TreePlanner(config, Stones())
    plan, _ = planner.plan(at(4.0, 5.0), planner.initial(seeds(2)), np.ones(2, np.bool_), explore=False)
    assert plan.action.argmax(-1).tolist() == [0, 1]
    assert (plan.value > 0.5).all()


def test_the_trees_of_a_plan_can_be_read() -> None:
    planner = TreePlanner(MctsConfig(gamma=0.9, simulations=30, selection="puct"), Grid())
    plan, _ = planner.plan(at(1.0, 2.0), planner.initial(seeds(2)), np.ones(2, np.bool_), explore=False)
    trees = planner.trees()
    assert [tree.best for tree in trees] == plan.action.argmax(-1).tolist() == [2, 2]
    for row, tree in enumerate(trees):
        assert tree.visits[0] == 31
        assert tree.value[0] == plan.value[row]
        for node in tree.children(0):
            place = plan.ids[row].tolist().index(int(tree.action[node]))
            assert tree.visits[node] == plan.visits[row, place]
            assert tree.q[node] == plan.q[row, place]
            assert tree.prior[node] == pytest.approx(1 / 3)
    assert trees[0].action[trees[0].path()].tolist()[:3] == [-1, 2, 2]


class Blank(Grid):
    """The same, which says what its latents look like, and counts the states that it steps."""

    steps = 0

    def blank(self, rows: int) -> Position:
        return Position(torch.zeros(rows))

    def step(self, latent: Position, action: Tensor, noise: Tensor) -> tuple[Position, Tensor, Tensor]:
        self.steps += 1
        return super().step(latent, action, noise)


def test_a_subtree_is_used_again() -> None:
    config = MctsConfig(gamma=0.9, simulations=40, selection="puct", reuse_subtree=True)
    model = Blank()
    planner = TreePlanner(config, model)
    rows = 5
    carry, none = planner.initial(seeds(rows)), np.zeros(rows, np.bool_)
    first, carry = planner.plan(at(*[1.0] * rows), carry, none, explore=False)
    assert model.steps == 40
    assert first.action.argmax(-1).tolist() == [2] * rows
    kept = int(first.visits[0, 2]) - 1
    assert kept > 5
    model.steps = 0
    second, after = planner.plan(at(*[2.0] * rows), carry, none, explore=False)
    assert model.steps == 40 - kept
    assert second.visits.sum(axis=1).tolist() == [40] * rows
    assert (second.q[:, 2] == 1.0).all()
    assert second.action.argmax(-1).tolist() == [2] * rows
    for row in (0, 4):
        some = slice(row, row + 1)
        alone, _ = planner.plan(at(2.0), take_rows(carry, some), none[some], explore=False)
        np.testing.assert_array_equal(alone.visits, second.visits[some])
        np.testing.assert_array_equal(alone.weights, second.weights[some])
    other = planner.took(carry, np.array([1, 2, 2, 2, 2]))
    mixed, _ = planner.plan(at(1.0, *[2.0] * 4), other, np.array([False, True, False, False, False]), explore=False)
    assert mixed.visits.sum(axis=1).tolist() == [40] * rows
    np.testing.assert_array_equal(mixed.visits[2:], second.visits[2:])
    assert take_rows(planner.skip(after), slice(0, 2)).kept.taken.tolist() == [-1, -1]


def test_reuse_needs_ids_and_blank_latents() -> None:
    config = MctsConfig(selection="puct", reuse_subtree=True)
    for model in (Grid(), Drift()):
        with pytest.raises(ValueError, match="reuse_subtree needs a model whose actions are ids and which has blank"):
            TreePlanner(config, model)
    with pytest.raises(ValueError, match="reuse_subtree needs selection puct, got gumbel"):
        MctsConfig(reuse_subtree=True)
    with pytest.raises(ValueError, match="reuse_subtree needs all ids: sampled_actions must be null, got 2"):
        MctsConfig(reuse_subtree=True, selection="puct", sampled_actions=2)
