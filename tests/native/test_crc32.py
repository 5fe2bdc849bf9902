"""native.crc32 against zlib's, and what it refuses."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import crc32


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1500), st.integers(0, 2**32 - 1), st.integers(0, 1500))
def test_equals_zlib(data: bytes, crc: int, cut: int) -> None:
    assert crc32(data, crc) == zlib.crc32(data, crc)
    assert crc32(data[cut:], crc32(data[:cut])) == zlib.crc32(data)


def test_large_and_shifted_buffers() -> None:
    data = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8)
    for low, high in ((0, 300_000), (1, 300_000), (7, 65_536), (100, 299_991)):
        assert crc32(data[low:high]) == zlib.crc32(data[low:high])


@pytest.mark.parametrize("buffer", [bytearray(b"abcd"), memoryview(b"abcd"), np.frombuffer(b"abcd", "<i2")])
def test_any_contiguous_buffer(buffer: Any) -> None:
    assert crc32(buffer) == zlib.crc32(b"abcd")


def test_other_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        crc32("abcd")  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError)):
        crc32(np.arange(10)[::2])
    with pytest.raises(TypeError):
        crc32(b"abcd", -1)
