"""Who is given what work, on books of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.reanalyze import Pace
from actors.service import ReanalyzeSummary
from cluster import leases
from cluster.config import resolve
from cluster.leases import Task
from cluster.roles import ROLES
from cluster.stages import Collect, Interleave


class Books:
    """What the functions of `cluster.leases` use of `cluster.launch.Run`, and notes of what they do."""

    def __init__(self, rollouts: int = 2, learners: int = 2) -> None:
        call = SimpleNamespace(remote=lambda *arguments: None)
        actor = SimpleNamespace(run=call, train=call, flush=call)
        self.config = resolve("pets", "nav3d", "debug", overrides=[f"roles.learner.count={learners}"])
        self.collect_steps, self.lease_steps, self.ending = 128, 160, False
        self.allowed, self.notes, self.sent = 10, list[Any](), list[Task]()
        actors = {"rollout": [actor] * rollouts, "learner": [actor] * learners, "evaluator": [None]}
        actors["reanalyze"] = [None] * 3
        self.pace = Pace(64.0)
        self.fleet = SimpleNamespace(actors=actors, learner_state="old", actor=lambda name, index: actor)
        self.recorder: Any = SimpleNamespace(
            steps=0,
            updates=40,
            left=10_000,
            stage=Interleave(),
            stages=SimpleNamespace(fitted=lambda updates: 0),
            due=lambda what: True,
            learner=lambda *result: self.notes.append(result),
            reanalyzed=lambda *result: self.notes.append(result),
        )
        self.limiter = SimpleNamespace(
            can_insert=lambda steps: self.allowed > 0,
            can_sample=lambda steps: self.allowed > 0,
            inserted=self.take,
            sampled=self.take,
            release=lambda steps: self.notes.append(("release", steps)),
            num_sampled=1000,
            redo=lambda samples: self.notes.append(("redo", samples)),
        )
        self.checkpoints = SimpleNamespace(newest_learner=lambda: {"updates": 30, "samples": 100})
        self.saving = SimpleNamespace(give_up=lambda: self.notes.append("give up"))
        self.run_dir = SimpleNamespace(event=lambda **fields: self.notes.append(fields))

    def take(self, steps: int) -> None:
        self.allowed -= 1

    def tasks(self, role: str) -> list[Task]:
        return [task for task in self.sent if task.role.name == role]

    def send(self, reference: Any, role: str, index: int, steps: int = 0) -> None:
        self.sent.append(Task(ROLES[role], index, steps))

    def filled(self) -> bool:
        return True


@pytest.fixture
def books() -> Any:
    return Books()


def test_each_rollout_actor_holds_two_collects_and_one_that_is_away_none(books: Any) -> None:
    books.fleet.actors["rollout"][0] = None
    leases.issue_collects(books)
    leases.issue_collects(books)
    assert [(task.index, task.steps) for task in books.sent] == [(1, 128)] * 2
    books.fleet.actors["rollout"][0] = books.fleet.actors["rollout"][1]
    books.allowed = 1
    leases.issue_collects(books)
    assert [task.index for task in books.sent] == [1, 1, 0]


def test_collects_end_with_the_schedule(books: Any) -> None:
    books.recorder.left = 130
    leases.issue_collects(books)
    assert [task.steps for task in books.sent] == [128, 128]  # the second is needed for the last two steps


def test_ranks_get_one_lease_together_when_all_are_there(books: Any) -> None:
    books.fleet.actors["learner"][1] = None
    leases.issue_updates(books)
    assert not books.sent
    books.fleet.actors["learner"][1] = books.fleet.actors["learner"][0]
    leases.issue_updates(books)
    leases.issue_updates(books)
    assert [(task.index, task.steps) for task in books.sent] == [(0, 160), (1, 160)]
    assert books.allowed == 9


def test_updates_are_booked_once_and_joining_is_no_update(books: Any) -> None:
    learner = ROLES["learner"]
    leases.book_updates(books, Task(learner, 0), 16)
    leases.book_updates(books, Task(learner, 1, 160), (32, {"loss": 2.0}))
    leases.book_updates(books, Task(learner, 0, 160), (32, {"loss": 1.0}))
    assert books.notes == [(32, {"loss": 1.0})]


def test_a_stop_gives_back_what_a_call_did_not_do(books: Any) -> None:
    books.ending = True
    most = books.config.cluster.updates_per_lease
    leases.book_updates(books, Task(ROLES["learner"], 0, 160), (40 + most // 2, {"loss": 1.0}))
    assert books.notes == [("redo", 1000 - 80), (40 + most // 2, {"loss": 1.0})]
    summary: Any = SimpleNamespace(steps=0, env_seconds=0.0, policy_seconds=0.0, push_seconds=0.0)
    leases.book_collect(books, Task(ROLES["rollout"], 0, 128), summary)
    assert books.notes[2:] == [("release", 128)]


def test_updates_that_were_skipped_are_not_given_back_at_a_stop(books: Any) -> None:
    books.ending = True
    most = books.config.cluster.updates_per_lease
    made = most // 2
    metrics = {"loss": (1.0, made), "nonfinite": (float(most - made), most)}
    leases.book_updates(books, Task(ROLES["learner"], 0, 160), (40 + made, metrics))
    assert books.notes[0] == ("redo", 1000)


def test_what_died_with_its_actor_is_given_back(books: Any) -> None:
    rollout = ROLES["rollout"]
    leases.lose_collects(books, [Task(rollout, 0, 128), Task(rollout, 0, 128)])
    leases.lose_updates(books, [Task(ROLES["learner"], 1, 160)])
    assert books.notes[:3] == [("release", 256), "give up", ("redo", 200)]
    assert books.notes[3] == (30, {})
    assert books.notes[4] == {"event": "restarted", "part": "learner", "updates": 30, "lost": 10, "step": 0}
    assert books.fleet.learner_state == {"updates": 30, "samples": 100}


def test_one_evaluation_at_a_time(books: Any) -> None:
    leases.issue_evaluation(books)
    leases.issue_evaluation(books)
    assert [task.role.name for task in books.sent] == ["evaluator"]


def test_idle_reanalyzers_get_batches_as_far_as_the_pace_allows(books: Any) -> None:
    books.recorder.updates = 11  # 704 steps: two calls of four batches of 64
    leases.issue_reanalysis(books)
    leases.issue_reanalysis(books)
    assert [(task.index, task.steps) for task in books.sent] == [(0, 256), (1, 256)]
    leases.lose_reanalysis(books, [books.sent.pop()])
    leases.issue_reanalysis(books)
    assert [task.index for task in books.sent] == [0, 1]
    leases.book_reanalysis(books, books.sent.pop(0), ReanalyzeSummary(256, 8, {"age": 2.0}))
    assert books.notes == [(256, {"age": 2.0, "lag": 3})]
    assert books.pace.searched == 512
    leases.book_reanalysis(books, books.sent.pop(0), ReanalyzeSummary(0, 0, {}))  # it had no weights
    assert (len(books.notes), books.pace.searched) == (1, 256)


def test_nothing_is_reanalysed_while_nothing_is_trained(books: Any) -> None:
    books.recorder.stage = Collect(100)
    leases.issue_reanalysis(books)
    books.recorder.stage = Interleave()
    books.recorder.updates = 0
    leases.issue_reanalysis(books)
    assert not books.sent
