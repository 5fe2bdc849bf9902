"""Transitions of sequences against literal arrays."""

from dataclasses import replace

import numpy as np
import pytest

from learner.batch import SequenceBatch
from learner.transitions import transitions_of


def batch() -> SequenceBatch:
    """One sequence: steps 7..11 of a stream, an episode ends by termination at 9, the next begins at 10."""
    data = {
        "state": np.array([[[0.0], [1.0], [3.0], [50.0], [51.0]]], np.float32),
        "action": np.array([[[0.1], [0.2], [0.3], [0.4], [0.5]]], np.float32),
        "reward": np.array([[9.0, 1.0, 2.0, 0.0, 4.0]], np.float32),
        "is_first": np.array([[False, False, False, True, False]]),
        "is_last": np.array([[False, False, True, False, False]]),
        "is_terminal": np.array([[False, False, True, False, False]]),
        "episode": np.array([[4, 4, 4, 5, 5]]),
    }
    one = np.ones(1, np.float32)
    return SequenceBatch(
        data, np.array([3], np.uint64), np.array([7]), np.array([0]), 2 * one, np.zeros((1, 3), np.int64)
    )


def test_a_transition_pairs_an_action_with_the_next_reward_and_never_crosses_episodes() -> None:
    rows = transitions_of(batch(), "state")
    np.testing.assert_array_equal(rows.state[:, 0], [0, 1, 50])
    np.testing.assert_allclose(rows.action[:, 0], [0.1, 0.2, 0.4])
    np.testing.assert_array_equal(rows.target, [[1, 1], [2, 2], [1, 4]])
    np.testing.assert_array_equal(rows.terminal, [0, 1, 0])
    np.testing.assert_array_equal(rows.step, [7, 8, 10])
    np.testing.assert_array_equal(rows.episode, [4, 4, 5])
    np.testing.assert_array_equal(rows.stream_id, [3, 3, 3])
    np.testing.assert_array_equal(rows.weight, [2, 2, 2])


def test_rows_can_be_taken() -> None:
    rows = transitions_of(batch(), "state").take(np.array([False, True, False]))
    assert len(rows) == 1
    assert rows.step.tolist() == [8]


def test_a_missing_observation_or_a_single_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no observation 'image'"):
        transitions_of(batch(), "image")
    short = replace(batch(), data={key: value[:, :1] for key, value in batch().data.items()})
    with pytest.raises(ValueError, match="got 1"):
        transitions_of(short, "state")
