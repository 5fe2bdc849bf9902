"""The run in one process: the same twice, and the same after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.planning import PlannerPolicy
from actors.rollout import RolloutLoop, RolloutResult
from cluster import build
from cluster.bundle import replay_update
from cluster.checkpoints import keep_tail, must_keep_tail
from cluster.config import RunConfig, build_run, override, preset_names, resolve
from cluster.evaluation import evaluate_run
from cluster.local import LocalRun
from cluster.metrics import without_incidentals
from cluster.report.page import write_report
from cluster.run_dir import RunDir
from cluster.stages import Stage
from cluster.supervise import RunFailed
from cluster.train import train
from cluster.tree import to_tree
from learner import checkpoint
from tests.cluster import fake_family
from tests.docs.glossary import unexplained
from tests.envs import slippery as slippery_env

pytestmark = pytest.mark.integration


@pytest.fixture
def config() -> RunConfig:
    return resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local", "seed=3"])


def test_two_runs_of_a_seed_write_the_same_metrics(config: RunConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(config, tmp_path / name)
    a, b = (without_incidentals((tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("a", "b"))
    assert len(a) >= 4
    assert any("learner/loss" in line for line in a)
    assert a == b


# Of the configurations of MuZero two, which have all parts between them, and of the one-step models those that differ
# in what they remember; tests/integration/test_models.py runs them all.
ALIKE = {"muzero", "gumbel_muzero", "mlp", "ensemble", "stochastic", "stochastic_ensemble", "latent", "creature_latent"}


@pytest.mark.parametrize("algo", sorted({*preset_names("algorithms")} - ALIKE))
def test_a_run_stopped_anywhere_equals_an_uninterrupted_one(
    algo: str, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    schedule = ["schedule.total_steps=768", "schedule.log_every=250", "schedule.eval_every=500"]
    overrides = ["cluster.mode=local", "seed=3", *schedule]
    env = "nav3d_image" if algo == "visual" else "nav3d"
    if algo == "efficientzero":  # the one with ids, and with targets that are made anew
        env = "gym:CartPole-v1"
        overrides += ["reanalyze.fraction=0.5", "reanalyze.batch_size=16", "reanalyze.steps_per_update=32"]
    config = resolve(algo, env, "debug", overrides=overrides)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)
    for turns in (1, 2):  # before the first checkpoint of the schedule, and between two lines of metrics
        stop_after(turns)
        outcome = train(None if turns > 1 else config, parts, resume=turns > 1)
        assert outcome.reason == "SIGTERM"
    stop_after(0)
    assert train(None, parts, resume=True).reason == "done"
    lines = assert_same_run(whole, parts)
    assert len(lines) >= 3
    assert algo != "efficientzero" or lines[-1]["learner/target/fresh"] > 0
    replay = build.replay(config, whole / "replay", None)
    for stream_id, (start, end) in replay.streams().items():
        data = replay.read(stream_id, start, end - start).data
        if "latent_deter" in data:  # zeros of a policy without weights, until the learner writes back
            assert data["latent_deter"][:, :64].any()
    replay.close()


STAGES = {
    "collect and fit": (["schedule.fit_updates=9", "schedule.total_steps=768"], ["Collect", "Fit"]),
    "pretrain": (
        ["schedule.pretrain_updates=5", "schedule.total_steps=1000", "replay.limiter.min_size=512"],
        ["Collect", "Fit", "Interleave"],
    ),
    "from replay": (["schedule.fit_updates=9", "schedule.pretrain_updates=4"], ["Fit", "Fit"]),
}


# The stages are the same code for every algorithm; a fit from stored steps is where one with latents differs.
@pytest.mark.parametrize(("case", "algo"), [*((case, "pets") for case in STAGES), ("from replay", "dreamer_v2")])
def test_a_run_stopped_in_any_stage_equals_an_uninterrupted_one(
    case: str, algo: str, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    overrides, names = STAGES[case]
    overrides = [*overrides, "cluster.mode=local", "schedule.log_every=4", "schedule.eval_every=600"]
    if case == "from replay":
        stored = resolve(algo, "nav3d", "debug", overrides=["cluster.mode=local", "schedule.total_steps=512", "seed=7"])
        train(stored, tmp_path / "stored")
        before = contents(tmp_path / "stored")
        overrides += [f"schedule.from_replay={tmp_path / 'stored'}", "schedule.eval_every=4"]
    config = resolve(algo, "nav3d", "debug", overrides=overrides)
    assert [type(stage).__name__ for stage in build.stages(config)] == names
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)
    stopped_in = set()
    for turn in range(20):
        stop_after(1 if turn == 0 else 3)
        outcome = train(config if turn == 0 else None, parts, resume=turn > 0)
        stopped_in.add(checkpoint.load(_newest(parts))["recorder"]["stages"]["index"])
        if outcome.reason == "done":
            break
    assert stopped_in == set(range(len(names)))
    lines = assert_same_run(whole, parts)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    if case == "from replay":
        assert {line["step"] for line in lines} == {512}
        assert any("eval/return_mean" in line for line in lines)
        assert lines[-1]["learner/updates"] == 13
        assert contents(tmp_path / "stored") == before
        assert evaluate_run(parts, episodes=2, seed=0, gif_episodes=0)["train_steps"] == 512
        assert "<html" in write_report(parts).read_text()


@pytest.fixture
def slippery() -> RunConfig:
    return resolve("pets", slippery_env.NAME, "debug", overrides=["cluster.mode=local", "env.fault_budget=1000"])


def test_a_run_whose_simulators_fail_equals_one_that_was_stopped(
    slippery: RunConfig, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(slippery, whole)
    for turns in (1, 2):
        stop_after(turns)
        assert train(slippery if turns == 1 else None, parts, resume=turns > 1).reason == "SIGTERM"
    stop_after(0)
    assert train(None, parts, resume=True).reason == "done"
    lines = assert_same_run(whole, parts)
    assert lines[-1]["env/faults"] > 20
    assert lines[-1]["env/faults"] == lines[-1]["env/faults_exception"] + lines[-1]["env/faults_nonfinite"]
    streams = lines[-1]["replay/streams"]  # one more for each fault, but for those in the reset of a new instance
    assert 20 < streams <= 2 * slippery.actors.envs_per_actor + lines[-1]["env/faults"]


def test_a_spent_budget_of_faults_ends_with_a_checkpoint_and_the_run_resumes(
    slippery: RunConfig, tmp_path: Path
) -> None:
    config = replace(slippery, env=replace(slippery.env, fault_budget=3))
    text = r"faults of simulators in .*env\.fault_budget allows 3; the last one: environment .*--resume"
    with pytest.raises(RunFailed, match=text):
        train(config, tmp_path / "run")
    step = checkpoint.step_of(_newest(tmp_path / "run"))
    assert step > 0
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "failed"
    assert events[-1]["step"] == step
    outcome = train(None, tmp_path / "run", resume=True, overrides=["env.fault_budget=1000"])
    assert (outcome.reason, outcome.exit_code) == ("done", 0)


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_a_simulator_that_stays_broken_ends_in_one_line(
    share: float, slippery: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.vector.REMAKE_WAITS", (0.0,))  # a reset fails in one of 10 tries, or in each
    config = replace(slippery, env=replace(slippery.env, options={"share": share}))
    with pytest.raises(RunFailed, match=r"Slippery-v0: environment \d fails each of the 1 times .*--resume"):
        train(config, tmp_path / "run")
    assert (checkpoint.latest(tmp_path / "run" / "checkpoints") is None) == (share == 1.0)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def assert_same_run(whole: Path, parts: Path, but: str = "timing/") -> list[dict[str, float]]:
    """Two runs wrote the same metrics, `but` some, learned the same and stored the same; the lines of metrics."""
    lines = [without_incidentals((run / "metrics.jsonl").read_text().splitlines()) for run in (whole, parts)]
    lines = [[{key: x for key, x in line.items() if not key.startswith(but)} for line in rows] for rows in lines]
    differing = {key for a, b in zip(*lines, strict=False) for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    assert not differing
    assert lines[0] == lines[1]
    assert unexplained(set().union(*lines[0])) == set()
    states = [checkpoint.load(_newest(run)) for run in (whole, parts)]
    assert_equal(states[0]["learner"], states[1]["learner"], "learner")
    replays = [build.replay(RunDir.open(run)[1], run / "replay", None) for run in (whole, parts)]
    assert replays[0].streams() == replays[1].streams()
    for stream_id, (start, end) in replays[0].streams().items():
        batches = [replay.read(stream_id, start, end - start) for replay in replays]
        assert_equal(batches[0].data, batches[1].data, f"stream {stream_id}")
    for replay in replays:
        replay.close()
    return lines[0]


@pytest.mark.parametrize("env", ["gym:CartPole-v1", "gym:Pendulum-v1"])
def test_another_algorithm_with_latents_of_its_own_goes_the_same_way(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], None]
) -> None:
    fake_family.install(monkeypatch)
    tree = to_tree(resolve("pets", env, "debug", overrides=["cluster.mode=local", "replay.num_shards=1"]))
    config = build_run({**tree, "algorithm": {"name": "fake"}})
    train(config, tmp_path / "whole")
    stop_after(2)
    assert train(config, tmp_path / "parts").reason == "SIGTERM"
    stop_after(0)
    assert train(None, tmp_path / "parts", resume=True).reason == "done"
    lines = [without_incidentals((tmp_path / n / "metrics.jsonl").read_text().splitlines()) for n in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert lines[0][-1]["learner/refreshed"] > 0.1
    replay = build.replay(config, tmp_path / "parts" / "replay", None)
    assert len(replay.streams()) == 4
    for stream_id, (start, end) in replay.streams().items():
        data = replay.read(stream_id, start, end - start).data
        assert data["latent_deter"].dtype == np.float16
        assert data["action"].dtype == build.env_spec(config).action.dtype
    replay.close()
    assert evaluate_run(tmp_path / "parts", episodes=3, seed=0, gif_episodes=0)["algorithm"] == "fake"


def assert_equal(ours: Any, theirs: Any, where: str) -> None:
    """Nests of values are equal, bit for bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_equal(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, value in enumerate(ours):
            assert_equal(value, theirs[index], f"{where}[{index}]")
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=where)


def test_evaluation_report_and_marks_of_a_run(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config, run)
    assert json.loads((run / "DONE.json").read_text())["reason"] == "done"
    summary = evaluate_run(run, episodes=3, seed=0, gif_episodes=1)
    assert summary["episodes"] == 3
    assert summary.keys() >= {"env", "algorithm", "success_rate", "success_ci95", "return_mean", "return_ci95", "steps"}
    assert len(list((run / "eval").glob("*.gif"))) == 1
    assert sorted(path.name for path in (run / "models").iterdir())[:1] == ["world_model_member_0.pt"]
    assert "<html" in write_report(run).read_text()


def test_without_a_ratio_collects_and_updates_take_turns(tmp_path: Path, stop_after: Callable[[int], None]) -> None:
    overrides = ["cluster.mode=local", "replay.limiter.samples_per_insert=null", "schedule.total_steps=1024"]
    config = resolve("pets", "nav3d", "debug", overrides=[*overrides, "schedule.log_every=256"])
    train(config, tmp_path / "whole")
    stop_after(2)
    assert train(config, tmp_path / "parts").reason == "SIGTERM"
    stop_after(0)
    train(None, tmp_path / "parts", resume=True)
    lines = assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert [line["step"] for line in lines] == [256, 512, 768, 1024]
    assert [line["learner/updates"] for line in lines] == [2, 4, 6, 8]  # cluster.updates_per_lease after each collect


def test_updates_wait_until_a_stream_holds_a_sequence(tmp_path: Path) -> None:
    short = ["actors.envs_per_actor=8", "learner.sequence_length=70", "learner.batch_size=2", "schedule.log_every=512"]
    overrides = ["cluster.mode=local", "roles.rollout.count=1", "schedule.total_steps=1536", *short]
    train(resolve("pets", "nav3d", "debug", overrides=overrides), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    updates = [line["learner/updates"] for line in lines]
    assert updates[0] == 0  # 64 steps of each stream
    assert updates[1] > 0


def test_a_signal_stops_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act, asked = PlannerPolicy.act, []

    def act_and_signal(self: PlannerPolicy, step: Any, carry: Any, explore: bool) -> Any:
        if not explore:
            asked.append(len(step.is_first))
            if len(asked) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return act(self, step, carry, explore)

    monkeypatch.setattr(PlannerPolicy, "act", act_and_signal)
    config = resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local", "schedule.eval_every=512"])
    assert train(config, tmp_path / "run").reason == "SIGTERM"
    assert len(asked) == 3
    assert train(None, tmp_path / "run", resume=True).reason == "done"


def test_a_stop_leaves_a_checkpoint_and_a_mark(
    config: RunConfig, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(1)
    outcome = train(config, tmp_path / "run")
    assert outcome.reason == "SIGTERM"
    assert outcome.exit_code == 0  # unless the configuration says otherwise: cluster.stop_exit_code
    assert json.loads((tmp_path / "run" / "STOPPED.json").read_text())["reason"] == "SIGTERM"
    assert checkpoint.step_of(_newest(tmp_path / "run")) == outcome.steps


def test_a_stop_in_the_midst_of_a_turn_is_exact(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collect and an evaluation are left between two steps, and go on from there."""
    config = override(config, ["schedule.eval_every=600", "cluster.stop_budget_seconds=600"])
    train(config, tmp_path / "whole")
    act, acts = PlannerPolicy.act, [0]

    def act_then_signal(self: PlannerPolicy, step: Any, carry: Any, explore: bool) -> Any:
        acts[0] += 1
        if acts[0] % 400 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, step, carry, explore)

    monkeypatch.setattr(PlannerPolicy, "act", act_then_signal)
    outcome = train(config, tmp_path / "parts")
    stops = 0
    while outcome.reason != "done":
        stops += 1
        acts[0] = 0
        outcome = train(None, tmp_path / "parts", resume=True)
    assert stops > 1
    assert_same_run(tmp_path / "whole", tmp_path / "parts", "policy/")


def test_a_stop_leaves_simulators_that_hang(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(config, ["cluster.stop_budget_seconds=8"])
    collect, collects = RolloutLoop.collect, [0]

    def hang(self: RolloutLoop, num_ticks: int, *stopping: Callable[[], bool]) -> RolloutResult:
        collects[0] += 1
        if collects[0] == 12:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            threading.Event().wait(600.0)
        return collect(self, num_ticks, *stopping)

    monkeypatch.setattr(RolloutLoop, "collect", hang)
    outcome = train(config, tmp_path / "run")
    assert outcome.reason == "SIGTERM"
    marker = json.loads((tmp_path / "run" / "STOPPED.json").read_text())
    newest = _newest(tmp_path / "run")
    assert (marker["checkpoint"], marker["checkpoint_step"]) == (newest.name, checkpoint.step_of(newest))
    assert marker["step"] == marker["checkpoint_step"] > 0
    assert "environments" in marker["left_out"][0]
    assert train(None, tmp_path / "run", resume=True).reason == "done"


def test_a_run_continues_with_other_shards_and_actors(
    config: RunConfig, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(4)
    before = train(config, tmp_path / "run").steps
    stop_after(0)
    overrides = ["replay.num_shards=3", "roles.rollout.count=3"]
    outcome = train(None, tmp_path / "run", resume=True, overrides=overrides)
    assert outcome.reason == "done"
    _, stored = RunDir.open(tmp_path / "run")
    assert stored.replay.num_shards == 3
    replay = build.replay(stored, tmp_path / "run" / "replay", None)
    assert len(replay.shards) == 3
    assert replay.num_steps == outcome.steps > before
    replay.close()


def test_a_run_continues_with_other_environments(
    config: RunConfig, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(1)
    before = train(config, tmp_path / "run").steps
    stop_after(0)
    outcome = train(None, tmp_path / "run", resume=True, overrides=["actors.envs_per_actor=3"])
    assert stored_steps(tmp_path / "run") == outcome.steps > before


@pytest.mark.parametrize("checkpointed", [True, False])
def test_what_was_stored_on_ray_is_kept_in_one_process(
    checkpointed: bool, config: RunConfig, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    run = tmp_path / "run"
    stop_after(2)
    before = train(config, run)
    newest = _newest(run)
    parts = checkpoint.load(newest)
    del parts["actors"]  # as a run on Ray leaves it
    shutil.rmtree(run / "checkpoints")
    if checkpointed:
        checkpoint.save(run / "checkpoints", before.steps, parts, 2)
    keep_tail(run / "replay")
    stop_after(0)
    outcome = train(None, run, resume=True)
    assert outcome.reason == "done"
    assert stored_steps(run) == outcome.steps > before.steps
    assert not must_keep_tail(run / "replay")


def stored_steps(run: Path) -> int:
    replay = build.replay(RunDir.open(run)[1], run / "replay", None)
    replay.close()
    return replay.num_steps


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Arranges for SIGTERM after some turns of the next run; 0 for none."""
    turn = LocalRun.turn

    def arrange(turns: int) -> None:
        left = [turns]

        def turn_then_signal(self: LocalRun, stage: Stage) -> None:
            turn(self, stage)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(LocalRun, "turn", turn_then_signal)

    return arrange


def _newest(run: Path) -> Path:
    path = checkpoint.latest(run / "checkpoints")
    assert path is not None
    return path


def test_a_run_whose_updates_are_not_finite_ends_and_names_the_bundle(tmp_path: Path) -> None:
    overrides = ["cluster.mode=local", "algorithm.optimizer.lr=1e30", "learner.nonfinite_budget=3"]
    with pytest.raises(RunFailed, match=r"3 updates in a row .*replay-update .*/bundles/update_.*; continue with: "):
        train(resolve("pets", "nav3d", "debug", overrides=overrides), tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][-3:] == ["nonfinite", "nonfinite", "failed"]
    (bundle,) = (tmp_path / "run" / "bundles").iterdir()
    assert not replay_update(bundle).finite
