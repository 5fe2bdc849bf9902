"""What a search leaves with the step whose action it chose: the record that crosses from acting to learning.

Letters: N actions searched at the root, A action size.
"""

from __future__ import annotations

from envs.specs import ArraySpec

SEARCH_POLICY = "search_policy"
"""Improved policy [N] over the actions searched; all 0 of a step without a search."""
SEARCH_VALUE = "search_value"
"""Value of the root, a scalar; 0 without a search."""
SEARCH_ACTIONS = "search_actions"
"""The actions searched [N, A], as models see them; only where they are samples and not all ids in order."""


def search_specs(num_actions: int, sampled: int = 0) -> dict[str, ArraySpec]:
    """Specs of what is stored.

    Args:
        num_actions: N.
        sampled: A where the actions are samples, 0 where they are all ids in order.
    """
    specs = {SEARCH_POLICY: ArraySpec((num_actions,), "float32"), SEARCH_VALUE: ArraySpec((), "float32")}
    return specs | ({SEARCH_ACTIONS: ArraySpec((num_actions, sampled), "float32")} if sampled else {})
