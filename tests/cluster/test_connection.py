"""What Ray workers get to find our modules and the user's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cluster import connection
from cluster.supervise import RunFailed


def test_workers_bind_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert connection._runtime_env() == {"worker_process_setup_hook": connection.WORKER_SETUP}
    module, _, name = connection.WORKER_SETUP.partition(".")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("job", [{}, {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"A": "1"}}}])
def test_a_job_keeps_its_runtime_environment(job: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert connection._runtime_env() == {"worker_process_setup_hook": connection.WORKER_SETUP}


def test_a_setup_of_the_jobs_own_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = {"runtime_env": {"worker_process_setup_hook": "mine.setup"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert connection._runtime_env() == {}
    assert connection.WORKER_SETUP in caplog.text


def test_workers_search_what_the_driver_searches_before_the_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rest = sys.path[sys.path.index(str(Path(json.__file__).parents[1])) :]
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/somewhere", *rest])
    assert connection._leading_path() == [str(tmp_path), "/somewhere"]


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    import ray

    children = []

    def init(*arguments: object, **options: object) -> None:
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        raise Exception("\x1b[31mThe current node timed out\x1b[0m during startup.\nTraceback")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunFailed) as failed, connection.connected("run", 1.0):
        pass
    assert str(failed.value) == "Ray did not start: Exception: The current node timed out during startup."
    assert len(children) == 2
    assert all(child.wait(60) < 0 for child in children)  # what it had started is gone


def test_a_cluster_that_cannot_be_joined_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(*arguments: object, **options: object) -> None:
        raise Exception("\x1b[31mno such cluster\x1b[0m\nTraceback")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        ValueError, match=r"^cannot join the Ray cluster at RAY_ADDRESS 10\.0\.0\.1:6379: no such cluster$"
    ):
        connection._join("10.0.0.1:6379", "run")


def test_runs_of_one_name_have_namespaces_of_their_own(tmp_path: Path) -> None:
    a, b = connection.namespace(tmp_path / "a" / "run"), connection.namespace(tmp_path / "b" / "run")
    assert a != b
    assert a.startswith("run-")
    assert a == connection.namespace(tmp_path / "b" / ".." / "a" / "run")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "nobody answers at RAY_ADDRESS 127.0.0.1:1"),
        ("http://127.0.0.1:8265", "ray job submit"),
        ("nonsense", "must be HOST:PORT"),
        ("127.0.0.1:0", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
        ("no.such.host.invalid:6379", "nobody answers"),
    ],
)
def test_an_address_at_which_there_is_no_cluster_is_refused(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=words):
        connection.check()


@pytest.mark.parametrize("address", ["", "local"])
def test_a_run_of_its_own_probes_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert not connection.joins()
    connection.check()
