"""Searches as records: JSON and back, and as a graph."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from planners.tree_record import TreeRecord, dumps, loads


def record() -> TreeRecord:
    """A root with actions 1 (twice visited, then action 0) and 0; node 4 was never used."""
    return TreeRecord(
        parent=np.array([-1, 0, 1, 0, -1], np.int32),
        action=np.array([-1, 1, 0, 0, -1], np.int32),
        visits=np.array([4, 2, 1, 1, 0], np.int32),
        value=np.array([0.5, 0.25, 0.125, -1.0, 0.0], np.float32),
        prior=np.array([0.0, 0.75, 0.5, 0.25, 0.0], np.float32),
        reward=np.array([0.0, 1.0, 0.0, 0.0, 0.0], np.float32),
        discount=np.array([1.0, 0.5, 0.5, -1.0, 0.0], np.float32),
        raw_value=np.array([0.0, 0.5, 0.125, -1.0, 0.0], np.float32),
        best=1,
    )


def test_a_tree_survives_json() -> None:
    again = loads(dumps(record()))
    for name in record().to_json():
        np.testing.assert_array_equal(getattr(again, name), getattr(record(), name))
    assert again.parent.dtype == np.int32
    assert again.value.dtype == np.float32


def test_what_a_tree_says() -> None:
    tree = record()
    assert tree.children(0) == [1, 3]
    assert tree.path() == [0, 1, 2]
    assert tree.q.tolist() == [0.5, 1.125, 0.0625, 1.0, 0.0]


def test_a_graph_has_the_visited_nodes_and_the_line_in_bold() -> None:
    text = record().graphviz('first "move"')
    assert text.startswith('digraph "first \\"move\\"" {')
    assert '1 [label="N 2\\nQ 1.125\\nP 0.750\\nV 0.500", penwidth=3];' in text
    assert '0 -> 3 [label="0"];' in text
    assert len(re.findall(r"^  \d+ \[", text, re.M)) == 4
    assert text.count("penwidth") == 5  # nodes 0, 1, 2 and the two steps between them
    smaller = record().graphviz(max_nodes=2)
    assert len(re.findall(r"^  \d+ \[", smaller, re.M)) == 2
    assert "0 -> 1" in smaller


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"visits": [1]}, r"visits of a tree must have shape \[5\], not \[1\]"),
        ({"parent": [-1, 0, 3, 0, -1]}, "parents of a tree must precede their children"),
        ({"prior": None}, "a tree needs prior"),
    ],
)
def test_refuses_what_is_no_tree(change: dict[str, object], rule: str) -> None:
    content = {key: value for key, value in (record().to_json() | change).items() if value is not None}
    with pytest.raises(ValueError, match=rule):
        TreeRecord.from_json(content)
    with pytest.raises(ValueError, match="a tree must be a JSON object, not list"):
        loads(json.dumps([1]))
