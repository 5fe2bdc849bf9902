"""The record a learner consumes."""

from __future__ import annotations

import numpy as np

from tests.learner.streams import make_batch, make_stream


def test_rows_are_mapped_in_every_array() -> None:
    batch = make_batch([make_stream(0), make_stream(1)], 5, 4, np.random.default_rng(0))
    index = np.array([4, 0, 0])
    taken = batch.map_rows(lambda values: values[index])
    assert taken.shape == (3, 4)
    assert taken.data.keys() == batch.data.keys()
    for key, values in taken.data.items():
        np.testing.assert_array_equal(values, batch.data[key][index], err_msg=key)
    for name in ("stream_id", "first_step", "policy_version", "weight", "handle"):
        values, before = getattr(taken, name), getattr(batch, name)
        np.testing.assert_array_equal(values, before[index], err_msg=name)
        assert values.dtype == before.dtype
