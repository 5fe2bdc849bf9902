"""Trees of plain values, as YAML has them, and the configuration dataclasses that they become.

Where a field may hold one of several dataclasses, these share a field of type Literal, such as `method`, whose value
says which one is meant.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from envs.names import nearest
from envs.numbers import dataclass_members, field_types, read_value

T = TypeVar("T")


def build(cls: type[T], tree: Mapping[str, Any], path: str = "") -> T:
    """A configuration dataclass from a tree of plain values.

    Raises:
        ValueError: An unknown key, a wrong type or an invalid value, named by its dotted path.
    """
    hints = field_types(cls)
    values = {}
    for key, value in tree.items():
        where = f"{path}{key}"
        if key not in hints:
            raise ValueError(f"unknown configuration key {where!r}{nearest(str(key), hints)}")
        members, named = dataclass_members(hints[key]), _named_members(hints[key])
        if named and isinstance(value, Mapping):
            values[key] = {name: _build_member(named, name, item, f"{where}.{name}") for name, item in value.items()}
        elif not members or (value is None and type(None) in typing.get_args(hints[key])):
            values[key] = read_value(hints[key], value, where)
        else:
            values[key] = _build_member(members, _default_tag(cls, key, members), value, where)
    try:
        return cls(**values)
    except ValueError as error:
        prefix = path.rstrip(".")
        raise ValueError(
            f"{prefix}: {error}" if prefix and not str(error).startswith(prefix) else str(error)
        ) from error


def _build_member(members: list[type], tag: str | None, tree: Any, where: str) -> Any:
    """One of several dataclasses from its tree; the one of tag `tag` unless the tree says another."""
    if isinstance(tree, tuple(members)):  # built already
        return tree
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where} must be a mapping of {sorted(field_types(members[0]))}, got {tree!r}")
    chosen = _chosen(members, tag, tree, where)
    _refuse_others(chosen, members, tree, where)
    return build(chosen, tree, f"{where}.")


def to_tree(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain values for YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def merge(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Merge `update` into `base` in place; mappings merge key by key, everything else is replaced."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def drop_others(cls: Any, tree: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Remove, in place, keys of `tree` that the members chosen by `asked` or by `tree` lack and their rivals have."""
    for key, hint in field_types(cls).items():
        members, below, wanted = dataclass_members(hint), tree.get(key), asked.get(key, {})
        if not members or not isinstance(below, dict) or not isinstance(wanted, Mapping):
            continue
        tag = tag_field(members)
        try:
            default = _default_tag(cls, key, members)
            chosen = _chosen(members, default, {**below, **{k: v for k, v in wanted.items() if k == tag}}, key)
        except ValueError:
            continue  # `build` says so
        rivals = {name for member in members for name in field_types(member)} - set(field_types(chosen))
        for name in rivals & set(below):
            del below[name]
        drop_others(chosen, below, wanted)


def tag_field(members: Sequence[type]) -> str | None:
    """The field whose value tells the members of a union apart: a Literal in each of them; None of a lone member."""
    if len(members) == 1:
        return None
    literal = [{k for k, hint in field_types(m).items() if typing.get_origin(hint) is typing.Literal} for m in members]
    tags = [name for name in field_types(members[0]) if all(name in names for names in literal)]
    assert tags, f"{members} share no Literal field"
    return tags[0]


def _named_members(hint: Any) -> list[type]:
    """The dataclasses that a field may hold by names of the user's choice: `dict[str, A | B]`."""
    return dataclass_members(typing.get_args(hint)[1]) if typing.get_origin(hint) is dict else []


def _default_tag(cls: Any, key: str, members: list[type]) -> str | None:
    """The tag of a field's default, None of a lone member."""
    tag = tag_field(members)
    if tag is None:
        return None
    [default] = [f.default_factory for f in dataclasses.fields(cls) if f.name == key]
    return str(getattr(default(), tag))  # type: ignore[operator]


def _chosen(members: list[type], default: str | None, tree: Mapping[str, Any], where: str) -> type:
    """The dataclass that a tree is meant for, by its tag or else by the default.

    Raises:
        ValueError: There is no tag, or it is none of theirs.
    """
    tag = tag_field(members)
    if tag is None:
        return members[0]
    names = {name: member for member in members for name in typing.get_args(field_types(member)[tag])}
    name = str(tree.get(tag, default))
    if name not in names and tag not in tree:
        raise ValueError(f"{where}.{tag} is missing; it is one of {', '.join(names)}")
    if name not in names:
        raise ValueError(f"{where}.{tag} must be one of {', '.join(names)}, got {name!r}{nearest(name, names)}")
    return names[name]


def _refuse_others(chosen: type, members: list[type], tree: Mapping[str, Any], where: str) -> None:
    """Refuse keys that other members of a union have and the chosen one has not."""
    tag = tag_field(members)
    for name in tree:
        owners = [member for member in members if name in field_types(member)]
        if owners and chosen not in owners and tag is not None:
            tags = [str(value) for owner in owners for value in typing.get_args(field_types(owner)[tag])]
            mine = " or ".join(map(str, typing.get_args(field_types(chosen)[tag])))
            raise ValueError(f"{where}.{name} is a key of {tag} {', '.join(tags)}; {where}.{tag} is {mine}")
