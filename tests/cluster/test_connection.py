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


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_ray_that_does_not_start_is_one_line(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("PYTHONPATH", "")
    import ray

    children = []

    def init(*arguments: object, **options: object) -> None:
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        raise Exception("\x1b[31mThe current node timed out\x1b[0m during startup.\nTraceback")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    where = "a cluster of this run's own" if address is None else f"RAY_ADDRESS={address}"
    with pytest.raises(RunFailed) as failed, connection.connected("run", 1.0):
        pass
    assert str(failed.value) == f"Ray did not start, {where}: Exception: The current node timed out during startup."
    assert children[0].wait(60) < 0  # what it had started is gone
