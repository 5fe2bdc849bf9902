import numpy as np

from planners.noise import RandomCarry, RowGenerator


def test_a_rows_numbers_follow_from_its_seed_and_how_many_it_has_drawn() -> None:
    seeds = np.array([3, 2**64 - 1, 0], np.uint64)
    at_once, end = RowGenerator(6).bits(RandomCarry(seeds))
    two = RowGenerator(2)
    carry, parts = RandomCarry(seeds), []
    for _ in range(3):
        part, carry = two.bits(carry)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), at_once)
    np.testing.assert_array_equal(carry.state, end.state)
    np.testing.assert_array_equal(RowGenerator(6).bits(RandomCarry(seeds[1:2]))[0], at_once[1:2])


def test_the_bits_are_those_of_the_published_generator() -> None:
    """The first numbers of SplitMix64 from seed 1234567, as in the test of Vigna's splitmix64.c."""
    bits, _ = RowGenerator(3).bits(RandomCarry(np.array([1234567], np.uint64)))
    assert bits[0].tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_no_numbers_are_fine_too() -> None:
    uniform, carry = RowGenerator(0).uniform(RandomCarry(np.array([5], np.uint64)))
    assert uniform.shape == (1, 0)
    assert carry.state.tolist() == [5]
