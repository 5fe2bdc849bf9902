"""A Ray cluster for the tests of a module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs without a dashboard. Its folder has a short name, because the paths of Ray's sockets are limited."""
    ray = pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="wf", dir="/tmp", ignore_cleanup_errors=True) as directory:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=directory,
            object_store_memory=200 << 20,
            log_to_driver=False,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
        yield
        ray.shutdown()
