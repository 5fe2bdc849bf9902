"""native.Search against its NumPy twin, its statistics, and the defects known from other planners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from native import Search, SearchState
from native.reference import SearchReference

LOW, HIGH = np.array([-1.0, -0.5, 0.0], np.float32), np.array([1.0, 0.5, 4.0], np.float32)
UNIT_LOW, UNIT_HIGH = np.array([-1.0], np.float32), np.array([1.0], np.float32)
CEM: dict[str, Any] = {"horizon": 5, "population": 60, "elites": 8, "iterations": 4}
ICEM = CEM | {
    "noise_beta": 2.0, "population_decay": 1.25, "keep_fraction": 0.3, "include_mean": True, "min_std": 0.02,
    "execute_best": True,
}  # fmt: skip
MPPI = CEM | {
    "elites": 60, "momentum": 0.0, "weighting": "softmax", "temperature": 0.5, "update_std": False, "init_std": 0.3,
}  # fmt: skip
SHOOTING = CEM | {"iterations": 1, "elites": 1, "momentum": 0.0, "sampling": "uniform", "execute_best": True}

Carry = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint64], NDArray[np.int64]]


def fresh(search: Search, seeds: list[int], horizon: int, size: int) -> Carry:
    count = len(seeds)
    return (
        np.zeros((count, horizon, size), np.float32),
        np.zeros((count, search.num_kept, horizon, size), np.float32),
        np.zeros(count, np.bool_),
        np.array(seeds, np.uint64),
        np.zeros(count, np.int64),
    )


def first(count: int, value: bool = True) -> NDArray[np.bool_]:
    return np.full(count, value, np.bool_)


def score(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """All-negative returns with the optimum at 0.25 of every action; NaN where the first action exceeds 0.5."""
    scores = -100.0 - np.sum((actions - 0.25) ** 2, axis=(-1, -2))
    return np.where(actions[..., 0, 0] > 0.5, np.nan, scores).astype(np.float32)


def run(state: SearchState, iterations: int) -> tuple[NDArray[np.float32], ...]:
    for _ in range(iterations):
        state.tell(score(state.ask()))
    return state.finish()


@pytest.mark.parametrize("config", [CEM, ICEM, MPPI, SHOOTING], ids=["cem", "icem", "mppi", "shooting"])
def test_follows_its_twin(config: dict[str, Any]) -> None:
    search, twin = Search(LOW, HIGH, **config), SearchReference(LOW, HIGH, **config)
    mean, elites, has_elites, seed, step = fresh(search, [2**63 + 5], 5, 3)
    is_first = first(1)
    twin_elites: NDArray[Any] = elites[0]
    for plan_index in range(2):  # the second plan starts from the first one's carry
        state = search.begin(mean, elites, has_elites, seed, step, is_first)
        start = np.broadcast_to((LOW + HIGH) / 2, (5, 3)) if plan_index == 0 else mean[0]
        twin.begin(start, twin_elites, bool(has_elites[0]), int(seed[0]), int(step[0]))
        for _ in range(config["iterations"]):
            ours, theirs = state.ask(), twin.ask()
            np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-4)
            state.tell(score(ours))
            twin.tell(score(ours)[0])
        plan, mean, elites, has_elites, step = state.finish()
        np.testing.assert_allclose(plan[0], twin.plan(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(mean[0], np.concatenate([twin.mean[1:], twin.mean[-1:]]), rtol=0, atol=1e-4)
        assert has_elites[0] == (search.num_kept > 0)
        if twin.elites is not None:
            twin_elites = np.concatenate([twin.elites[:, 1:], twin.elites[:, -1:]], axis=1)
            np.testing.assert_allclose(elites[0], twin_elites, rtol=0, atol=1e-4)
        assert step.tolist() == [plan_index + 1]
        is_first = first(1, False)


@pytest.mark.parametrize("config", [CEM, CEM | {"sampling": "truncated"}, ICEM, MPPI, SHOOTING])
def test_a_batch_equals_single_calls(config: dict[str, Any]) -> None:
    search = Search(LOW, HIGH, **config)
    carry = fresh(search, [1, 2, 3], 5, 3)
    is_first = first(3)
    for _ in range(2):
        batch = run(search.begin(*carry, is_first), config["iterations"])
        single = [
            run(search.begin(*(part[b : b + 1] for part in carry), is_first[b : b + 1]), config["iterations"])
            for b in range(3)
        ]
        for part, alone in zip(batch, zip(*single, strict=True), strict=True):
            np.testing.assert_array_equal(part, np.concatenate(alone))
        _, mean, elites, has_elites, step = batch
        carry = (mean, elites, has_elites, carry[3], step)
        is_first = np.array([False, True, False])


def test_plans_differ_between_seeds_and_between_steps() -> None:
    search = Search(LOW, HIGH, **CEM)
    mean, elites, has_elites, seed, step = fresh(search, [7, 8, 7], 5, 3)
    step[2] = 1
    actions = search.begin(mean, elites, has_elites, seed, step, first(3)).ask()
    assert not np.any(np.isclose(actions[0], actions[1], atol=1e-7).all(axis=(1, 2)))
    assert not np.any(np.isclose(actions[0], actions[2], atol=1e-7).all(axis=(1, 2)))
    repeat = search.begin(mean, elites, has_elites, seed, step, first(3)).ask()
    np.testing.assert_array_equal(actions, repeat)


@pytest.mark.parametrize("std", [0.01, 0.1, 0.3])
def test_mppi_honours_its_standard_deviation(std: float) -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **MPPI | {"population": 4000, "elites": 4000, "init_std": std})
    state = search.begin(*fresh(search, [3], 5, 1), first(1))
    state.tell(np.zeros((1, len(state.ask()[0])), np.float32))
    actions = state.ask()  # the second iteration's too
    np.testing.assert_allclose(actions.std(axis=1), std, rtol=0.05)


def test_mppi_weighs_by_the_softmax_of_scores() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **MPPI | {"population": 3, "elites": 3, "iterations": 1, "horizon": 1})
    state = search.begin(*fresh(search, [3], 1, 1), first(1))
    actions = state.ask()[0, :, 0, 0]
    state.tell(np.array([[-1000.0, -1000.5, np.nan]], np.float32))
    weight = np.array([1.0, np.exp(-1.0)]) / (1.0 + np.exp(-1.0))
    assert state.finish()[0][0, 0, 0] == pytest.approx(weight @ actions[:2], abs=1e-6)


def test_nan_candidates_rank_last_when_every_return_is_negative() -> None:
    for config in (CEM, ICEM, MPPI, SHOOTING):
        search = Search(UNIT_LOW, UNIT_HIGH, **config)
        state = search.begin(*fresh(search, [1], 5, 1), first(1))
        for _ in range(config["iterations"]):
            actions = state.ask()
            scores = np.where(actions[..., 0, 0] > 0, np.nan, -1e6).astype(np.float32)
            state.tell(scores)
        plan, mean, elites, _, _ = state.finish()
        assert plan[0, 0, 0] <= 0
        assert all(np.isfinite(part).all() for part in (plan, mean, elites))


def test_infinite_scores_never_win() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **SHOOTING)
    state = search.begin(*fresh(search, [1], 5, 1), first(1))
    actions = state.ask()
    scores = np.full(actions.shape[:2], -5.0, np.float32)
    scores[0, :3] = np.inf, -np.inf, np.nan
    scores[0, 7] = -4.0
    state.tell(scores)
    np.testing.assert_array_equal(state.finish()[0][0], actions[0, 7])


def test_without_a_finite_score_the_mean_stays() -> None:
    for config in (CEM, ICEM, MPPI, SHOOTING):
        search = Search(UNIT_LOW, UNIT_HIGH, **config)
        mean, elites, has_elites, seed, step = fresh(search, [1, 2], 5, 1)
        mean[:] = 0.125
        state = search.begin(mean, elites, has_elites, seed, step, first(2, False))
        for _ in range(config["iterations"]):
            scores = np.zeros(state.ask().shape[:2], np.float32)
            scores[0] = np.nan
            state.tell(scores)
        plan, _, _, has_elites, _ = state.finish()
        assert (plan[0] == 0.125).all()
        assert not has_elites[0]
        assert (plan[1] != 0.125).any()


def test_an_episode_start_clears_the_mean_and_the_elites() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **ICEM)
    clean = fresh(search, [5], 5, 1)
    dirty = (np.full_like(clean[0], 0.9), np.full_like(clean[1], 0.9), first(1), clean[3], clean[4])
    np.testing.assert_array_equal(search.begin(*dirty, first(1)).ask(), search.begin(*clean, first(1)).ask())
    kept = search.begin(*dirty, first(1, False)).ask()
    assert (kept[0, : search.num_kept] == np.float32(0.9)).all()
    assert kept[0, search.num_kept :].mean() > 0.5


def test_the_warm_start_is_the_last_plan_shifted_by_one_step() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **ICEM | {"execute_best": False})
    state = search.begin(*fresh(search, [5], 5, 1), first(1))
    plan, mean, elites, has_elites, step = run(state, 4)
    np.testing.assert_array_equal(mean[:, :-1], plan[:, 1:])
    np.testing.assert_array_equal(mean[:, -1], plan[:, -1])
    assert has_elites.all()
    assert elites.shape == (1, 2, 5, 1)  # round(0.3 * 8)
    following = search.begin(mean, elites, has_elites, np.array([5], np.uint64), step, first(1, False)).ask()
    np.testing.assert_array_equal(following[0, :2], elites[0])


def test_best_elites_join_the_next_iteration_and_the_mean_the_last() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **ICEM | {"execute_best": False, "iterations": 2, "momentum": 0.0})
    state = search.begin(*fresh(search, [5], 5, 1), first(1))
    actions = state.ask()
    scores = score(actions)
    state.tell(scores)
    order = np.argsort(-np.nan_to_num(scores[0], nan=-np.inf), kind="stable")
    following = state.ask()
    np.testing.assert_array_equal(following[0, :2], actions[0, order[:2]])
    np.testing.assert_allclose(following[0, -1], actions[0, order[:8]].mean(axis=0), atol=1e-6)


def test_the_population_decays_to_twice_the_elites() -> None:
    config = {"horizon": 2, "population": 1000, "elites": 100, "iterations": 10, "population_decay": 1.25}
    search = Search(UNIT_LOW, UNIT_HIGH, **config)
    counts = [search.num_candidates(i) for i in range(10)]
    assert counts == [1000, 800, 640, 512, 409, 327, 262, 209, 200, 200]
    state = search.begin(*fresh(search, [0], 2, 1), first(1))
    for count in counts:
        actions = state.ask()
        assert actions.shape == (1, count, 2, 1)
        state.tell(np.zeros((1, count), np.float32))


@pytest.mark.parametrize("sampling", ["gaussian", "truncated", "uniform"])
@pytest.mark.parametrize("place", [-1.0, -0.999, 0.0, 0.97, 1.0])
def test_actions_stay_inside_the_box(sampling: str, place: float) -> None:
    low, high = np.array([-1.0, 0.1, 3.0], np.float32), np.array([1.0, 0.7, 3.0], np.float32)
    search = Search(low, high, **CEM | {"sampling": sampling, "init_std": 3.0, "population": 500})
    mean, *rest = fresh(search, [4], 5, 3)
    mean[:] = (low + high) / 2 + np.float32(place) * (high - low) / 2
    state = search.begin(mean, *rest, first(1, False))
    for _ in range(4):
        actions = state.ask()
        assert (actions >= low).all()
        assert (actions <= high).all()
        assert (actions[..., 2] == 3.0).all()  # equal bounds: no variance
        state.tell(score(actions))
    plan = state.finish()[0]
    assert (plan >= low).all()
    assert (plan <= high).all()


@pytest.mark.parametrize("config", [CEM, ICEM, MPPI, SHOOTING], ids=["cem", "icem", "mppi", "shooting"])
def test_a_fixed_dimension_has_one_value(config: dict[str, Any]) -> None:
    low, high = np.array([-1.0, 0.1], np.float32), np.array([1.0, 0.1], np.float32)
    search = Search(low, high, **config)
    state = search.begin(*fresh(search, [1, 2], 5, 2), first(2))
    for _ in range(config["iterations"]):
        candidates = state.ask()
        assert (candidates[..., 1] == high[1]).all()
        state.tell(score(candidates))
    plan = state.finish()[0]
    assert (plan[..., 1] == high[1]).all()
    assert np.isfinite(plan).all()


def test_a_mean_outside_the_box_or_not_finite_is_brought_back() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **CEM)
    mean, *rest = fresh(search, [4], 5, 1)
    mean[0, :2, 0] = np.nan, 50.0
    state = search.begin(mean, *rest, first(1, False))
    assert np.isfinite(state.ask()).all()


def test_coloured_noise_has_the_right_variance_and_spectrum() -> None:
    horizon = 16
    power = {}
    for beta in (0.0, 1.0, 2.0):
        search = Search(
            UNIT_LOW, UNIT_HIGH, horizon=horizon, population=20000, elites=1, iterations=1, noise_beta=beta,
            init_std=0.1,
        )  # fmt: skip
        noise = search.begin(*fresh(search, [9], horizon, 1), first(1)).ask()[0, :, :, 0] / 0.1
        np.testing.assert_allclose(noise.std(axis=0), 1.0, rtol=0.03)
        np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.03)
        power[beta] = np.mean(np.abs(np.fft.rfft(noise, axis=1)) ** 2, axis=0)[1:-1]
    frequency = np.arange(1, horizon // 2)
    for beta, values in power.items():
        slope = np.polyfit(np.log(frequency), np.log(values), 1)[0]
        assert slope == pytest.approx(-beta, abs=0.05)


def test_truncated_noise_keeps_to_two_standard_deviations() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **CEM | {"sampling": "truncated", "population": 5000, "init_std": 0.2})
    actions = search.begin(*fresh(search, [9], 5, 1), first(1)).ask()
    assert np.abs(actions).max() <= 0.4 + 1e-6
    assert actions.std() == pytest.approx(0.2 * 0.8796, rel=0.02)  # of a standard normal cut at two


def test_refits_by_literal_numbers() -> None:
    search = Search(
        UNIT_LOW, UNIT_HIGH, horizon=1, population=4, elites=2, iterations=2, momentum=0.25, min_std=0.1, init_std=0.4
    )
    state = search.begin(*fresh(search, [2], 1, 1), first(1))
    actions = state.ask()[0, :, 0, 0]
    state.tell(np.array([[1.0, 3.0, 2.0, np.nan]], np.float32))
    mean = 0.75 * (actions[1] + actions[2]) / 2
    std = max(0.25 * 0.4 + 0.75 * abs(actions[1] - actions[2]) / 2, 0.1)
    twin = SearchReference(
        UNIT_LOW, UNIT_HIGH, horizon=1, population=4, elites=2, iterations=2, momentum=0.25, min_std=0.1, init_std=0.4
    )
    twin.begin(np.full((1, 1), mean), np.zeros((0, 1, 1)), False, 2, 0)
    twin.iteration, twin.std = 1, np.full((1, 1), std)
    np.testing.assert_allclose(state.ask()[0], twin.ask(), atol=1e-5)


def test_noise_seeds_differ_by_problem_step_and_iteration() -> None:
    search = Search(UNIT_LOW, UNIT_HIGH, **CEM)
    mean, elites, has_elites, seed, step = fresh(search, [1, 2, 1], 5, 1)
    step[2] = 1
    state = search.begin(mean, elites, has_elites, seed, step, first(3))
    seeds = [state.noise_seeds()]
    state.tell(score(state.ask()))
    seeds.append(state.noise_seeds())
    assert len(np.unique(seeds)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"elites": 61}, "elites"),
        ({"iterations": 0}, "iterations"),
        ({"momentum": 1.0}, "momentum"),
        ({"population_decay": 0.9}, "population_decay"),
        ({"temperature": 0.0}, "temperature"),
        ({"init_std": float("nan")}, "init_std"),
        ({"sampling": "halton"}, "halton"),
        ({"weighting": "rank"}, "rank"),
        ({"sampling": "truncated", "noise_beta": 1.0}, "noise_beta"),
    ],
)
def test_refuses_numbers_out_of_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(UNIT_LOW, UNIT_HIGH, **CEM | change)


def test_refuses_boxes_shapes_types_and_calls_out_of_turn() -> None:
    with pytest.raises(ValueError, match="high"):
        Search(UNIT_HIGH, UNIT_LOW, **CEM)
    with pytest.raises(ValueError, match="low"):
        Search(np.array([-np.inf], np.float32), UNIT_HIGH, **CEM)
    for low, high in ((-3e38, 3e38), (3e38, 3.2e38)):
        with pytest.raises(ValueError, match="range of the box must be finite"):
            Search(np.array([low], np.float32), np.array([high], np.float32), **CEM)
    search = Search(UNIT_LOW, UNIT_HIGH, **CEM)
    mean, *rest = fresh(search, [1], 5, 1)
    with pytest.raises(ValueError, match="mean"):
        search.begin(mean[:, :4].copy(), *rest, first(1))
    with pytest.raises(TypeError):
        search.begin(mean.astype(np.float64), *rest, first(1))
    state = search.begin(mean, *rest, first(1))
    with pytest.raises(ValueError, match="tell without ask"):
        state.tell(np.zeros((1, 0), np.float32))
    state.ask()
    with pytest.raises(ValueError, match="out of turn"):
        state.ask()
    with pytest.raises(ValueError, match="scores"):
        state.tell(np.zeros((1, 3), np.float32))
    run_on = np.zeros((1, 60), np.float32)
    state.tell(run_on)
    assert state.iteration == 1


@pytest.mark.parametrize("config", [CEM, ICEM, MPPI, SHOOTING], ids=["cem", "icem", "mppi", "shooting"])
def test_follows_its_twin_under_a_constraint(config: dict[str, Any]) -> None:
    """The first action must be at most 0; where an action is below -0.9 the violation is not a number."""
    search, twin = Search(LOW, HIGH, **config), SearchReference(LOW, HIGH, **config)
    mean, elites, has_elites, seed, step = fresh(search, [2**63 + 5], 5, 3)
    state = search.begin(mean, elites, has_elites, seed, step, first(1))
    twin.begin(np.broadcast_to((LOW + HIGH) / 2, (5, 3)), elites[0], False, int(seed[0]), int(step[0]))
    for _ in range(config["iterations"]):
        ours, theirs = state.ask(), twin.ask()
        np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-4)
        excess = np.maximum(ours[..., 0, 0], 0.0)
        excess = np.where(ours[..., 0, 0] < -0.9, np.nan, excess).astype(np.float32)
        state.tell(score(ours), excess)
        twin.tell(score(ours)[0], excess[0])
    np.testing.assert_allclose(state.finish()[0][0], twin.plan(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(state.best()[0], twin.best, rtol=0, atol=1e-4)
    assert -0.9 <= state.best()[0, 0, 0] <= 0.0


def test_feasible_candidates_rank_before_better_ones_that_violate() -> None:
    search = Search(
        UNIT_LOW, UNIT_HIGH, horizon=1, population=4, elites=3, iterations=2, momentum=0.0, execute_best=True
    )
    mean, elites, has_elites, seed, step = fresh(search, [2], 1, 1)
    scores = np.array([[1.0, 9.0, 2.0, 8.0]], np.float32)
    for violations, best, elite in (
        ([0.0, 0.5, 0.0, 0.1], 2, [2, 0, 3]),
        ([0.4, 0.5, 0.3, 0.3], 3, [3, 2, 0]),
        ([0.4, 0.5, np.nan, np.inf], 0, [0, 1]),
    ):
        state = search.begin(mean, elites, has_elites, seed, step, first(1))
        actions = state.ask()[0]
        state.tell(scores, np.array([violations], np.float32))
        np.testing.assert_array_equal(state.best()[0], actions[best])
        np.testing.assert_allclose(state.finish()[1][0], actions[elite].mean(axis=0), atol=1e-6)
    state.ask()
    with pytest.raises(ValueError, match="violations must have shape"):
        state.tell(scores, np.zeros((1, 3), np.float32))
