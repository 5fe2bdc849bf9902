import numpy as np

from planners.base import Plan, PlannerCarry, concatenate_rows, take_rows


def make_carry(seeds: list[int]) -> PlannerCarry:
    count = len(seeds)
    return PlannerCarry(
        mean=np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2),
        elites=np.zeros((count, 0, 3, 2), np.float32),
        has_elites=np.arange(count) % 2 == 0,
        seed=np.array(seeds, np.uint64),
        step=np.arange(count),
    )


def test_splitting_undoes_concatenation() -> None:
    parts = [make_carry([1]), make_carry([2, 3])]
    whole = concatenate_rows(parts)
    assert whole.seed.tolist() == [1, 2, 3]
    assert whole.elites.shape == (3, 0, 3, 2)
    for part, rows in zip(parts, [slice(0, 1), slice(1, 3)], strict=True):
        again = take_rows(whole, rows)
        np.testing.assert_array_equal(again.mean, part.mean)
        np.testing.assert_array_equal(again.has_elites, part.has_elites)
        np.testing.assert_array_equal(again.step, part.step)


def test_plans_are_rows_too() -> None:
    plan = Plan(np.ones((2, 1)), np.ones((2, 3, 1)), np.array([1.0, 2.0]), np.zeros(2))
    assert take_rows(plan, np.array([1])).return_mean.tolist() == [2.0]
    assert concatenate_rows([plan, plan]).actions.shape == (4, 3, 1)
