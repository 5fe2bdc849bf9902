"""Fields of configurations: what one may hold is said by its type, and checked in this one place.

A number is never NaN, infinite, a truth value or text. Where an integer is wanted, a float that is one will do: YAML
reads 1e6 as a float.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, StrictBool, TypeAdapter, ValidationError

from envs.names import nearest

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class OneOf:
    """Annotates a field with the dataclasses it may hold where a table has them: `Annotated[Base, OneOf(types)]`."""

    members: Callable[[], Iterable[type]]  # asked whenever a configuration is read


_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "value_error": "must be {error}",
    "string_type": "must be text",
}
"""What is said of pydantic's errors; of the others, what pydantic says."""


def read_value(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint`, for the field `name`.

    Raises:
        ValueError: It is none; the line has the name, the rule and the value.
    """
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        first = _deepest(error)
        where = name + "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        rule = _RULES.get(first["type"], f"is wrong ({first['msg'].lower()})").format(**first.get("ctx", {}))
        near = nearest(str(first["input"]), re.findall(r"'([^']*)'", rule)) if first["type"] == "literal_error" else ""
        raise ValueError(f"{where} {rule}, got {first['input']!r}{near}") from None


def check_fields(config: object) -> None:
    """Refuse a configuration dataclass with a field that is not what its type says; for `__post_init__`.

    Fields take the type that is asked for: 1e6 becomes an integer, a list a tuple.

    Raises:
        ValueError: Naming the field, the rule and the value.
    """
    for name, hint in field_types(type(config)).items():
        if not dataclass_members(hint):
            object.__setattr__(config, name, read_value(hint, getattr(config, name), name))


def field_types(cls: type) -> Mapping[str, Any]:
    """Types of the fields of a dataclass, with the bounds of their numbers."""
    return _field_types(cls)


@cache
def _field_types(cls: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def dataclass_members(hint: Any) -> list[type]:
    """The dataclasses among the types a field may have."""
    if typing.get_origin(hint) is Annotated:
        return [member for mark in hint.__metadata__ if isinstance(mark, OneOf) for member in mark.members()]
    members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return [member for member in members if isinstance(member, type) and is_dataclass(member)]


def _deepest(error: ValidationError) -> Any:
    """The error to tell: of the members of a union, that of the one which came furthest."""
    return max(error.errors(include_url=False), key=lambda each: len(each["loc"]))


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(hint))


def _strict(hint: Any) -> Any:
    """The type with its numbers and truth values taken literally."""
    if hint is bool:
        return StrictBool
    if hint in (int, float):
        return Annotated[hint, BeforeValidator(_integer if hint is int else _number)]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if origin in (types.UnionType, typing.Union):
        return typing.Union[tuple(map(_strict, arguments))]  # noqa: UP007
    if origin in (tuple, list, dict):
        return origin[tuple(_strict(argument) for argument in arguments)]
    return hint


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    try:
        if not math.isfinite(value):
            raise ValueError("finite")
    except OverflowError:  # an integer with more digits than a float holds
        raise ValueError("finite") from None
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value % 1:
        raise ValueError("an integer")
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer of 64 bits")
    return int(value)
