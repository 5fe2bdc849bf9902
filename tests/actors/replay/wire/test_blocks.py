"""Encoding blocks into messages and back."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import numpy as np
import pytest

from actors.replay.wire.blocks import Scratch, WireError, decode_blocks, encode_blocks, encode_pieces, seal
from tests.fakes import counter_blocks


def test_blocks_survive_the_wire() -> None:
    blocks = [*counter_blocks(3, 2), *counter_blocks((1 << 63) - 1, 1, 70)]
    header, payload = encode_blocks(blocks)
    assert payload.dtype == np.uint8
    for before, after in zip(blocks, decode_blocks(header, payload), strict=True):
        assert (after.stream_id, after.first_step, after.policy_version) == (
            before.stream_id,
            before.first_step,
            before.policy_version,
        )
        assert after.data.keys() == before.data.keys()
        for key, value in before.data.items():
            assert after.data[key].dtype == value.dtype
            np.testing.assert_array_equal(after.data[key], value)
            assert np.shares_memory(after.data[key], payload)


def test_read_only_payloads_are_fine() -> None:
    header, payload = encode_blocks(counter_blocks(3, 1))
    assert not payload.flags.writeable
    assert decode_blocks(header, payload)[0].num_steps == 64


def test_a_flipped_bit_is_noticed() -> None:
    header, payload = encode_blocks(counter_blocks(3, 1))
    payload = payload.copy()
    payload[100] ^= 1
    with pytest.raises(WireError, match=r"payload checksum 0x.* differs"):
        decode_blocks(header, payload)


def test_truncated_payload_is_noticed() -> None:
    header, payload = encode_blocks(counter_blocks(3, 1))
    with pytest.raises(WireError, match=f"payload has {len(payload) - 8} bytes, its header describes {len(payload)}"):
        decode_blocks(header, payload[:-8])


def test_broken_headers_are_named() -> None:
    header, payload = encode_blocks(counter_blocks(3, 1))
    with pytest.raises(WireError, match="is damaged: its checksum is wrong"):
        decode_blocks(header[:-3], payload)
    with pytest.raises(WireError, match="is not msgpack"):
        decode_blocks(seal(header[:-7]), payload)
    with pytest.raises(WireError, match="header lacks fields"):
        decode_blocks(seal(msgpack.packb({"format": 1})), payload)
    fields = msgpack.unpackb(header[:-4])
    with pytest.raises(WireError, match="message format 9 is not 4"):
        decode_blocks(seal(msgpack.packb(fields | {"format": 9})), payload)
    with pytest.raises(WireError, match="schema hash"):
        decode_blocks(seal(msgpack.packb(fields | {"schema_hash": 1})), payload)


def test_scratch_memory_is_used_again() -> None:
    scratch = Scratch()
    assert np.shares_memory(scratch.take(100), scratch.take(60))
    assert len(scratch.take(200)) == 200


@pytest.mark.parametrize("pixels", [1, 999, 1024, 1500])
def test_pieces_are_the_payload_and_large_arrays_are_not_copied(pixels: int) -> None:
    rng = np.random.default_rng(0)
    blocks = [
        replace(block, data=block.data | {"image": rng.integers(0, 256, (64, pixels), np.uint8)})
        for block in counter_blocks(3, 3)
    ]
    header, payload = encode_blocks(blocks)
    piece_header, pieces = encode_pieces(blocks)
    assert piece_header == header
    np.testing.assert_array_equal(np.concatenate(pieces), payload)
    for block in blocks:
        assert any(np.shares_memory(piece, block.data["image"]) for piece in pieces) == (64 * pixels >= 64 << 10)
    for before, after in zip(blocks, decode_blocks(header, payload), strict=True):
        np.testing.assert_array_equal(after.data["image"], before.data["image"])


def test_blocks_of_two_schemas_do_not_share_a_message() -> None:
    one, two = counter_blocks(3, 2)
    two.data["reward"] = two.data["reward"].astype(np.float64)
    with pytest.raises(ValueError, match="'reward' is <f8"):
        encode_blocks([one, two])
    with pytest.raises(ValueError, match="at least one block"):
        encode_blocks([])


def test_priorities_travel_with_the_blocks_that_have_them() -> None:
    plain, ranked, short = *counter_blocks(3, 2), *counter_blocks(4, 1, 70)
    ranked = replace(ranked, priority=np.linspace(0, 1, 64, dtype=np.float32))
    short = replace(short, priority=np.ones(140, np.float32)[::2])
    decoded = decode_blocks(*encode_blocks([plain, ranked, short]))
    assert decoded[0].priority is None
    for before, after in zip((ranked, short), decoded[1:], strict=True):
        np.testing.assert_array_equal(after.priority, before.priority)
        np.testing.assert_array_equal(after.data["count"], before.data["count"])
    for wrong in (np.ones(63, np.float32), np.ones(64), np.ones((64, 1), np.float32)):
        with pytest.raises(ValueError, match=r"block of 64 steps has priorities .* one float32 for each step"):
            encode_blocks([replace(ranked, priority=wrong)])
