import numpy as np

from planners.base import SequencePlan, TreePlan


def test_a_tree_plan_logs_the_value_and_the_shape_of_its_tree() -> None:
    plan = TreePlan(
        action=np.zeros((3, 1), np.float32),
        return_mean=np.array([1.0, 2.0, 3.0], np.float32),
        return_variance=np.zeros(3, np.float32),
        actions=np.zeros((3, 4, 1), np.float32),
        ids=np.tile(np.arange(4), (3, 1)),
        weights=np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]], np.float32),
        visits=np.ones((3, 4), np.int32),
        q=np.zeros((3, 4), np.float32),
        depth=np.array([1, 2, 5], np.int32),
    )
    metrics = plan.metrics()
    assert metrics.keys() == {"return_mean", "return_variance", "tree_depth", "policy_entropy"}
    np.testing.assert_allclose(metrics["policy_entropy"], np.log([1.0, 2.0, 4.0]), rtol=1e-6, atol=1e-7)
    assert metrics["tree_depth"].tolist() == [1.0, 2.0, 5.0]
    assert plan.value is plan.return_mean


def test_every_plan_logs_its_return() -> None:
    plan = SequencePlan(np.ones((2, 1)), np.array([1.0, 2.0]), np.zeros(2), np.ones((2, 3, 1)))
    assert {name: values.tolist() for name, values in plan.metrics().items()} == {
        "return_mean": [1.0, 2.0],
        "return_variance": [0.0, 0.0],
    }
