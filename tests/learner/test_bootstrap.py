"""Bootstrap weights and the split: statistics, and independence of where and when they are asked for."""

import numpy as np

from learner.bootstrap import bootstrap_weights, hash_uniform, held_out, splitmix64

N = 200_000
STREAM = np.repeat(np.arange(20, dtype=np.uint64), N // 20)
STEP = np.tile(np.arange(N // 20, dtype=np.int64), 20)


def test_splitmix_matches_the_published_sequence() -> None:
    # the generator seeded with 0 outputs splitmix64 of 0, gamma, 2 gamma, ...
    gamma = 0x9E3779B97F4A7C15
    seeds = np.array([0, gamma, 2 * gamma % 2**64], np.uint64)
    assert [hex(v) for v in splitmix64(seeds)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_poisson_weights_have_mean_and_variance_one_and_independent_members() -> None:
    weights = bootstrap_weights(STREAM, STEP, 5, seed=3)
    assert weights.shape == (5, N)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.mean(1), 1.0, atol=0.01)
    np.testing.assert_allclose(weights.var(1), 1.0, atol=0.02)
    np.testing.assert_allclose((weights == 0).mean(1), np.exp(-1), atol=0.005)
    np.testing.assert_allclose((weights == 3).mean(1), np.exp(-1) / 6, atol=0.003)
    np.testing.assert_allclose(np.corrcoef(weights), np.eye(5), atol=0.01)
    neighbours = np.corrcoef(weights[0, :-1], weights[0, 1:])[0, 1]
    assert abs(neighbours) < 0.01


def test_bernoulli_doubles_half_of_the_steps_and_none_keeps_all() -> None:
    weights = bootstrap_weights(STREAM, STEP, 3, seed=0, kind="bernoulli")
    assert set(np.unique(weights)) == {0.0, 2.0}
    np.testing.assert_allclose(weights.mean(1), 1.0, atol=0.01)
    np.testing.assert_array_equal(bootstrap_weights(STREAM, STEP, 3, 0, "none"), np.ones((3, N), np.float32))


def test_a_step_has_the_same_weight_in_any_order_and_company() -> None:
    order = np.random.default_rng(0).permutation(N)[:1000]
    whole = bootstrap_weights(STREAM, STEP, 4, seed=7)
    np.testing.assert_array_equal(bootstrap_weights(STREAM[order], STEP[order], 4, seed=7), whole[:, order])
    np.testing.assert_array_equal(bootstrap_weights(STREAM, STEP, 6, seed=7)[:4], whole)
    assert (bootstrap_weights(STREAM, STEP, 4, seed=8) != whole).mean() > 0.5


def test_the_split_takes_whole_episodes_in_the_asked_proportion() -> None:
    episode = STEP // 50
    out = held_out(STREAM, episode, 0.1, seed=1)
    per_episode = out.reshape(-1, 50)
    assert (per_episode.all(1) | ~per_episode.any(1)).all()
    np.testing.assert_allclose(per_episode[:, 0].mean(), 0.1, atol=0.02)
    assert not held_out(STREAM, episode, 0.0, seed=1).any()


def test_extreme_keys_are_valid() -> None:
    streams = np.array([0, 2**64 - 1, 2**63], np.uint64)
    uniform = hash_uniform(2**63 - 1, streams, np.array([-1, 0, 1]))
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert len(np.unique(uniform)) == 3
