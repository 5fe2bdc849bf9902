"""Looking into trained runs from the command line's side: evaluation, report and fidelity of tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.config import resolve
from cluster.evaluation import evaluate_run, study_imagination
from cluster.report.page import write_report
from cluster.report.run_fidelity import QUICK, RunStudyConfig, measure_run
from cluster.searches import record_searches
from cluster.train import train
from planners.tree_record import loads

TINY = [
    "cluster.mode=local",
    "algorithm.dimensions={deter: 32, hidden: 16, classes: 4, depth: 2, units: 16}",
    "learner.batch_size=4",
    "learner.sequence_length=8",
    "replay.limiter={min_size: 256, samples_per_insert: 2}",
    "schedule={total_steps: 512, log_every: 256, eval_every: 512, eval_episodes: 2}",
]


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "dreamer"
    assert train(resolve("dreamer_v3", "nav3d", "debug", overrides=TINY), path).exit_code == 0
    return path


@pytest.mark.integration
def test_an_evaluation_leaves_episodes_models_and_a_study(latent_run: Path) -> None:
    assert (latent_run / "imagination" / "step512.json").is_file(), "of the evaluation during the run"
    summary = evaluate_run(latent_run, episodes=3, seed=0, gif_episodes=1)
    assert (summary["algorithm"], summary["episodes"], summary["train_steps"]) == ("dreamer_v3", 3, 512)
    records = [json.loads(line) for line in (latent_run / "eval" / "step512_seed0.jsonl").read_text().splitlines()]
    assert len({record["seed"] for record in records}) == 3
    assert sum(record["return"] for record in records) / 3 == pytest.approx(summary["return_mean"])
    assert sum(record["length"] for record in records) == summary["steps"]
    assert all(record["success"] is (record["metrics"]["is_success"] > 0) for record in records)
    assert {record["faults"] for record in records} == {0}
    for name in ("eval/step512_seed0.gif", "models/world_model.pt", "models/behaviour.pt"):
        assert (latent_run / name).is_file(), name
    assert json.loads((latent_run / "imagination" / "step512.json").read_text())["episodes"] == 3


@pytest.mark.integration
def test_a_planner_can_use_the_model_of_an_actor(latent_run: Path) -> None:
    planner = "planner={method: mppi, horizon: 3, population: 8, iterations: 1}"
    summary = evaluate_run(latent_run, 2, 0, 0, overrides=["algorithm.acting=planner", planner])
    assert summary["episodes"] == 2
    assert "return_mean" in summary["policy"]
    [records] = (latent_run / "eval").glob("step512_seed0_algorithm.acting=planner_planner=-method-mppi*.jsonl")
    assert len(records.read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="acting"):
        evaluate_run(latent_run, 2, 0, 0, overrides=["algorithm.actin=planner"])
    with pytest.raises(ValueError, match="--precision bf16: planner method mcts has no precision"):
        evaluate_run(latent_run, 2, 0, 0, precision="bf16", overrides=["planner.method=mcts"])


@pytest.mark.integration
def test_the_searches_of_an_episode_become_a_page(latent_run: Path) -> None:
    with pytest.raises(ValueError, match="this agent does not act by tree search"):
        record_searches(latent_run)
    planner = "planner={method: mcts, simulations: 3}"
    page = record_searches(latent_run, seed=1, overrides=["algorithm.acting=planner", planner])
    assert page == latent_run / "trees" / "step512_seed1.html"
    assert "searches of one episode, return" in page.read_text()
    lines = page.with_suffix(".jsonl").read_text().splitlines()
    assert [int(loads(line).visits[0]) for line in lines] == [4] * len(lines)
    assert page.with_suffix(".dot").read_text().startswith('digraph "step512_seed1" {')


@pytest.mark.integration
def test_a_report_lets_the_model_imagine_once(latent_run: Path) -> None:
    study = latent_run / "imagination" / "step512.json"
    study.unlink(missing_ok=True)
    study_imagination(latent_run)
    written = study.stat().st_mtime_ns
    study_imagination(latent_run)
    assert study.stat().st_mtime_ns == written
    page = write_report(latent_run).read_text()
    for words in ("What the world model imagines", "Latent state", "Imagination beside experience", "replayed"):
        assert words in page


@pytest.mark.integration
def test_fidelity_of_a_latent_model(latent_run: Path) -> None:
    path = measure_run(latent_run, QUICK)
    assert path == latent_run / "fidelity" / "open_loop.md"
    text = path.read_text()
    for words in ("dreamer_v3 on nav3d", "persistence", "one imagined future", "mean of imagined futures", "safe"):
        assert words in text
    record = json.loads(path.with_suffix(".json").read_text())
    for test in ("agent", "uniform"):
        curves = record["tests"][test]["keys"]["state"]
        assert len(curves["sample"]["nrmse"]) == QUICK.horizon
        assert curves["persistence"]["nrmse"][0] < curves["persistence"]["nrmse"][-1]
    assert path.with_suffix(".png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no episode has"):
        measure_run(latent_run, RunStudyConfig(steps=40, horizon=300))


@pytest.mark.integration
def test_fidelity_of_an_ensemble(tmp_path: Path) -> None:
    run = tmp_path / "pets"
    overrides = ["cluster.mode=local", "schedule.total_steps=512"]
    assert train(resolve("pets", "nav3d", "debug", overrides=overrides), run).exit_code == 0
    text = measure_run(run, QUICK).read_text()
    assert "| ensemble |" in text
    assert "| constant velocity |" in text
    figures = json.loads((run / "fidelity" / "open_loop.json").read_text())["tests"]["agent"]["calibration"]["state"]
    assert len(figures["coverage_90"]) == QUICK.horizon
    assert all(0.0 <= value <= 1.0 for value in figures["coverage_90"])
    assert "covers 50 %" in text
    study_imagination(run)
    assert not (run / "imagination").exists()


def test_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        RunStudyConfig(horizon=0)
    with pytest.raises(ValueError, match="is not a run directory"):
        measure_run(tmp_path, QUICK)
