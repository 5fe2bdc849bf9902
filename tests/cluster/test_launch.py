"""The leases that the driver issues in each stage, to actors that note them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError, RayTaskError

from cluster import build
from cluster.config import resolve
from cluster.ending import Saved
from cluster.launch import Run, lease_steps
from cluster.leases import Task, lose_updates
from cluster.liveness import Hang
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.roles import ROLES
from cluster.run_dir import RunDir
from cluster.signals import StopFlag
from cluster.supervise import BudgetSpent, RunFailed
from envs.contract import ContractError
from envs.faults import SimulatorError
from learner.nonfinite import NonFiniteError


class Noting:
    """An actor whose methods note their arguments and never answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> object:
            self.calls.append((name, arguments))
            return object()

        return type("Method", (), {"remote": staticmethod(remote)})


class StubFleet:
    """Two rollout actors and two learner ranks."""

    def __init__(self) -> None:
        self.actors = {"rollout": [Noting(), Noting()], "learner": [Noting(), Noting()], "reanalyze": []}
        self.learner_state: Any = None

    def restart_due(self) -> list[Any]:
        return []

    def seconds_to_restart(self) -> float:
        return 0.0

    def replay_stats(self) -> dict[str, float]:
        return {"replay/steps": 1e9}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """[Collect(512), Fit(5, "world_model"), Interleave()] with 128 steps a collect and two updates a lease."""
    overrides = ["schedule.pretrain_updates=5", "replay.limiter.min_size=512", "roles.learner.count=2"]
    config = resolve("pets", "nav3d", "debug", overrides=overrides)
    run_dir = RunDir.create(tmp_path / "run", config)
    fleet: Any = StubFleet()
    with closing(run_dir), closing(Recorder(config, run_dir, Progress(""))) as recorder:
        yield Run(config, recorder, cast(Any, None), fleet, build.limiter(config, lease_steps(config)), run_dir)


def test_collecting_and_fitting_have_leases_of_one_kind(run: Run) -> None:
    rollouts, learners = run.fleet.actors["rollout"], run.fleet.actors["learner"]
    run.issue()
    assert [actor.calls for actor in rollouts] == [[("run", (64,))] * 2] * 2
    assert run.limiter.num_inserted == 512
    run.issue()
    assert all(len(actor.calls) == 2 and not learner.calls for actor, learner in zip(rollouts, learners, strict=True))
    run.pending.clear()
    run.recorder.rollout(512, [], {})
    assert run.recorder.advance()
    for done, batches in ((0, 2), (2, 2), (4, 1)):
        run.recorder.learner(done, {})
        run.issue()
        run.issue()
        assert [learner.calls.pop() for learner in learners] == [("train", (batches, "world_model"))] * 2
        assert not any(learner.calls for learner in learners)
        run.pending.clear()
    assert run.limiter.num_sampled == 0
    run.recorder.learner(5, {})
    run.issue()
    assert not any(learner.calls for learner in learners)


def test_pretraining_leaves_the_ratio_of_the_rest_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, fleet = run.recorder, cast(Any, run.fleet)
    recorder.rollout(512, [], {})
    recorder.advance()
    recorder.learner(5, {})
    assert recorder.advance()
    run.limiter.inserted(512)
    run.issue()
    assert [learner.calls for learner in fleet.actors["learner"]] == [[("train", (2, None))]] * 2
    assert run.limiter.num_sampled == run.lease_steps
    state = {"updates": 15, "samples": 15 * 8 * 5}  # of a rank; ten of the updates were not in the Fit
    run.checkpoints = type("Stub", (), {"newest_learner": lambda self: state})()  # type: ignore[assignment]
    recorder.learner(40, {})
    run.limiter.sampled(10_000)
    lose_updates(run, [])
    assert fleet.learner_state is state
    assert run.limiter.num_sampled == 10 * 16 * 5
    assert recorder.updates == 15


def task_error(cause: Exception) -> RayTaskError:
    """What `ray.get` raises for a call that raised `cause`."""
    error = RayTaskError("run", "\x1b[36mray::RolloutActor.run()\x1b[39m", cause).as_instanceof_cause()
    assert isinstance(error, RayTaskError)
    return error


def test_a_simulator_that_stays_broken_ends_the_run_after_its_last_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = task_error(SimulatorError("nav3d: environment 0 fails each time"))
    run.failed(Task(ROLES["rollout"], 0, 128), broken)
    budgets: list[float] = []
    monkeypatch.setattr(run, "stop", lambda left: budgets.append(round(left())))
    with pytest.raises(RunFailed, match="rollout-0: nav3d: environment 0 fails each time"):
        run.loop(StopFlag())
    assert budgets == [run.config.cluster.stop_budget_seconds]


def test_updates_that_are_not_finite_end_the_run_by_their_own_line(run: Run) -> None:
    with pytest.raises(RunFailed, match=r"^3 updates in a row were not finite$"):
        run.failed(Task(ROLES["learner"], 0, 128), task_error(NonFiniteError("3 updates in a row were not finite")))


def test_a_call_that_lost_another_actor_is_not_blamed(run: Run) -> None:
    """The part that is dead for good is named; one that comes back costs the caller its call."""
    fleet, task = cast(Any, run.fleet), Task(ROLES["rollout"], 1, 128)
    deaths: list[tuple[str, int, str]] = []
    fleet.part_of = lambda error: "replay-0"
    fleet.died = lambda role, index, reason: deaths.append((role.name, index, reason))
    run.limiter.inserted(256)
    error = task_error(RayActorError("00", "\x1b[31mthe actor is dead\x1b[0m"))
    run.failed(task, error)
    assert deaths == [("rollout", 1, "lost replay-0")]
    assert run.limiter.num_inserted == 128

    def check() -> None:
        raise BudgetSpent("replay-0 died 3 times, 2 restarts are allowed")

    run.liveness.check_restarted = check  # type: ignore[method-assign]
    with pytest.raises(BudgetSpent, match="replay-0 died 3 times"):
        run.failed(task, error)


def test_what_a_call_raised_is_told_in_one_line_and_a_broken_contract_as_it_is(run: Run) -> None:
    task = Task(ROLES["rollout"], 1, 128)
    with pytest.raises(RunFailed, match=r"^rollout-1 failed: KeyError: 'state'$"):
        run.failed(task, task_error(KeyError("state")))
    with pytest.raises(ContractError, match="reward") as raised:
        run.failed(task, task_error(ContractError("reward")))
    assert not isinstance(raised.value, RayTaskError)


def test_hung_actors_are_replaced_once_and_their_steps_given_back(run: Run) -> None:
    fleet = cast(Any, run.fleet)
    deaths: list[tuple[str, int, str]] = []

    def died(role: Any, index: int, reason: str) -> None:
        deaths.append((role.name, index, reason))
        fleet.actors[role.name][index] = None

    fleet.died = died
    run.issue()
    assert run.busy == {("rollout", 0), ("rollout", 1)}
    hang = Hang(ROLES["rollout"], 1, "has not answered for 61 s")
    run.liveness.look = lambda busy: [hang, hang]  # type: ignore[method-assign]
    run.look_after()
    assert deaths == [("rollout", 1, "has not answered for 61 s")]
    assert run.busy == {("rollout", 0)}
    assert run.limiter.num_inserted == 256


def test_a_call_that_fails_while_the_run_stops_costs_no_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.issue()

    def take(timeout: float) -> None:
        _, task = run.pending.popitem()
        run.failed(task, task_error(ValueError("nothing to count")))

    saved: list[float] = []
    monkeypatch.setattr("cluster.launch.ask_to_stop", lambda: None)
    monkeypatch.setattr(run, "take", take)
    monkeypatch.setattr(run, "flush", lambda busy: [])
    monkeypatch.setattr(run, "save", lambda seconds: saved.append(seconds) is None)
    monkeypatch.setattr(run, "checkpoints", SimpleNamespace(saved=lambda left_out: Saved("c", 0, tuple(left_out))))
    parts = run.stop(lambda: 30.0).left_out
    assert set(parts) == {f"rollout-{index} failed: ValueError: nothing to count" for index in (0, 1)}
    assert len(saved) == 1
