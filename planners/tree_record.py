"""One search as a record: to be saved as JSON, looked at as a graph, and read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TreeRecord:
    """A tree: node 0 is the root, node s what simulation s expanded; unused nodes have 0 visits.

    Actions are ids, or places among a node's sampled actions.
    """

    parent: NDArray[np.int32]  # [S + 1], -1 for none
    action: NDArray[np.int32]  # [S + 1] that led to the node, -1 for none
    visits: NDArray[np.int32]  # [S + 1]
    value: NDArray[np.float32]  # [S + 1] mean of what was found at and after the node
    prior: NDArray[np.float32]  # [S + 1] of the action that led to it
    reward: NDArray[np.float32]  # [S + 1] of the step to it
    discount: NDArray[np.float32]  # [S + 1] of that step; negative where the other player moves next
    raw_value: NDArray[np.float32]  # [S + 1] the model's value of the node
    best: int  # what the search recommends

    @property
    def q(self) -> NDArray[np.float32]:
        """[S + 1] reward and discounted value of the action that led to each node; of the root its value."""
        return np.where(self.parent < 0, self.value, self.reward + self.discount * self.value).astype(np.float32)

    def children(self, node: int) -> list[int]:
        """The nodes after one, the most visited first."""
        found = np.flatnonzero(self.parent == node)
        return found[np.argsort(-self.visits[found], kind="stable")].tolist()  # type: ignore[no-any-return]

    def path(self) -> list[int]:
        """The recommended line: nodes from the root through the best action, and then the most visited."""
        nodes, following = [0], [node for node in self.children(0) if self.action[node] == self.best]
        while following:
            nodes.append(following[0])
            following = self.children(following[0])
        return nodes

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for json.dumps; `from_json` reads them."""
        return {f.name: np.asarray(getattr(self, f.name)).tolist() for f in fields(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> TreeRecord:
        """The tree of a `to_json`.

        Raises:
            ValueError: A part is missing, has another length than the others, or names a parent that does not precede.
        """
        known = {f.name for f in fields(cls)}
        if missing := sorted(known - record.keys()):
            raise ValueError(f"a tree needs {', '.join(missing)}")
        whole = {"parent", "action", "visits"}
        parts: dict[str, Any] = {
            name: np.array(record[name], np.int32 if name in whole else np.float32) for name in known - {"best"}
        }
        count = len(parts["parent"])
        for name, part in parts.items():
            if part.shape != (count,):
                raise ValueError(f"{name} of a tree must have shape [{count}], not {list(part.shape)}")
        if (parts["parent"] >= np.arange(count)).any():
            raise ValueError(f"parents of a tree must precede their children, not {parts['parent'].tolist()}")
        return cls(**parts, best=int(record["best"]))

    def graphviz(self, name: str = "search", max_nodes: int = 200) -> str:
        """The tree in Graphviz's language, the most visited nodes only; the recommended line is drawn bold.

        Args:
            name: Of the graph.
            max_nodes: Nodes at most, at least 1.
        """
        order = np.argsort(-self.visits, kind="stable")[:max_nodes]  # a parent has more visits than its children
        line, q = set(self.path()), self.q
        lines = [f"digraph {json.dumps(name)} {{", "  node [shape=box, fontname=monospace];"]
        for node in sorted(order[self.visits[order] > 0].tolist()):
            bold = ", penwidth=3" if node in line else ""
            text = f"N {self.visits[node]}\\nQ {q[node]:.3f}\\nP {self.prior[node]:.3f}\\nV {self.raw_value[node]:.3f}"
            lines.append(f'  {node} [label="{text}"{bold}];')
            if self.parent[node] >= 0:
                lines.append(f'  {self.parent[node]} -> {node} [label="{self.action[node]}"{bold}];')
        return "\n".join([*lines, "}"]) + "\n"


def dumps(record: TreeRecord) -> str:
    """A tree as one line of JSON."""
    return json.dumps(record.to_json(), allow_nan=False)


def loads(text: str) -> TreeRecord:
    """The tree of such a line.

    Raises:
        ValueError: It is not one.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"a tree must be a JSON object, not {type(record).__name__}")
    return TreeRecord.from_json(record)
