"""Damaged and hostile messages: refused with a WireError, whatever they claim."""

from __future__ import annotations

import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.replay.wire.blocks import WireError, decode_blocks, encode_blocks, seal
from tests.fakes import counter_blocks

PLAIN, RANKED = counter_blocks(7, 2, 64)
HEADER, PAYLOAD = encode_blocks([PLAIN, replace(RANKED, priority=np.arange(64, dtype=np.float32))])
FIELDS: dict[str, Any] = msgpack.unpackb(HEADER[:-4])
EMPTY = np.zeros(0, np.uint8)


def with_fields(**changes: Any) -> bytes:
    """The header with other fields and a checksum that fits."""
    return seal(msgpack.packb(FIELDS | changes))


def test_the_message_itself_is_fine() -> None:
    plain, ranked = decode_blocks(HEADER, PAYLOAD)
    assert [plain.num_steps, ranked.num_steps] == [64, 64]
    assert plain.priority is None
    np.testing.assert_array_equal(ranked.priority, np.arange(64))


@pytest.mark.parametrize("part", ["header", "payload"])
def test_every_flipped_bit_is_refused(part: str) -> None:
    rng = np.random.default_rng(0)
    original = np.frombuffer(HEADER, np.uint8) if part == "header" else PAYLOAD
    bits = range(8 * original.size) if part == "header" else rng.integers(0, 8 * original.size, 400).tolist()
    for bit in bits:
        damaged = original.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            decode_blocks(*((damaged.tobytes(), PAYLOAD) if part == "header" else (HEADER, damaged)))


def test_every_truncation_and_extension_is_refused() -> None:
    for end in range(len(HEADER)):
        with pytest.raises(WireError):
            decode_blocks(HEADER[:end], PAYLOAD)
    for end in (0, 1, 7, 8, PAYLOAD.size // 2, PAYLOAD.size - 1):
        with pytest.raises(WireError):
            decode_blocks(HEADER, PAYLOAD[:end])
    with pytest.raises(WireError):
        decode_blocks(HEADER + b"\0", PAYLOAD)
    with pytest.raises(WireError):
        decode_blocks(HEADER, np.concatenate([PAYLOAD, PAYLOAD[:8]]))


def test_bursts_of_damage_are_refused() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        header, payload = np.frombuffer(HEADER, np.uint8).copy(), PAYLOAD.copy()
        target = header if rng.random() < 0.7 else payload
        begin = rng.integers(0, target.size)
        burst = rng.integers(0, 256, rng.integers(1, 64), dtype=np.uint8)
        before = target.copy()
        target[begin : begin + burst.size] = burst[: target.size - begin]
        if (before == target).all():
            continue
        with pytest.raises(WireError):
            decode_blocks(header.tobytes(), payload)


def refused(payload: NDArray[np.uint8]) -> bool:
    """Whether a payload is refused for its checksum."""
    try:
        decode_blocks(HEADER, payload)
    except WireError as error:
        return "checksum" in str(error)
    return False


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 8 * PAYLOAD.size - 1), min_size=2, max_size=5, unique=True))
def test_a_few_flipped_bits_are_refused(bits: list[int]) -> None:
    damaged = PAYLOAD.copy()
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    assert refused(damaged)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 8, 64, 512, 4096]), st.data())
def test_pieces_that_change_places_are_refused(piece: int, data: st.DataObject) -> None:
    pieces = PAYLOAD[: PAYLOAD.size // piece * piece].reshape(-1, piece)
    one, two = (data.draw(st.integers(0, len(pieces) - 1)) for _ in range(2))
    damaged = PAYLOAD.copy()
    view = damaged[: pieces.size].reshape(-1, piece)
    view[[one, two]] = view[[two, one]]
    assert refused(damaged) == (pieces[one] != pieces[two]).any()


def test_rows_of_equal_sums_that_change_places_are_refused() -> None:
    """Something that moves over a plain ground: frames differ, and no sum of their words tells."""
    blocks = counter_blocks(7, 1, 64)
    frames = np.zeros((64, 64, 64), np.uint8)
    for step in range(64):
        frames[step, 10:18, 8 * (step % 8) : 8 * (step % 8) + 8] = 255
    header, payload = encode_blocks([replace(blocks[0], data=blocks[0].data | {"image": frames})])
    damaged = payload.copy()
    stored = decode_blocks(header, damaged)[0].data["image"]
    stored[[3, 20]] = stored[[20, 3]]
    with pytest.raises(WireError, match="checksum"):
        decode_blocks(header, damaged)


def test_the_checksum_is_that_of_zlib() -> None:
    assert FIELDS["checksum"] == zlib.crc32(PAYLOAD)
    assert int.from_bytes(HEADER[-4:], "big") == zlib.crc32(HEADER[:-4])


@pytest.mark.parametrize(
    "array",
    [PAYLOAD.astype(np.uint16), PAYLOAD[::2], PAYLOAD.reshape(2, -1), PAYLOAD.view(np.int8)],
    ids=["uint16", "strided", "matrix", "int8"],
)
def test_payloads_of_another_kind_are_refused(array: Any) -> None:
    with pytest.raises(WireError):
        decode_blocks(HEADER, array)


HUGE = 1 << 62
REWARD = ["reward", "<f4", []]
OTHERS = [column for column in FIELDS["schema"] if column[0] != "reward"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": None},
        {"schema": []},
        {"schema": {"reward": 1}},
        {"schema": FIELDS["schema"] * 2},
        {"schema": OTHERS},
        {"schema": [*OTHERS, ["reward", "<f4", [0]]]},
        {"schema": [*OTHERS, REWARD, ["x", "O", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "|O8", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<U4", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4,<f4", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "|V8", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f3", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<M8", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", [-1]]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", [HUGE, HUGE]]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", [1.5]]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", [True]]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", [1] * 40]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4", "11"]]},
        {"schema": [*OTHERS, REWARD, [3, "<f4", []]]},
        {"schema": [*OTHERS, REWARD, ["x", "<f4"]]},
        {"blocks": []},
        {"blocks": 3},
        {"blocks": [[7, 0, 0, 0, False], [7, 0, 0, 128, True]]},
        {"blocks": [[7, 0, 0, -64, False], [7, 64, 0, 192, True]]},
        {"blocks": [[7, 0, 0, HUGE, False]]},
        {"blocks": [[7, 0, 0, HUGE, True]]},
        {"blocks": [[7, 0, 0, 64.0, False], [7, 64, 0, 64, True]]},
        {"blocks": [[-1, 0, 0, 64, False], [7, 64, 0, 64, True]]},
        {"blocks": [[7, -5, 0, 64, False], [7, 64, 0, 64, True]]},
        {"blocks": [[7, HUGE * 2, 0, 64, False], [7, 64, 0, 64, True]]},
        {"blocks": [[True, 0, 0, 64, False], [7, 64, 0, 64, True]]},
        {"blocks": [[7, 0, 0, 64, False], [7, 64, 0, 64, False]]},
        {"blocks": [[7, 0, 0, 64, True], [7, 64, 0, 64, True]]},
        {"blocks": [[7, 0, 0, 64, 0], [7, 64, 0, 64, 1]]},
        {"blocks": [[7, 0, 0, 64], [7, 64, 0, 64]]},
        {"blocks": [7, 0, 0, 64]},
        {"num_bytes": HUGE},
        {"num_bytes": "1"},
        {"num_bytes": -1},
        {"checksum": None},
        {"checksum": "x"},
        {"schema_hash": []},
        {"format": "2"},
        {"format": None},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_well_sealed_lie_is_refused_and_allocates_nothing(changes: dict[str, Any]) -> None:
    fitting = {"schema_hash": _hash(changes["schema"])} if "schema" in changes else {}
    header = with_fields(**fitting, **changes)
    tracemalloc.start()
    try:
        for payload in (PAYLOAD, EMPTY):
            with pytest.raises(WireError):
                decode_blocks(header, payload)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def _hash(columns: Any) -> int:
    return zlib.crc32(repr(columns).encode())


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(sorted(FIELDS)), value=plain)
def test_any_value_in_any_field_is_refused(field: str, value: Any) -> None:
    if value == FIELDS[field] and type(value) is type(FIELDS[field]):
        return
    with pytest.raises(WireError):
        decode_blocks(with_fields(**{field: value}), PAYLOAD)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_with_a_fitting_checksum_are_refused(packed: bytes) -> None:
    for header in (packed, seal(packed)):
        with pytest.raises(WireError):
            decode_blocks(header, PAYLOAD)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_any_msgpack_with_a_fitting_checksum_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        decode_blocks(seal(msgpack.packb(value)), PAYLOAD)


@pytest.mark.parametrize(
    "packed", [b"\x91" * 100_000, b"\x81" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_deep_and_huge_msgpack_is_refused(packed: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode_blocks(seal(packed), PAYLOAD)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
