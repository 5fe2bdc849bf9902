"""The page of one episode's searches: step through it, and look into each tree."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from cluster.report.markup import note, page
from planners.tree_record import TreeRecord

MAX_NODES = 400
"""Nodes of a tree on the page, the most visited ones: of 50 simulations all, of thousands what can be read."""


@dataclass(frozen=True)
class SearchedStep:
    """A step of an episode and the search that chose its action."""

    tree: TreeRecord
    action: int | list[float]  # that was executed
    reward: float  # that came with the observation before the search


def tree_page(title: str, steps: Sequence[SearchedStep]) -> str:
    """A whole page that loads nothing.

    Args:
        title: Of the page.
        steps: Of one episode, in order; at least one.
    """
    assert steps
    data = json.dumps([_compact(step) for step in steps], separators=(",", ":"), allow_nan=False)
    script = (resources.files("cluster") / "report" / "tree.js").read_text()
    keys = (
        "Arrow keys step through the episode; a click on a node shows its numbers. N visits, Q reward and discounted "
    )
    keys += "value, P prior, V the model's value. The recommended line is drawn bold; nodes grow with their visits."
    embedded = data.replace("<", "\\u003c")
    body = (
        f"<header><h1>{html.escape(title)}</h1>{note(keys)}</header>"
        '<p><button id="back">&#9664;</button> <input id="step" type="range" min="0" value="0" '
        f'max="{len(steps) - 1}" aria-label="step"> <button id="on">&#9654;</button> <output id="where"></output></p>'
        '<div class="scroll"><svg id="tree" width="100%" height="520" role="img" aria-label="search tree"></svg></div>'
        '<div class="scroll"><table id="node"></table></div><div class="scroll"><table id="root"></table></div>'
        f'<script type="application/json" id="data">{embedded}</script>\n'
        f"<script>\n{script}</script>"
    )
    return page(title, body)


def _compact(step: SearchedStep) -> dict[str, Any]:
    """What the page's script reads of a step: columns of the most visited nodes, parents first."""
    tree = step.tree
    order = np.argsort(-tree.visits, kind="stable")[:MAX_NODES]  # a parent has more visits than its children
    order = order[tree.visits[order] > 0]
    places = np.full(len(tree.parent), -1)
    places[order] = np.arange(len(order))
    parent = np.where(tree.parent[order] >= 0, places[tree.parent[order]], -1)
    return {
        "parent": parent.tolist(),
        "action": tree.action[order].tolist(),
        "N": tree.visits[order].tolist(),
        "Q": _rounded(tree.q[order]),
        "P": _rounded(tree.prior[order]),
        "V": _rounded(tree.raw_value[order]),
        "reward": _rounded(tree.reward[order]),
        "line": [int(places[node]) for node in tree.path() if places[node] >= 0],
        "best": tree.best,
        "taken": step.action,
        "got": round(step.reward, 4),
        "value": round(float(tree.value[0]), 4),
    }


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
