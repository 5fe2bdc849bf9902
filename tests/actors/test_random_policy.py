import numpy as np
import pytest

from actors.random_policy import RandomPolicy
from envs.specs import ArraySpec, StepBatch


def steps(count: int) -> StepBatch:
    flags = np.zeros(count, np.bool_)
    return StepBatch({}, np.zeros(count, np.float32), flags, flags, flags)


def draw(policy: RandomPolicy, seeds: list[int], ticks: int) -> np.ndarray:
    carry = policy.initial(np.array(seeds, np.uint64))
    actions = []
    for _ in range(ticks):
        output = policy.act(steps(len(seeds)), carry, explore=True)
        carry = output.carry
        actions.append(output.action)
    return np.stack(actions)


def test_box_actions_fill_the_box_uniformly() -> None:
    policy = RandomPolicy(ArraySpec((2,), "float32", (-1.0, 0.0), (1.0, 10.0)))
    actions = draw(policy, list(range(50)), 400).reshape(-1, 2)
    assert actions.dtype == np.float32
    assert (actions >= [-1, 0]).all()
    assert (actions < [1, 10]).all()
    unit = (actions - [-1, 0]) / [2, 10]
    for column in unit.T:
        counts = np.histogram(column, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square, 19 degrees of freedom
    assert abs(np.corrcoef(unit[:, 0], unit[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(unit[:-1, 0], unit[1:, 0])[0, 1]) < 0.03


def test_actions_never_leave_an_awkward_box() -> None:
    low, high = np.float32(-0.1), np.float32(0.3)
    policy = RandomPolicy(ArraySpec((8,), "float32", float(low), float(high)))
    actions = draw(policy, list(range(100)), 300)
    assert (actions >= low).all()
    assert (actions <= high).all()


def test_discrete_ids_are_uniform() -> None:
    actions = draw(RandomPolicy(ArraySpec((), "int64", num_values=5)), list(range(20)), 500)
    assert actions.dtype == np.int64
    counts = np.bincount(actions.ravel(), minlength=5)
    assert len(counts) == 5
    assert ((counts - 2000) ** 2 / 2000).sum() < 20


def test_a_row_depends_on_its_own_seed_only() -> None:
    policy = RandomPolicy(ArraySpec((3,), "float32", -1.0, 1.0))
    together = draw(policy, [7, 8, 9], 10)
    np.testing.assert_array_equal(together[:, 1:2], draw(policy, [8], 10))
    assert not np.array_equal(together[:, 0], together[:, 1])


def test_an_unbounded_action_is_refused() -> None:
    with pytest.raises(ValueError, match="must be bounded"):
        RandomPolicy(ArraySpec((3,), "float32"))
