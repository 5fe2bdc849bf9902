"""What fields of configurations may hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Le

from envs.numbers import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, check_fields, read_value


@dataclass(frozen=True)
class Part:
    width: PositiveInt = 1


@dataclass(frozen=True)
class Config:
    steps: PositiveInt = 3
    share: Fraction = 0.5
    rate: PositiveFloat | None = None
    ends: tuple[NonNegativeFloat, ...] = (1.0, 2.0)
    kind: Literal["cold", "warm"] = "cold"
    quick: bool = False
    port: Annotated[int, Ge(0), Le(65535)] = 0
    part: Part | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, "steps must be an integer, got 1.5"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"steps": "3"}, "steps must be an integer, got '3'"),
        ({"steps": math.nan}, "steps must be an integer, got nan"),
        ({"steps": math.inf}, "steps must be an integer, got inf"),
        ({"steps": None}, "steps must be an integer, got None"),
        ({"share": 1.1}, "share must be at most 1, got 1.1"),
        ({"share": True}, "share must be a number, got True"),
        ({"share": math.nan}, "share must be finite, got nan"),
        ({"rate": 0.0}, "rate must be greater than 0, got 0.0"),
        ({"rate": -math.inf}, "rate must be finite, got -inf"),
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"ends": [1.0, -1]}, r"ends\[1\] must be at least 0, got -1"),
        ({"kind": "warmer"}, r"kind must be 'cold' or 'warm', got 'warmer' \(did you mean 'warm'\?\)"),
        ({"quick": 1}, "quick must be true or false, got 1"),
        ({"port": 1 << 20}, "port must be at most 65535, got 1048576"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(**fields)


def test_what_fits_takes_the_type_of_its_field() -> None:
    config = Config(steps=1e6, share=1, ends=[1, 2], rate=None, part=Part(2))  # type: ignore[arg-type]
    assert config == Config(1_000_000, 1.0, None, (1.0, 2.0), part=Part(2))
    assert [type(value) for value in (config.steps, config.share, config.ends)] == [int, float, tuple]


def test_values_of_trees_are_read_by_their_types() -> None:
    assert read_value(dict[str, Any], {"a": 1}, "options") == {"a": 1}
    assert read_value(PositiveInt | None, None, "x") is None
    with pytest.raises(ValueError, match=r"a.b must be text, got 3"):
        read_value(str, 3, "a.b")
