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

    num_actions, num_draws = 3, 2

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

    num_actions, num_draws = 4, 5

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
