"""TreePlanner on small models whose best actions are known and which check what they are given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from planners.base import Expansion, PlannerCarry, take_rows
from planners.config import PlannerConfig, Selection, TreeConfig
from planners.sampling import make_search
from planners.tree import TreePlanner


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
    config = PlannerConfig(method="mcts", gamma=0.9, tree=TreeConfig(simulations=120, selection=selection))
    model = Lock(words)
    planner = TreePlanner(config, 4, model)
    carry = planner.initial(seeds(5))
    plan, after = planner.plan(start(5), carry, np.ones(5, np.bool_))
    assert model.opened >= 5
    assert plan.action[:, :3].argmax(-1).tolist() == [word // 100 % 10 for word in words]
    assert plan.actions.shape == (5, 1, 4)
    assert ((plan.return_mean > 0.1) & (plan.return_mean <= 0.81)).all()  # gamma^2 for opening with the third letter
    assert (plan.return_variance > 0.0).all()
    assert after.step.tolist() == [1] * 5


def test_nothing_counts_behind_the_end_of_an_episode() -> None:
    class Endless(Lock):
        def step(self, latent: Word, action: Tensor, noise: Tensor) -> tuple[Word, Tensor, Tensor]:
            following, reward, continuation = super().step(latent, action, noise)
            return following, torch.ones_like(reward), continuation

    config = PlannerConfig(method="mcts", tree=TreeConfig(simulations=200))
    plan, _ = TreePlanner(config, 4, Endless([0])).plan(start(1), planner_carry(1), np.ones(1, np.bool_))
    assert 2.5 < plan.return_mean[0] <= 3.0


def planner_carry(rows: int, step: int = 0) -> PlannerCarry:
    carry = TreePlanner(PlannerConfig(method="mcts"), 4, Lock([0])).initial(seeds(rows))
    return PlannerCarry(carry.mean, carry.elites, carry.has_elites, carry.seed, carry.step + step)


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
    noisy = TreeConfig(simulations=30, gumbel_scale=1.0)
    planner = TreePlanner(PlannerConfig(method="mcts", gamma=0.9, tree=noisy), 1, Drift())
    states, carry = Walk(torch.tensor([2.0, -1.0, 0.5, 2.0])), planner_carry(4)
    first = np.ones(4, np.bool_)
    together, after = planner.plan(states, carry, first)
    for row in (3, 0, 1):
        some = slice(row, row + 1)
        alone, _ = planner.plan(Walk(states.position[some]), take_rows(carry, some), first[some])
        for name in ("action", "return_mean", "return_variance"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[some])
    assert together.action[0] != together.action[3]  # equal states, other seeds
    again, _ = planner.plan(states, after, first)
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
        config = PlannerConfig(method="mcts", tree=TreeConfig(simulations=40, max_depth=depth))
        TreePlanner(config, 4, model).plan(start(1), planner_carry(1), np.ones(1, np.bool_))
        assert model.longest == depth


def test_a_search_of_sequences_refuses_the_method() -> None:
    box = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="mcts needs a model with a policy and a critic"):
        make_search(PlannerConfig(method="mcts"), -box, box)
