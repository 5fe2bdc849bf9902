"""PetsAlgorithm and Learner: learning, the split, early stopping, resume."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.specs import ArraySpec, EnvSpec
from learner import checkpoint
from learner.algorithms.base import UpdateResult
from learner.algorithms.pets import PetsAlgorithm
from learner.algorithms.pets_config import PetsConfig
from learner.batch import SequenceBatch
from learner.early_stopping import EarlyStopping, EarlyStoppingConfig
from learner.learner import Learner
from learner.learner_config import LearnerConfig
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.means import mean_metrics
from learner.models.ensemble_config import EnsembleConfig
from learner.models.members import load_member
from learner.optim_config import OptimConfig
from learner.transitions import transitions_of
from tests.learner.streams import SPEC, make_batch, make_stream

CPU = torch.device("cpu")
STREAMS = [make_stream(seed) for seed in range(3)]
SMALL = PetsConfig(ensemble=EnsembleConfig(3, (32,), "tanh"), optimizer=OptimConfig(lr=3e-3), validation_fraction=0.2)


def batches(seed: int = 0, size: int = 16, length: int = 9) -> Iterator[SequenceBatch]:
    rng = np.random.default_rng(seed)
    while True:
        yield make_batch(STREAMS, size, length, rng)


def learner(config: PetsConfig, source: Iterator[SequenceBatch], **options: Any) -> Learner:
    return Learner(PetsAlgorithm(config, SPEC, CPU, seed=5), source, LearnerConfig(threads=1, **options), seed=9)


@pytest.mark.parametrize("gaussian", [False, True])
def test_the_loss_falls_on_a_linear_system_for_every_member(gaussian: bool) -> None:
    config = replace(SMALL, ensemble=EnsembleConfig(3, (32,), "tanh", gaussian, termination=True))
    run = learner(config, batches())
    first = run.step()
    for _ in range(400):
        last = run.step()
    for i in range(3):
        assert last[f"loss_member_{i}"] < first[f"loss_member_{i}"] - 0.3
    if not gaussian:
        assert last["loss_state"] < 0.01
        assert last["validation_loss"] < 0.5 * first["validation_loss"]
    assert last["loss"] == pytest.approx(np.mean([last[f"loss_member_{i}"] for i in range(3)]), rel=1e-5)


def test_metrics_count_updates_samples_and_time() -> None:
    run = learner(SMALL, batches(), minibatches=4, batch_size=16, updates_per_batch=2)
    run.step()
    metrics = run.step()
    assert (metrics["updates"], metrics["samples"]) == (16.0, 2 * 16 * 9)
    assert metrics["time/update"] > 0
    assert metrics["time/wait"] > 0


def test_members_differ_by_bootstrap_and_agree_without_it() -> None:
    stream = [make_stream(0, episodes=3)]

    def spread(kind: Any) -> float:
        rng = np.random.default_rng(0)
        optimizer = OptimConfig(lr=1e-2, decay_steps=600)
        config = replace(SMALL, bootstrap=kind, ensemble=EnsembleConfig(3, ()), optimizer=optimizer)
        run = learner(config, (make_batch(stream, 16, 9, rng) for _ in range(600)))
        for _ in range(600):
            run.step()
        return float(run.export_weights()["bias_0"][:, -1].std())  # the reward is not linear: resampling moves its fit

    assert spread("poisson") > 5 * spread("none")


def test_held_out_episodes_do_not_move_the_weights() -> None:
    batch = next(batches())
    config = replace(SMALL, validation_fraction=0.9999999)
    algorithm = PetsAlgorithm(config, SPEC, CPU, seed=1)
    before = algorithm.export_weights()
    metrics = algorithm.update(batch).metrics
    after = algorithm.export_weights()
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("weight"))
    assert metrics["validation_loss"] > 0


def test_a_batch_without_held_out_episodes_reports_no_held_out_loss() -> None:
    algorithm = PetsAlgorithm(replace(SMALL, validation_fraction=0.0), SPEC, CPU, seed=1)
    assert not any(name.startswith("validation_loss_member") for name in algorithm.update(next(batches())).metrics)


def test_updating_stops_at_the_best_weights_and_resumes_when_the_data_grows() -> None:
    stopping = EarlyStoppingConfig(patience=20, smoothing=5, min_improvement=0.5, growth=1.2)
    algorithm = PetsAlgorithm(replace(SMALL, early_stopping=stopping), SPEC, CPU, seed=1)
    rng = np.random.default_rng(0)
    source = (make_batch(STREAMS[:1], 32, 9, rng) for _ in range(2000))
    for batch in source:
        if algorithm.update(batch).metrics["stopped"]:
            break
    else:
        pytest.fail("never stopped")
    frozen = algorithm.export_weights()
    metrics = algorithm.update(next(source)).metrics
    assert metrics["stopped"] == 1.0
    assert "loss" not in metrics
    assert all(np.array_equal(value, algorithm.export_weights()[name]) for name, value in frozen.items())
    algorithm.update(make_batch(STREAMS, 32, 9, rng))  # two more streams
    metrics = algorithm.update(next(source)).metrics
    assert metrics["stopped"] == 0.0
    assert "loss" in metrics


def test_a_held_out_loss_that_is_not_finite_is_left_out_of_the_average() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig())
    for loss in (2.0, math.nan, math.inf, 2.0):
        stopping.observe(loss, data_seen=100)
    assert stopping.smoothed == 2.0


def test_the_average_is_exported_and_differs_from_the_trained_weights() -> None:
    algorithm = PetsAlgorithm(replace(SMALL, average_decay=0.99), SPEC, CPU, seed=1)
    source = batches()
    for _ in range(30):
        algorithm.update(next(source))
    trained = algorithm.model.weights[0].detach().numpy()
    assert not np.array_equal(algorithm.export_weights()["weight_0"], trained)
    np.testing.assert_array_equal(algorithm.model.weights[0].detach().numpy(), trained)


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_resume_continues_bit_for_bit(tmp_path: Path, average_decay: float) -> None:
    stopping = EarlyStoppingConfig(patience=200, smoothing=3)
    ensemble = EnsembleConfig(3, (32,), "silu", gaussian=True, termination=True)
    config = replace(SMALL, average_decay=average_decay, early_stopping=stopping, ensemble=ensemble)
    settings: dict[str, Any] = {"minibatches": 2, "batch_size": 16}
    whole = learner(config, batches(), **settings)
    expected = [whole.step() for _ in range(30)]

    source = batches()
    part = learner(config, source, **settings)
    for _ in range(15):
        part.step()
    path = checkpoint.save(tmp_path, 15, {"learner": part.state_dict()})
    part.step()  # what happens after the checkpoint must not leak into it
    source = batches()
    for _ in range(15):
        next(source)
    resumed = Learner(PetsAlgorithm(config, SPEC, CPU, seed=5), source, LearnerConfig(threads=1, **settings), seed=123)
    resumed.load_state_dict(checkpoint.load(path)["learner"])
    got = [resumed.step() for _ in range(15)]
    for want, have in zip(expected[15:], got, strict=True):
        assert {k: v for k, v in want.items() if "time" not in k} == {k: v for k, v in have.items() if "time" not in k}
    for name, value in whole.export_weights().items():
        np.testing.assert_array_equal(value, resumed.export_weights()[name])


def test_artifacts_are_the_members(tmp_path: Path) -> None:
    algorithm = PetsAlgorithm(SMALL, SPEC, CPU, seed=1)
    algorithm.update(next(batches()))
    paths = algorithm.save_artifacts(tmp_path)
    assert len(paths) == 3
    weight = load_member(paths[2]).weights[0].detach().numpy()
    np.testing.assert_array_equal(weight[0], algorithm.export_weights()["weight_0"][2])


def test_evaluate_agrees_with_the_held_out_loss_of_an_update() -> None:
    batch = next(batches())
    algorithm = PetsAlgorithm(replace(SMALL, validation_fraction=0.9999999), SPEC, CPU, seed=1)
    expected = algorithm.evaluate(transitions_of(batch, "state"))
    metrics = algorithm.update(batch).metrics
    np.testing.assert_allclose([metrics[f"validation_loss_member_{i}"] for i in range(3)], expected, rtol=1e-5)


def test_bf16_computes_close_to_fp32() -> None:
    batch = next(batches())
    algorithms = [PetsAlgorithm(SMALL, SPEC, CPU, seed=1, precision=p) for p in ("fp32", "bf16")]
    losses = [algorithm.update(batch).metrics["loss"] for algorithm in algorithms]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_priorities_are_finite_whatever_the_weights_have_become() -> None:
    algorithm, batch = PetsAlgorithm(SMALL, SPEC, CPU, seed=5, priorities=True), next(batches())
    with torch.no_grad():
        algorithm.model.weights[-1].fill_(1e38)
    assert (algorithm._sequence_errors(batch) == 0.0).all()


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("key", ["reward", "state"])
def test_one_outlier_is_left_out_counted_and_told_once(at: int, key: str, caplog: pytest.LogCaptureFixture) -> None:
    def poisoned() -> Iterator[SequenceBatch]:
        for index, batch in enumerate(batches()):
            if index >= at:  # as a replay shows the same step again and again
                batch.data[key][3, 4] = 1e38
            yield batch

    clean, run = learner(SMALL, batches()), learner(SMALL, poisoned())
    run.algorithm._gives_priorities = True
    for index in range(10):
        expected, metrics = clean.step(), run.step()
        assert (metrics["outliers"] > 0) == (index >= at)
        assert expected["outliers"] == 0.0
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=0.1)
    for name in ("input_scale", "output_scale", "output_shift"):
        left, right = (getattr(each.algorithm.model, name) for each in (clean, run))
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.05)
    assert len(caplog.records) == 1
    assert ("the reward is 1e+38" in caplog.text) == (key == "reward")


@pytest.mark.parametrize("minibatches", [1, 4])
def test_priorities_of_every_part_reach_the_sink(minibatches: int) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def sink(batch: SequenceBatch, result: UpdateResult) -> None:
        assert result.priorities is not None
        seen.append((batch.handle, result.priorities))

    [batch] = [next(batches())]
    algorithm = PetsAlgorithm(SMALL, SPEC, CPU, seed=5, priorities=True)
    settings = LearnerConfig(threads=1, batch_size=16, minibatches=minibatches)
    metrics = Learner(algorithm, iter([batch]), settings, on_result=sink).step()
    assert [len(priorities) for _, priorities in seen] == [16 // minibatches] * minibatches
    handles = np.concatenate([handle for handle, _ in seen])
    assert sorted(handles.tolist()) == sorted(batch.handle.tolist())
    assert metrics["priority_mean"] == pytest.approx(np.mean([p.mean() for _, p in seen]), rel=1e-5)
    assert metrics["weight_mean"] == 1.0


def test_a_sequence_that_is_predicted_worse_gets_a_larger_priority() -> None:
    run = learner(SMALL, batches())
    for _ in range(100):
        run.step()
    algorithm = PetsAlgorithm(SMALL, SPEC, CPU, seed=5, priorities=True)
    algorithm.load_state_dict(run.algorithm.state_dict())
    batch = next(batches(3))
    batch.data["reward"][4, 1:] += 5.0
    priorities = algorithm.update(batch).priorities
    assert priorities is not None
    assert priorities.dtype == np.float32
    assert (priorities >= 0).all()
    assert priorities[4] > 5 * np.delete(priorities, 4).max()


def test_importance_weights_change_the_gradient_and_only_their_ratios_matter() -> None:
    batch = next(batches())
    weights = np.linspace(0.1, 1.0, 16, dtype=np.float32)
    exported = []
    for weight in (batch.weight, weights, 0.5 * weights):
        algorithm = PetsAlgorithm(SMALL, SPEC, CPU, seed=5)
        algorithm.update(replace(batch, weight=weight))
        exported.append(algorithm.export_weights()["weight_0"])
    assert not np.array_equal(exported[0], exported[1])
    np.testing.assert_allclose(exported[1], exported[2], rtol=1e-4, atol=1e-7)


def test_giving_priorities_changes_nothing_else() -> None:
    plain, giving = (PetsAlgorithm(SMALL, SPEC, CPU, seed=5, priorities=p) for p in (False, True))
    batch = next(batches())
    before, after = plain.update(batch), giving.update(batch)
    assert before.priorities is None
    assert {k: v for k, v in after.metrics.items() if k not in ("priority_mean", "weight_mean")} == before.metrics


def test_environments_that_do_not_fit_are_refused() -> None:
    discrete = EnvSpec("d", {"state": ArraySpec((4,), "float32")}, ArraySpec((), "int64", num_values=3))
    with pytest.raises(ValueError, match="discrete"):
        PetsAlgorithm(SMALL, discrete, CPU, seed=0)
    with pytest.raises(ValueError, match="'pixels'"):
        PetsAlgorithm(replace(SMALL, observation_key="pixels"), SPEC, CPU, seed=0)


def test_mean_metrics_average_what_is_there() -> None:
    assert mean_metrics([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PetsConfig(validation_fraction=1.0), "got 1.0"),
        (lambda: PetsConfig(average_decay=-0.1), "got -0.1"),
        (lambda: PetsConfig(bootstrap="some"), "'some'"),  # type: ignore[arg-type]
        (lambda: PetsConfig(validation_fraction=0.0, early_stopping=EarlyStoppingConfig(5)), "early stopping"),
        (lambda: LearnerConfig(sequence_length=1), "sequence_length must be at least 2, got 1"),
        (lambda: LearnerConfig(batch_size=10, minibatches=3), "10 is not a multiple"),
        (lambda: LearnerConfig(precision="fp8"), "'fp8'"),  # type: ignore[arg-type]
        (lambda: LearnerConfig(device="tpu"), "'tpu'"),  # type: ignore[arg-type]
        (lambda: OptimConfig(lr=0.0), "lr must be greater than 0, got 0.0"),
        (lambda: EarlyStoppingConfig(growth=1.0), "got 1.0"),
        (lambda: EnsembleLossConfig(reward_scale=-1.0), "got -1.0"),
    ],
)
def test_bad_settings_name_field_and_value(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
