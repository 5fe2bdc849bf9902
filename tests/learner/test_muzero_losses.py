"""Targets of MuZero against literal values: at ends, at cuts, beyond the sequence and across resets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.losses.muzero import (
    Targets,
    consistency_loss,
    mixed_targets,
    n_step_returns,
    policy_loss,
    positions,
    scale_gradient,
    step_weights,
    targets,
)

REWARD = [90.0, 1.0, 2.0, 4.0, 8.0, 16.0]  # received on arriving; the first belongs to what came before
VALUE = [99.0, 10.0, 20.0, 30.0, 40.0, 50.0]
NONE = [0, 0, 0, 0, 0, 0]
STEPS = 6


def flags(first: list[int], last: list[int], terminal: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    marks = [torch.zeros(1, STEPS, dtype=torch.bool) for _ in range(3)]
    for mark, places in zip(marks, (first, last, terminal), strict=True):
        mark[0, places] = True
    return marks[0], marks[1], marks[2]


def made(
    first: list[int] | None = None,
    last: list[int] | None = None,
    terminal: list[int] | None = None,
    unroll: int = 3,
    steps: int = 2,
    prefix: int = 0,
    policy: Tensor | None = None,
    length: int = STEPS,
) -> Targets:
    """The targets of one sequence with discount 0.5."""
    marks = [mark[:, :length] for mark in flags(first or [], last or [], terminal or [])]
    reward, value = torch.tensor([REWARD])[:, :length], torch.tensor([VALUE])[:, :length]
    returns = n_step_returns(reward, *marks, unroll, steps, 0.5)
    searched = torch.full((1, length, 2), 0.5) if policy is None else policy
    return targets(reward, searched, positions(*marks, unroll), returns, value.gather(1, returns.index), prefix)


def rows(wanted: Targets) -> dict[str, list[float]]:
    names = ("reward", "reward_mask", "value", "value_mask", "policy_mask", "consistency_mask")
    return {name: getattr(wanted, name)[0].tolist() for name in names}


def test_inside_an_episode() -> None:
    assert rows(made()) == {
        "reward": [1.0, 2.0, 4.0],
        "reward_mask": [1, 1, 1],
        # z_0 = 1 + 2 / 2 + 20 / 4, z_1 = 2 + 4 / 2 + 30 / 4, ...
        "value": [7.0, 11.5, 18.0, 28.5],
        "value_mask": [1, 1, 1, 1],
        "policy_mask": [1, 1, 1, 1],
        "consistency_mask": [1, 1, 1],
    }


def test_one_step_and_more_steps_than_there_are() -> None:
    assert made(steps=1).value[0].tolist() == [1 + 5, 2 + 10, 4 + 15, 8 + 20]
    # Beyond the sequence: from the last step that is there.
    assert made(steps=9).value[0].tolist() == [
        1 + 2 / 2 + 4 / 4 + 8 / 8 + 16 / 16 + 50 / 32,
        2 + 4 / 2 + 8 / 4 + 16 / 8 + 50 / 16,
        4 + 8 / 2 + 16 / 4 + 50 / 8,
        8 + 16 / 2 + 50 / 4,
    ]


def test_the_last_step_of_a_sequence_has_no_return() -> None:
    wanted = made(length=4)
    assert wanted.value_mask[0].tolist() == [1, 1, 1, 0]
    assert wanted.value[0, :3].tolist() == [7.0, 11.5, 4 + 15]
    assert wanted.policy_mask[0].tolist() == [1, 1, 1, 1]


def test_nothing_comes_after_a_terminal_step() -> None:
    """Step 2 is terminal: nothing is bootstrapped, and what follows is an absorbing state without rewards."""
    assert rows(made(first=[3], last=[2], terminal=[2])) == {
        "reward": [1.0, 2.0, 0.0],
        "reward_mask": [1, 1, 1],
        "value": [2.0, 2.0, 0.0, 0.0],
        "value_mask": [1, 1, 1, 1],
        "policy_mask": [1, 1, 0, 0],
        "consistency_mask": [1, 1, 0],
    }


def test_a_cut_bootstraps_and_nothing_is_learned_after_it() -> None:
    """Step 2 is the last of an episode that was cut: its value is worth something, the steps after it are unknown."""
    assert rows(made(first=[3], last=[2])) == {
        "reward": [1.0, 2.0, 0.0],
        "reward_mask": [1, 1, 0],
        "value": [7.0, 2 + 10, 20.0, 0.0],
        "value_mask": [1, 1, 0, 0],
        "policy_mask": [1, 1, 0, 0],
        "consistency_mask": [1, 1, 0],
    }


def test_a_reset_without_a_last_step_is_a_cut() -> None:
    assert rows(made(first=[3])) == rows(made(first=[3], last=[2]))


@pytest.mark.parametrize("terminal", [True, False])
def test_across_two_resets_only_the_first_episode_counts(terminal: bool) -> None:
    """The second end in the sequence is of another kind than the first, and changes nothing."""
    wanted = rows(made(first=[2, 4], last=[1, 3], terminal=[1] if terminal else [3]))
    assert wanted["reward"] == [1.0, 0.0, 0.0]
    assert wanted["reward_mask"] == [1, terminal, terminal]
    assert wanted["value"][:2] == ([1.0, 0.0] if terminal else [1 + 5, 10.0])
    assert wanted["value_mask"] == [1, terminal, terminal, terminal]
    assert wanted["policy_mask"] == [1, 0, 0, 0]
    assert wanted["consistency_mask"] == [1, 0, 0]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_sequence_may_begin_at_the_last_step_of_an_episode(terminal: bool) -> None:
    wanted = rows(made(first=[1], last=[0], terminal=[0] if terminal else []))
    assert wanted["reward"] == [0.0, 0.0, 0.0]
    assert wanted["reward_mask"] == [terminal] * 3
    assert wanted["value_mask"] == [terminal] * 4
    assert wanted["policy_mask"] == [0, 0, 0, 0]


def test_the_first_step_of_a_sequence_may_be_that_of_an_episode() -> None:
    assert rows(made(first=[0])) == rows(made())


def test_a_value_prefix_sums_rewards_and_begins_anew() -> None:
    assert made(prefix=5).reward[0].tolist() == [1.0, 3.0, 7.0]
    assert made(prefix=2).reward[0].tolist() == [1.0, 3.0, 4.0]
    wanted = made(first=[3], last=[2], terminal=[2], prefix=5)
    assert wanted.reward[0].tolist() == [1.0, 3.0, 3.0]  # absorbing: the sum stays


def test_a_step_without_a_search_teaches_no_policy() -> None:
    policy = torch.tensor([[[0.25, 0.75], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5]]])
    wanted = made(policy=policy)
    assert wanted.policy_mask[0].tolist() == [1, 0, 1, 0]
    assert wanted.policy[0].tolist() == policy[0, :4].tolist()
    assert wanted.value_mask[0].tolist() == [1, 1, 1, 1]


def test_sequences_shorter_than_an_unroll_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 steps, got 6"):
        positions(*flags([], [], []), 6)


def test_fresh_targets_of_chosen_sequences_are_taken_where_there_are_any() -> None:
    data = {
        "search_policy": torch.tensor([[[0.5, 0.5], [0.5, 0.5]]] * 3),
        "fresh_search_policy": torch.tensor([[[1.0, 0.0], [0.0, 0.0]]] * 3),
        "search_value": torch.tensor([[1.0, 2.0]] * 3),
        "fresh_search_value": torch.tensor([[7.0, 8.0]] * 3),
        "reward": torch.tensor([[3.0, 4.0]] * 3),
        "fresh_version": torch.tensor([[5, 0], [0, 0], [5, 6]]),
    }
    mixed = mixed_targets(data, torch.tensor([True, True, False]))
    assert mixed["search_value"].tolist() == [[7.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    assert mixed["search_policy"].tolist() == [[[1.0, 0.0], [0.5, 0.5]], *[[[0.5, 0.5]] * 2] * 2]
    assert mixed["reward"] is data["reward"]
    assert data["search_value"].tolist() == [[1.0, 2.0]] * 3


def test_the_root_weighs_as_much_as_all_other_positions() -> None:
    weights = step_weights(5, torch.device("cpu"), torch.float64)
    assert weights.tolist() == [1.0, 0.2, 0.2, 0.2, 0.2, 0.2]


def test_policy_loss_is_a_cross_entropy() -> None:
    log_probs = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    assert policy_loss(log_probs, torch.tensor([0.0, 0.5, 0.5])).item() == pytest.approx(math.log(4.0))
    assert policy_loss(log_probs, torch.zeros(3)).item() == 0.0


def test_consistency_is_the_negative_cosine_and_moves_one_side() -> None:
    ours = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]], requires_grad=True)
    theirs = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 0.0]], requires_grad=True)
    loss = consistency_loss(ours, theirs)
    assert loss.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert theirs.grad is None
    assert ours.grad is not None


def test_a_scaled_gradient_leaves_the_value_as_it_is() -> None:
    x = torch.tensor([0.1, 1e6, -3.0], requires_grad=True)
    y = scale_gradient(x, 0.5)
    assert y.tolist() == x.tolist()
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 1.0, 1.5]
