"""YAML 1.2: what text becomes, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cluster.reader import dump_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e1", 10.0),
        ("1e6", 1e6),
        ("-2.5E-3", -2.5e-3),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("'1e1'", "1e1"),
        ("{a: [1, 2e0]}", {"a": [1, 2.0]}),
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
    ],
)
def test_plain_text_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    read = read_yaml(text, "text")
    assert read == value
    assert type(read) is type(value)
    assert read_yaml(dump_yaml(read), "text") == value


def test_nan_is_read() -> None:
    assert math.isnan(read_yaml(".nan", "text"))


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "a: 1\na: 2",
        "!!python/object/apply:os.getcwd []",
        "!mine 3",
        "a: *b",
        "a: &a {b: *a}",
        "[" * 5000,
        "a: b: c",
        "1" * 5000,
    ],
)
def test_the_rest_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^my file is not valid YAML: .+$"):
        read_yaml(text, "my file")


def test_text_that_looks_like_a_number_stays_text() -> None:
    tree = {"a": "1e1", "b": "true", "c": "0o17", "d": "null", "e": "", "f": 1e-20, "g": "yes"}
    assert read_yaml(dump_yaml(tree), "text") == tree
