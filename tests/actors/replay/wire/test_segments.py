import numpy as np
import pytest

from actors.replay.wire.segments import SEGMENT_BYTES, SplitBatch, join, split
from tests.learner.test_prefetch import numbered


@pytest.mark.parametrize("shape", [(5,), (3 * SEGMENT_BYTES + 7,), (40, 300, 300), (2, 2 * SEGMENT_BYTES), (0, 4)])
def test_pieces_are_small_views_and_join_to_the_whole(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pieces = split(array)
    largest = max(SEGMENT_BYTES, array[:1].nbytes)
    assert all(0 < piece.nbytes <= largest and np.shares_memory(piece, array) for piece in pieces)
    assert len(pieces) <= 2 * array.nbytes // SEGMENT_BYTES + 1
    out = np.empty_like(array)
    join(pieces, out)
    np.testing.assert_array_equal(out, array)


def test_pieces_of_another_array_are_refused() -> None:
    with pytest.raises(ValueError, match="pieces have 3 rows, expected are 4"):
        join([np.zeros(2), np.zeros(1)], np.zeros(4))
    with pytest.raises(ValueError, match="broadcast"):
        join([np.zeros((4, 2))], np.zeros((4, 3)))


def test_a_split_batch_is_copied_whole() -> None:
    batch, target = numbered(7, 3, 5), numbered(0, 3, 5)
    SplitBatch.of(batch).copy_to(target)
    for key, value in batch.data.items():
        np.testing.assert_array_equal(target.data[key], value)
    assert target.handle.tolist() == [[7] * 3] * 3
    assert target.weight.tolist() == [7.0] * 3
