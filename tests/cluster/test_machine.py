"""What a machine cannot hold is refused before anything is started."""

from __future__ import annotations

import pytest

from cluster.config import resolve
from cluster.machine import batch_bytes, check


def test_a_batch_counts_with_what_leads_up_to_it() -> None:
    config = resolve("pets", "nav3d_image", "debug", overrides=["learner.batch_size=4", "learner.sequence_length=9"])
    image = 64 * 64 * 3
    assert batch_bytes(config) // (4 * config.replayed_length) - image in range(1, 100)  # and the action


@pytest.mark.parametrize("batch_size", ["1e9", str(2**62)])
def test_a_batch_larger_than_the_memory_is_refused(batch_size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("pets", "nav3d", "debug", overrides=[f"learner.batch_size={batch_size}"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=rf"learner.batch_size {int(float(batch_size))} .* GiB, this machine has"):
        check(config)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check(config)  # the cluster that it joins may hold it
