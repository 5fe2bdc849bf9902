"""The page of an episode's searches: what it holds, and that it loads nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cluster.report.tree_page import MAX_NODES, SearchedStep, tree_page
from planners.tree_record import TreeRecord


def chain(nodes: int, best: int) -> TreeRecord:
    """A root whose action `best` leads on and on, and one node that was never used."""
    count = nodes + 1
    used = np.arange(count) < nodes
    half = np.where(used, 0.5, 0.0).astype(np.float32)
    return TreeRecord(
        parent=np.where(used, np.arange(count) - 1, -1).astype(np.int32),
        action=np.where(used & (np.arange(count) > 0), best, -1).astype(np.int32),
        visits=np.maximum(nodes - np.arange(count), 0).astype(np.int32),
        value=half,
        prior=half,
        reward=half,
        discount=half,
        raw_value=half,
        best=best,
    )


def content(page: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    steps: list[dict[str, object]] = json.loads(found[1])
    return steps


def test_the_page_holds_every_step_and_loads_nothing() -> None:
    page = tree_page("a <b> run", [SearchedStep(chain(4, 2), 2, 0.0), SearchedStep(chain(2, 0), [0.5, -1.0], 1.5)])
    assert "a &lt;b&gt; run" in page
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(""", page)
    first, second = content(page)
    assert first["N"] == [4, 3, 2, 1]
    assert first["parent"] == [-1, 0, 1, 2]
    assert first["line"] == [0, 1, 2, 3]
    assert first["Q"] == [0.5, 0.75, 0.75, 0.75]
    assert (second["taken"], second["got"], second["best"]) == ([0.5, -1.0], 1.5, 0)


def test_only_the_most_visited_nodes_of_a_large_tree() -> None:
    (step,) = content(tree_page("large", [SearchedStep(chain(MAX_NODES + 50, 1), 1, 0.0)]))
    assert len(step["N"]) == MAX_NODES  # type: ignore[arg-type]
    assert len(step["line"]) == MAX_NODES  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_draws_and_steps(tmp_path: Path) -> None:
    """The page's own script on stand-ins for what it uses of a browser's document."""
    page = tree_page("a run", [SearchedStep(chain(4, 2), 2, 0.0), SearchedStep(chain(3, 1), 1, 1.5)])
    script = re.findall(r"<script>\n(.*?)</script>", page, re.S)[0]
    stand_in = """
class Element {
  constructor(name) { this.name = name; this.children = []; this.attributes = {}; this.listeners = {}; this.value = 0; }
  setAttribute(key, value) { this.attributes[key] = value; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...more) { this.children = more; }
  addEventListener(kind, what) { this.listeners[kind] = what; }
}
const known = {};
const document = {
  getElementById: (id) => known[id] ??= new Element(id),
  createElement: (name) => new Element(name),
  createElementNS: (_, name) => new Element(name),
  addEventListener: () => {},
};
document.getElementById("data").textContent = DATA;
"""
    report = """
const circles = () => known.tree.children.filter((each) => each.name === "circle").length;
const before = [circles(), known.where.textContent];
known.on.listeners.click();
known.tree.children.find((each) => each.name === "circle" && each.attributes["data-node"] === 2).listeners.click();
console.log(JSON.stringify([before, [circles(), known.where.textContent],
  known.node.children[1].children.map((each) => each.textContent)]));
"""
    file = tmp_path / "page.js"
    file.write_text(stand_in.replace("DATA", json.dumps(json.dumps(content(page)))) + script + report)
    shown = json.loads(subprocess.run(["node", file], capture_output=True, check=True, text=True, timeout=60).stdout)
    assert shown[0][0] == 4
    assert shown[0][1].startswith("step 1 of 2: value 0.5, best 2, taken 2")
    assert shown[1][0] == 3
    assert shown[1][1].startswith("step 2 of 2: value 0.5, best 1, taken 1, reward received 1.5")
    assert shown[2] == [2, 1, 1, 0.75, 0.5, 0.5, 0.5]
