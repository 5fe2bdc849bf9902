"""Runs golden search cases: `python tests/golden/check_search.py FILE...` prints `N cases, M differ` for each file.

A file has `cases` and may have `meta`; README.md says what they hold. Exit code 1 when a case differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import Mcts

RTOL, ATOL = 1e-4, 2e-6
RENAMED = {
    "pb_c_init": "c1",
    "pb_c_base": "c2",
    "epsilon": "min_range",
    "qtransform_epsilon": "min_range",
    "rescale_values": "rescale",
    "use_mixed_value": "mixed_value",
    "max_num_considered_actions": "max_considered",
}
SAME = ("value_scale", "maxvisit_init", "min_value", "max_value")
NORMALISATIONS = {
    "qtransform_by_parent_and_siblings": "siblings",
    "qtransform_by_min_max": "bounds",
    "qtransform_completed_by_mix_value": "siblings",
}


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of a file, each with the settings that the file's `meta` has for its algorithm."""
    content = json.loads(path.read_text(encoding="utf-8"))
    meta = content.get("meta", {})
    return [{**meta.get(f"{case['algorithm']}_policy", {}), **case} for case in content["cases"]]


def search_options(case: dict[str, Any]) -> dict[str, Any]:
    """What native.Mcts takes.

    Raises:
        ValueError: The case asks for noise or for an algorithm or value transform that is not there.
    """
    algorithm = case["algorithm"]
    if algorithm not in ("muzero", "gumbel_muzero"):
        raise ValueError(f"{case['name']}: algorithm must be muzero or gumbel_muzero, not {algorithm}")
    if case.get("gumbel_scale", 0.0) or case.get("dirichlet_fraction", 0.0):
        raise ValueError(f"{case['name']}: only searches without noise can be compared")
    gumbel = algorithm == "gumbel_muzero"
    transform = case.get("qtransform", f"qtransform_{'completed_by_mix_value' if gumbel else 'by_parent_and_siblings'}")
    if transform not in NORMALISATIONS or gumbel != (transform == "qtransform_completed_by_mix_value"):
        raise ValueError(f"{case['name']}: there is no {algorithm} with {transform}")
    given = case | case.get("qtransform_kwargs", {})
    options = {RENAMED.get(key, key): value for key, value in given.items() if key in RENAMED or key in SAME}
    return options | {
        "num_actions": len(case["prior_logits"][0]),
        "simulations": case["num_simulations"],
        "selection": "gumbel" if gumbel else "puct",
        "max_depth": case.get("max_depth") or 0,
        "normalisation": NORMALISATIONS[transform],
    }


def run_case(case: dict[str, Any], copies: int = 1, threads: int = 1) -> Mcts:
    """The search of a case, as `copies` equal roots of one batch.

    Raises:
        ValueError: The search goes where the case has no state.
    """
    next_state, reward = np.array(case["next_state"]), np.array(case["reward"], np.float32)
    discount = np.broadcast_to(np.array(case["discount"], np.float32), reward.shape)
    logits, value = np.array(case["prior_logits"], np.float32), np.array(case["value"], np.float32)
    logits = np.maximum(logits, np.finfo(np.float32).min / 2)  # of log 0
    invalid = case.get("invalid_actions")
    masks = None if invalid is None else np.tile(np.array(invalid, np.bool_), (copies, 1))
    search, rows = Mcts(**search_options(case), threads=threads), np.arange(copies)
    states = np.full((copies, case["num_simulations"] + 1), case.get("root_state", 0))
    parent, action = search.begin(logits[states[:, 0]], value[states[:, 0]], np.zeros(copies, np.uint64), masks)
    for simulation in range(1, case["num_simulations"] + 1):
        above = states[rows, parent]
        leaf = states[:, simulation] = next_state[above, action]
        if (leaf < 0).any():
            raise ValueError(f"simulation {simulation} goes from state {above[0]} by action {action[0]} to no state")
        search.expand(logits[leaf], value[leaf], reward[above, action], discount[above, action])
    return search


def differences(case: dict[str, Any]) -> list[str]:
    """What of the search is not as expected, the expansion order first."""
    try:
        search = run_case(case)
    except ValueError as error:
        return [str(error)]
    parent, action, visits, value = (part[0] for part in search.nodes())
    root_visits, q, root_value = (part[0] for part in search.root())
    weights, best = (part[0] for part in search.policy())
    found: dict[str, Any] = {
        "node_parent": parent, "node_action": action, "node_visits": visits, "node_value": value,
        "visit_counts": root_visits, "root_qvalues": q, "root_value": root_value, "action_weights": weights,
        "action": best,
    }  # fmt: skip
    expected = dict(case["expected"])
    if "action" not in expected and not expected.get("action_is_tie", False) and "action_most_visited" in expected:
        expected["action"] = expected["action_most_visited"]
    return [line for name, got in found.items() if name in expected for line in _compare(name, got, expected[name])]


def _compare(name: str, found: Any, expected: Any) -> list[str]:
    got, want = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if got.shape != want.shape:
        return [f"{name} has shape {got.shape}, not {want.shape}"]
    exact = name in ("node_parent", "node_action", "node_visits", "visit_counts", "action")
    same = got == want if exact else np.isclose(got, want, RTOL, ATOL, equal_nan=True)
    if same.all():
        return []
    first: NDArray[np.int64] = np.argwhere(np.atleast_1d(~same))[0]
    at = tuple(first.tolist())
    return [f"{name} differs at {at}: {np.atleast_1d(got)[at]}, not {np.atleast_1d(want)[at]}"]


def main(paths: list[str]) -> int:
    if not paths:
        sys.stderr.write("usage: python tests/golden/check_search.py FILE...\n")
        return 2
    failed = False
    for path in paths:
        cases = read_cases(Path(path))
        wrong = {case.get("name", str(number)): differences(case) for number, case in enumerate(cases)}
        for name, lines in wrong.items():
            for line in lines:
                sys.stdout.write(f"{name}: {line}\n")
        differ = sum(bool(lines) for lines in wrong.values())
        sys.stdout.write(f"{len(cases)} cases, {differ} differ\n")
        failed = failed or differ > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
