import msgpack
import numpy as np
import pytest

from actors.replay.wire import Scratch, WireError, decode_blocks, encode_blocks, seal
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
    with pytest.raises(WireError, match="message format 9 is not 3"):
        decode_blocks(seal(msgpack.packb(fields | {"format": 9})), payload)
    with pytest.raises(WireError, match="schema hash"):
        decode_blocks(seal(msgpack.packb(fields | {"schema_hash": 1})), payload)


def test_scratch_memory_is_used_again() -> None:
    scratch = Scratch()
    blocks = counter_blocks(3, 2)
    large = encode_blocks(blocks, scratch)[1]
    header, small = encode_blocks(blocks[1:], scratch)
    assert np.shares_memory(large, small)
    plain_header, plain = encode_blocks(blocks[1:])
    assert plain_header == header
    np.testing.assert_array_equal(plain, small)
    assert not np.shares_memory(plain, small)


def test_blocks_of_two_schemas_do_not_share_a_message() -> None:
    one, two = counter_blocks(3, 2)
    two.data["reward"] = two.data["reward"].astype(np.float64)
    with pytest.raises(ValueError, match="'reward' is <f8"):
        encode_blocks([one, two])
    with pytest.raises(ValueError, match="at least one block"):
        encode_blocks([])
