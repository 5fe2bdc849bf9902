"""One episode of a run's agent with the search behind every action: `worldfleet tree`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.records import Policy, PolicyOutput
from cluster import build
from cluster.evaluation import load_trained
from cluster.report.tree_page import SearchedStep, tree_page
from cluster.run_dir import write_atomic
from envs.specs import ArraySpec, StepBatch
from planners.tree_record import TreeRecord, dumps


@runtime_checkable
class Searching(Protocol):
    """A policy that may act by tree search."""

    def trees(self) -> list[TreeRecord]:
        """The trees of the last step, one per row; none where it did not search."""
        ...


class RecordingPolicy:
    """A policy of one environment that keeps the search of every step; see actors.records.Policy."""

    def __init__(self, policy: Policy) -> None:
        self.steps: list[SearchedStep] = []
        self._policy = policy
        self.version = policy.version

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """The policy's."""
        return self._policy.extras

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        """The policy's carry."""
        return self._policy.initial(seeds)

    def act(self, step: StepBatch, carry: Any, explore: bool) -> PolicyOutput:
        """The policy's action.

        Raises:
            ValueError: It does not search.
        """
        output = self._policy.act(step, carry, explore)
        trees = self._policy.trees() if isinstance(self._policy, Searching) else []
        if len(trees) != 1:
            raise ValueError(
                "this agent does not act by tree search; a Dreamer does with --set algorithm.acting=planner "
                "--set planner.method=mcts"
            )
        self.steps.append(SearchedStep(trees[0], output.action[0].tolist(), float(step.reward[0])))
        return output

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Not for training."""
        raise NotImplementedError


def record_searches(path: Path, seed: int = 0, max_nodes: int = 200, overrides: Sequence[str] = ()) -> Path:
    """Play an episode without exploration and write its searches into the run's `trees` folder.

    Writes a page (`.html`), every search as a line of JSON (`.jsonl`, see planners.tree_record) and the first one for
    Graphviz (`.dot`).

    Args:
        path: Run directory; a run that is going on may be looked at.
        seed: Chooses the episode, as for `worldfleet eval`.
        max_nodes: Nodes in the Graphviz text at most.
        overrides: `a.b=value` changes to the run's configuration.

    Returns:
        The page.

    Raises:
        ValueError: No run, no checkpoint, or an agent that does not search.
    """
    trained = load_trained(path, overrides=overrides)
    policy = RecordingPolicy(trained.policy)
    evaluator = build.evaluator(trained.config, 1, seed, 0, 0)
    try:
        episode = evaluator.evaluate(policy, trained.config.algorithm.name).episodes[0]
    finally:
        evaluator.close()
    name = f"step{trained.steps}_seed{seed}"
    folder = trained.run_dir.path / "trees"
    folder.mkdir(exist_ok=True)
    title = f"{path.resolve().name}: searches of one episode, return {episode.episode_return:.1f}"
    write_atomic(folder / f"{name}.jsonl", "".join(f"{dumps(step.tree)}\n" for step in policy.steps))
    write_atomic(folder / f"{name}.dot", policy.steps[0].tree.graphviz(name, max_nodes))
    page = folder / f"{name}.html"
    write_atomic(page, tree_page(title, policy.steps))
    return page
