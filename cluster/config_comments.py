"""What the keys of a configuration mean, beside them: told by the classes that they are read into."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping
from functools import cache
from typing import Any

_WIDTH = 110
_KEY = re.compile(r"^( *)([A-Za-z_]\w*):")
_ARGUMENT = re.compile(r"^(\w+): (.*)$")


def with_comments(text: str, config: Any) -> str:
    """The text of `to_yaml(config)` with a comment above every key that has one.

    Args:
        text: YAML in block style, two columns a level.
        config: The dataclasses that it was made of.
    """
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        found = _KEY.match(line)
        if found is not None:
            indent, name = found.groups()
            path = [*path[: len(indent) // 2], name]
            lines += textwrap.wrap(_meaning(config, path), _WIDTH - len(indent), initial_indent=f"{indent}# ",
                                   subsequent_indent=f"{indent}# ", break_long_words=False)  # fmt: skip
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _meaning(config: Any, path: list[str]) -> str:
    """What a key means, empty if nobody says it."""
    owner = config
    for name in path[:-1]:
        owner = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
    cls: type = type(owner)
    return meanings(cls).get(path[-1], "") if dataclasses.is_dataclass(cls) else ""


@cache
def meanings(cls: type) -> dict[str, str]:
    """What the fields of a dataclass mean: by comments behind them, or else by the Args of its docstring."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _of_docstring(base) | _of_comments(base)
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if found.get(field.name)}


def _of_docstring(cls: type) -> dict[str, str]:
    """Google style: `Args:`, then `name: text` with longer texts further in."""
    found: dict[str, str] = {}
    _, _, arguments = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")
    name = ""
    for line in arguments.splitlines():
        if not line.startswith("    "):
            break
        start = _ARGUMENT.match(line[4:])
        if start is not None:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += f" {line.strip()}"
    return found


def _of_comments(cls: type) -> dict[str, str]:
    """`name: type = value  # text`, gone on with by comments in the lines below."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # a class without a file
        return {}
    fields = set(cls.__annotations__)
    found: dict[str, str] = {}
    name, line, statement = "", 0, True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and statement and token.string in fields and token.start[1] == 4:
            name = token.string
        elif token.type == tokenize.COMMENT and name:
            text = token.string.lstrip("# ")
            alone = token.line.lstrip().startswith("#")
            if not alone:
                found[name], line = text, token.start[0]
            elif line and token.start[0] == line + 1:
                found[name], line = f"{found[name]} {text}", token.start[0]
        if token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            statement = True
        elif token.type != tokenize.COMMENT:
            statement = False
            if token.type == tokenize.NAME and token.string == "def" and token.start[1] == 4:
                break
    return found
