import numpy as np
import pytest

from actors.replay.config import LimiterConfig
from actors.replay.flow.limiter import UNLIMITED, SampleLimiter


def test_ratio_stays_in_the_interval_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    config = LimiterConfig(min_size=100, samples_per_insert=4.0, error_buffer=600.0)
    limiter = SampleLimiter(config, insert_quantum=64, sample_quantum=256)
    allowed_inserts = allowed_samples = 0
    for _ in range(5000):
        if rng.random() < 0.5:
            if limiter.can_insert(64):
                limiter.inserted(64)
                allowed_inserts += 1
        elif limiter.can_sample(256):
            limiter.sampled(256)
            allowed_samples += 1
        drift = limiter.num_inserted * 4.0 - limiter.num_sampled
        assert drift <= 400 + 600 or limiter.num_inserted <= 100
        if limiter.num_sampled:
            assert drift >= 400 - 600
        assert limiter.can_insert(64) or limiter.can_sample(256)  # never both blocked
    assert allowed_inserts > 500
    assert allowed_samples / allowed_inserts == pytest.approx(1.0, rel=0.05)


def test_exact_edges() -> None:
    limiter = SampleLimiter(LimiterConfig(min_size=10, samples_per_insert=2.0, error_buffer=6.0), 1, 4)
    assert limiter.insert_allowance() == 13  # (10 * 2 + 6) / 2
    assert limiter.sample_allowance() == 0
    limiter.inserted(13)
    assert not limiter.can_insert(1)
    assert limiter.sample_allowance() == 12  # 13 * 2 - (20 - 6)
    assert limiter.can_sample(12)
    assert not limiter.can_sample(13)
    limiter.sampled(12)
    assert limiter.insert_allowance() == 6
    assert limiter.sample_allowance() == 0


@pytest.mark.parametrize("seed", range(3))
def test_allowances_are_the_largest_allowed_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limiter = SampleLimiter(LimiterConfig(20, 1.7, 40.0), 3, 7)
    for _ in range(200):
        insert, sample = limiter.insert_allowance(), limiter.sample_allowance()
        assert insert == 0 or limiter.can_insert(insert)
        assert not limiter.can_insert(insert + 1)
        assert sample == 0 or limiter.can_sample(sample)
        assert not limiter.can_sample(sample + 1)
        limiter.inserted(int(rng.integers(insert + 1)))
        limiter.sampled(int(rng.integers(limiter.sample_allowance() + 1)))


def test_a_buffer_that_can_deadlock_is_refused() -> None:
    with pytest.raises(ValueError, match=r"error_buffer 200.0 can deadlock: .* need at least 256.0"):
        SampleLimiter(LimiterConfig(1000, 4.0, 200.0), insert_quantum=64, sample_quantum=256)
    SampleLimiter(LimiterConfig(1000, 4.0, 256.0), insert_quantum=64, sample_quantum=256)


def test_without_a_ratio_only_the_size_counts() -> None:
    limiter = SampleLimiter(LimiterConfig(min_size=5))
    assert limiter.insert_allowance() == UNLIMITED
    assert not limiter.can_sample(1)
    assert limiter.why_blocked() == "sampling waits for data: 0 of 5 steps are inserted"
    limiter.inserted(5)
    assert limiter.sample_allowance() == UNLIMITED
    assert limiter.why_blocked() == ""


def test_reasons_name_the_waiting_side() -> None:
    limiter = SampleLimiter(LimiterConfig(10, 2.0, 6.0), 1, 4)
    limiter.inserted(13)
    assert limiter.why_blocked() == (
        "inserting 1 steps waits for training: 13 inserted x 2 - 0 trained = 26, at most 26"
    )
    limiter.sampled(12)
    assert limiter.why_blocked(sample=4) == (
        "sampling 4 steps waits for data: 13 inserted x 2 - 12 trained = 14, at least 14"
    )


def test_resume_restores_counters_and_keeps_the_configured_limits() -> None:
    old = SampleLimiter(LimiterConfig(10, 2.0, 6.0), 1, 4)
    old.inserted(13)
    old.sampled(12)
    new = SampleLimiter(LimiterConfig(10, 1.0, 50.0))
    new.load_state_dict(old.state_dict())
    assert (new.num_inserted, new.num_sampled) == (13, 12)
    assert new.insert_allowance() == 10 + 50 + 12 - 13


def test_bad_limits_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="min_size must be at least 1, got 0"):
        LimiterConfig(min_size=0)
    with pytest.raises(ValueError, match=r"samples_per_insert .* got -1"):
        LimiterConfig(samples_per_insert=-1.0)
    with pytest.raises(ValueError, match=r"samples_per_insert .* got nan"):
        LimiterConfig(samples_per_insert=float("nan"))


def test_released_leases_make_room_again() -> None:
    limiter = SampleLimiter(LimiterConfig(10, 2.0, 6.0), 1, 4)
    limiter.inserted(13)
    assert limiter.insert_allowance() == 0
    limiter.release(5)
    assert limiter.insert_allowance() == 5


def test_recovery_sets_the_counters_to_what_is_there() -> None:
    limiter = SampleLimiter(LimiterConfig(10, 2.0, 6.0), 1, 4)
    limiter.inserted(13)  # of which 3 were leased and never came
    limiter.sampled(12)
    limiter.recovered(10)
    limiter.redo(4)  # the learner goes back to a checkpoint after 4 trained steps
    assert (limiter.num_inserted, limiter.num_sampled) == (10, 4)
    limiter.redo(100)  # never forward
    assert limiter.num_sampled == 4


def test_blocked_time_is_accounted_and_a_standstill_named(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limiter = SampleLimiter(LimiterConfig(10, 2.0, 6.0), 1, 4, clock=lambda: now[0])
    limiter.inserted(13)
    for _ in range(5):
        now[0] += 3.0
        limiter.watch(1, 4, idle=False)
    assert limiter.blocked == {"insert": 15.0, "sample": 0.0}
    assert limiter.metrics()["timing/insert_blocked_seconds"] == 15.0
    for _ in range(5):
        now[0] += 3.0
        limiter.watch(1, 100, idle=True)  # neither may move, and nothing is under way
    assert limiter.blocked == {"insert": 30.0, "sample": 15.0}
    assert len(caplog.records) == 1
    assert "nothing has moved for 12 s: inserting 1 steps waits for training" in caplog.text
