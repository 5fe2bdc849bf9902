"""What a run's schedule makes of it, and the cursor over its stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster import build
from cluster.config import RunConfig, resolve
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from cluster.stages import Collect, Evolve, Fit, Interleave, Stage, StageCursor
from cluster.train import train
from learner import checkpoint
from tests.cluster import fake_family


def configured(*overrides: str) -> RunConfig:
    return resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local", *overrides])


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([], [Interleave()]),
        (["schedule.pretrain_updates=7"], [Collect(256), Fit(7, "world_model"), Interleave()]),
        # 64 steps of each of 2 x 2 streams, and one more: then one stream has more than 64
        (
            ["schedule.pretrain_updates=7", "learner.sequence_length=65"],
            [Collect(257), Fit(7, "world_model"), Interleave()],
        ),
        (["schedule.fit_updates=9"], [Collect(2000), Fit(9)]),
        (["schedule.fit_updates=9", "schedule.pretrain_updates=7"], [Collect(2000), Fit(7, "world_model"), Fit(9)]),
        (["schedule.fit_updates=9", "schedule.from_replay=there"], [Fit(9)]),
        # 2000 steps x 2 trained steps for each / (16 sequences x 5 steps), as an interleaved run would
        (["schedule.from_replay=there"], [Fit(50)]),
        (["schedule.from_replay=there", "learner.minibatches=2"], [Fit(100)]),
    ],
)
def test_the_schedule_says_what_a_run_does(overrides: list[str], stages: list[Stage]) -> None:
    config = configured(*overrides)
    assert build.stages(config) == stages
    assert config.stages.collects == ("schedule.from_replay=there" not in overrides)
    # two rollout actors, a planner and a learner of 0.25 each, two shards of 0.1
    assert config.reserved_cpus == pytest.approx(1.2 if config.stages.collects else 0.45)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["schedule.from_replay=there", "replay.limiter.samples_per_insert=null"],
            r"schedule.fit_updates must be set: replay.limiter.samples_per_insert leaves it open",
        ),
        (["schedule.pretrain_updates=-1"], r"schedule.pretrain_updates must be at least 0, got -1"),
        (["schedule.fit_updates=0.5"], r"schedule.fit_updates must be an integer, got 0.5"),
    ],
)
def test_a_schedule_that_cannot_be_run_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configured(*overrides)


def test_a_cursor_follows_the_counts_of_the_run() -> None:
    stages = [Collect(10), Fit(4, "world_model"), Interleave(), Fit(2)]
    cursor = StageCursor(stages, total_steps=30)
    assert (cursor.left(0, 0), cursor.advance(9, 0)) == (10, False)
    assert cursor.advance(12, 0)
    assert cursor.stage == Fit(4, "world_model")
    assert cursor.progress(12, 3) == (3, 4)
    assert (cursor.fitted(3), cursor.collects) == (3, True)
    assert cursor.advance(12, 5)
    assert cursor.progress(20, 9) == (20, 30)
    again = StageCursor(stages, 30, cursor.state_dict())
    assert again.advance(30, 15)
    assert (again.last, again.collects, again.fitted(16), again.left(30, 16)) == (True, False, 6, 1)
    assert not again.advance(30, 17)


def test_a_run_keeps_to_the_stage_it_is_in() -> None:
    cursor = StageCursor([Collect(10), Fit(4)], total_steps=10)
    cursor.advance(10, 0)
    assert StageCursor([Collect(10), Fit(8)], 10, cursor.state_dict()).left(10, 1) == 7
    for stages in ([Interleave()], [Collect(10), Collect(20)]):
        with pytest.raises(ValueError, match=r"the run is in stage 2, Fit, and the configuration's stages are"):
            StageCursor(stages, 10, cursor.state_dict())


@pytest.mark.parametrize("stage", [lambda: Collect(0), lambda: Fit(-1), lambda: Evolve(0), lambda: Fit(1, "actor")])  # type: ignore[arg-type]
def test_stages_refuse_what_is_no_amount_or_part(stage: object) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        stage()  # type: ignore[operator]


def test_a_family_has_stages_of_its_own_and_those_not_run_yet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def stages(config: RunConfig) -> Sequence[Stage]:
        return [Collect(5), Evolve(3)] if config.seed == 1 else [Collect(5), Fit(3)]

    fake_family.install(monkeypatch, stages)
    assert build.stages(RunConfig(algorithm=fake_family.FakeConfig())) == [Collect(5), Fit(3)]
    with pytest.raises(ValueError, match=r"Evolve\(generations=3\) cannot be run yet: a run does Interleave, Collect"):
        RunConfig(seed=1, algorithm=fake_family.FakeConfig())


def test_the_books_of_a_fit_go_by_updates(tmp_path: Path) -> None:
    config = configured("schedule.fit_updates=10", "schedule.total_steps=6", "schedule.log_every=4")
    run_dir = RunDir.create(tmp_path / "run", config)
    recorder = Recorder(config, run_dir, Progress(""))
    recorder.rollout(6, [], {})
    assert [recorder.due("log"), recorder.due("log"), recorder.advance()] == [True, False, True]
    assert [recorder.due(what) for what in ("log", "log", "checkpoint", "checkpoint")] == [True, False, True, False]
    due = []
    for update in range(1, 11):
        recorder.learner(update, {"loss": 1.0})
        assert recorder.finished == (update == 10)
        recorder.advance()
        if recorder.due("log"):
            recorder.log({})
            due.append(update)
    assert due == [4, 8, 10]
    state = recorder.state_dict()
    recorder.close()
    again = Recorder(config, run_dir, Progress(""), {**state, "updates": 8})
    again.close()
    assert len(run_dir.metrics_file.read_text().splitlines()) == 2  # the line of update 10 is cut off
    run_dir.close()


def test_a_change_that_the_checkpoint_cannot_go_on_with_is_not_written_down(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = configured("schedule.total_steps=256", "schedule.fit_updates=2")
    train(config, run)
    written = (run / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"the run is in stage 2, Fit, and the configuration's stages are Interleave"):
        train(None, run, resume=True, overrides=["schedule.fit_updates=0"])
    assert (run / "config.yaml").read_text() == written
    assert train(None, run, resume=True, overrides=["schedule.fit_updates=5"]).reason == "done"
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest)["learner"]["updates"] == 5


def test_a_fit_of_everything_is_not_taken_for_one_of_the_world_model() -> None:
    """A run goes on in the stage it is in; how long that lasts may change, what it does may not."""
    cursor = StageCursor([Fit(15)], 100)
    state = cursor.state_dict()
    assert StageCursor([Fit(30)], 100, state).left(0, 15) == 15
    with pytest.raises(ValueError, match=r"stage 1, Fit, and .* stages are Fit of the world_model, Fit"):
        StageCursor([Fit(10, "world_model"), Fit(15)], 100, state)
