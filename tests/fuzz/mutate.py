"""Ways to spoil bytes, values and words."""

from __future__ import annotations

from random import Random
from typing import Any

EVIL: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 1e300, -0.0, 0.5, float("nan"), float("inf"), "",
    "x", "\x00", "ü", "auto", "../..", "1e6", [], [[]], [None], {}, {"": None}, {"name": 1}, {1: 2},
    [1, "a", {}], b"\xff",
)  # fmt: skip
"""Values that are seldom meant."""

WORDS = (
    "", " ", "~", "null", "true", "nan", ".inf", "-.inf", "0x10", "0o17", "1e400", "1_000", "{", "}", "[", "]",
    "[[[[", "{a: b", "&a [*a]", "*x", "!!python/object:os.system x", "<<: 1", "- - -", "? ?", "'", '"', "a: b: c",
    "\t", "---", "...", "|", ">", "9" * 400, "9" * 5000, "-0", "1.", ".5", "ü", "\ud800", "\x00", "\u2028", "[1, 2",
    "{a: 1, a: 2}", "{? [a] : b}", "!!float x", "!!int 08", "!!timestamp 2020-13-45", "!!binary x", "2020-01-01", "=",
    "%TAG ! x", "@", "`", "#", ":", "12:30:45",
)  # fmt: skip
"""Pieces of YAML, whole and broken."""


def spoil_bytes(rng: Random, content: bytes) -> bytes:
    """The content truncated, flipped, overwritten, repeated or with something in between."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                del data[place:]
            case 1 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                data[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                data[place:place] = data[: rng.randrange(64)]
            case 4:
                del data[place : place + rng.randrange(1, 64)]
            case _:
                data[place:place] = rng.choice(WORDS).encode(errors="replace")[:64]
    return bytes(data)


def spoil_tree(rng: Random, tree: Any) -> Any:
    """The tree with one of its values replaced, removed or under another name; what is not replaced is shared."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        rest = {name: value for name, value in tree.items() if name != key}
        match rng.randrange(8):
            case 0:
                return rest
            case 1:
                return {**rest, rng.choice((f"{key}x", "", 1, None, str(key)[:-1])): tree[key]}
            case _:
                return {**tree, key: spoil_tree(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.7:
        index = rng.randrange(len(tree))
        return [*tree[:index], *([spoil_tree(rng, tree[index])] if rng.random() < 0.7 else []), *tree[index + 1 :]]
    return rng.choice(EVIL)


def paths(tree: Any, above: str = "") -> list[str]:
    """Dotted names of all keys of a tree."""
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found += [f"{above}{key}", *paths(value, f"{above}{key}.")]
    return found
