"""What a search leaves with the step whose action it chose: the record that crosses from acting to learning.

Letters: N actions searched at the root, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping

from envs.specs import ArraySpec

SEARCH_POLICY = "search_policy"
"""Improved policy [N] over the actions searched; all 0 of a step without a search."""
SEARCH_VALUE = "search_value"
"""Value of the root, a scalar; 0 without a search."""
SEARCH_ACTIONS = "search_actions"
"""The actions searched, where not all ids were: ids [N], -1 for none, or samples of a box [N, A] as models see them."""
FRESH_VERSION = "fresh_version"
"""Version of the weights that the fresh targets of a step are of; 0 while it has none."""


def fresh(key: str) -> str:
    """The key of what a later search found where an acting one stored `key`."""
    return f"fresh_{key}"


def with_fresh(specs: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """The specs with room for fresh targets of each, and for their version."""
    return {**specs, **{fresh(key): spec for key, spec in specs.items()}, FRESH_VERSION: ArraySpec((), "int32")}


def search_specs(action: ArraySpec, drawn: int | None) -> dict[str, ArraySpec]:
    """Specs of what is stored.

    Args:
        action: Spec of the action.
        drawn: N where actions are drawn, None where all ids are searched in order.
    """
    searched = drawn or action.num_values
    assert searched is not None
    specs = {SEARCH_POLICY: ArraySpec((searched,), "float32"), SEARCH_VALUE: ArraySpec((), "float32")}
    if drawn is not None:
        ids = action.is_discrete
        specs[SEARCH_ACTIONS] = ArraySpec((drawn,), "int64") if ids else ArraySpec((drawn, action.size), "float32")
    return specs
