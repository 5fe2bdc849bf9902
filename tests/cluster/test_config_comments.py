"""Comments beside the keys of a printed configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.config import build_run, resolve, to_yaml
from cluster.config_comments import meanings, with_comments
from cluster.reader import dump_yaml, read_yaml
from cluster.tree import to_tree


@dataclass(frozen=True)
class Below:
    """A section.

    Args:
        size: Rows of
            a table.
        other: Not said here, but behind.
    """

    size: int = 3
    other: int = 4  # said behind,
    # and below
    silent: str = "# no comment"


@dataclass(frozen=True)
class Above:
    """Without Args."""

    below: Below = field(default_factory=Below)  # the section
    free: dict[str, int] = field(default_factory=lambda: {"size": 1})


def test_fields_are_explained_where_they_are_declared() -> None:
    assert meanings(Below) == {"size": "Rows of a table.", "other": "said behind, and below"}


def test_comments_stand_above_their_keys_and_change_nothing() -> None:
    text = dump_yaml(to_tree(Above()))
    commented = with_comments(text, Above())
    assert commented.splitlines() == [
        "# the section",
        "below:",
        "  # Rows of a table.",
        "  size: 3",
        "  # said behind, and below",
        "  other: 4",
        "  silent: '# no comment'",
        "free:",
        "  size: 1",
    ]
    assert read_yaml(commented, "it") == read_yaml(text, "it")


def test_a_printed_configuration_explains_its_keys_and_is_read_back() -> None:
    config = resolve("pets", "nav3d", "debug")
    text = with_comments(to_yaml(config), config)
    assert build_run(read_yaml(text, "it")) == config
    keys = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "-"))]
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert len(comments) > 0.7 * len(keys)
    assert max(map(len, comments)) <= 111
