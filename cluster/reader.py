"""YAML as version 1.2 has it: `1e6` is a number, `yes` and `12:30` are text, tags and repeated keys are refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "merge": (r"<<", ["<"]),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
"""Core schema (YAML 1.2.2, section 10.3.2), and merge keys: tag -> plain text that has it, and the characters which
such text begins with. The first that fits counts."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = [key for key, _ in node.value if not key.tag.endswith(":merge")]
        keys = [self.construct_object(key, deep=True) for key in own]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated[0]!r} is repeated", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


def _refuse_cycles(value: Any, above: tuple[int, ...]) -> None:
    """Raise ValueError where an alias stands inside of what it names; `above` has the ids of what holds the value."""
    if isinstance(value, dict | list):
        if id(value) in above:
            raise ValueError("an alias stands inside of what it names")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_cycles(item, (*above, id(value)))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _name, (_pattern, _first) in _RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def read_yaml(text: str, what: str) -> Any:
    """The value of a YAML document.

    Args:
        text: The document.
        what: What it is, for the message.

    Raises:
        ValueError: It is not valid, or needs more than plain values.
    """
    try:
        value = yaml.load(text, _Loader)
        _refuse_cycles(value, ())
        return value
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error


def dump_yaml(tree: Any) -> str:
    """A document that `read_yaml` gives back; keys stay in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
