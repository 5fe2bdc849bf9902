"""A trained run as an agent that acts in one environment, of whoever steps it; needs no Ray and no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import build
from cluster.evaluation import load_trained
from envs.adapters import ActionDecoder, ObservationEncoder
from envs.contract import ContractError, brief
from envs.numbers import NonNegativeInt, read_value
from envs.specs import EnvSpec, StepBatch

if TYPE_CHECKING:
    from actors.records import Policy


@dataclass(frozen=True)
class AgentCarry:
    """What an agent knows of its episode."""

    policy: Any  # the policy's memory of one row
    is_first: bool  # nothing has been observed yet


class Agent:
    """Acts on one observation at a time, as the environment returns it, with actions as its `step` takes them.

    Args:
        policy: Has the weights.
        spec: The environment that the policy was trained in.
    """

    def __init__(self, policy: Policy, spec: EnvSpec) -> None:
        self.spec = spec
        self._policy = policy
        self._encoder = ObservationEncoder(spec.observation, spec.name)
        self._decoder = ActionDecoder(spec.action)

    def reset(self, seed: int = 0) -> AgentCarry:
        """Begin an episode.

        Args:
            seed: Of all that is random in the agent, not negative.
        """
        return AgentCarry(self._policy.initial(np.array([read_value(NonNegativeInt, seed, "seed")], np.uint64)), True)

    def act(self, observation: Any, carry: AgentCarry, explore: bool = False) -> tuple[Any, AgentCarry]:
        """Choose an action.

        Args:
            observation: Of the environment's observation space: an array, a number, or a dict of them.
            carry: From `reset`, or from the call before in this episode.
            explore: Act as during training.

        Returns:
            An action of the environment's action space, and what to pass with the next observation.

        Raises:
            ValueError: A key, shape or dtype is not that of the spec, a number is not finite, or the carry is none.
        """
        if not isinstance(carry, AgentCarry):
            raise ValueError(f"carry must come from reset or act of this agent, got {type(carry).__name__}")
        arrays = {key: value[None] for key, value in self._encoder.encode(observation).items()}
        for key, value in arrays.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ContractError(f"{self.spec.name}: {key!r} is {brief(value[0])}, its spec says finite numbers")
        is_first, is_last = np.array([carry.is_first]), np.zeros(1, np.bool_)
        step = StepBatch(arrays, np.zeros(1, np.float32), is_first, is_last, is_last)
        output = self._policy.act(step, carry.policy, explore)
        return self._decoder.decode(output.action[0]), AgentCarry(output.carry, False)


def load(run_dir: str | Path, overrides: Sequence[str] = ()) -> Agent:
    """The agent that the newest checkpoint of a run holds.

    Args:
        run_dir: Directory of the run, which may be going on.
        overrides: `key=value` as `worldfleet eval --set` takes them, e.g. "learner.device=cpu".

    Raises:
        ValueError: No run, no checkpoint or a damaged one, or a change that is none.
    """
    trained = load_trained(Path(run_dir), overrides=overrides)
    return Agent(trained.policy, build.env_spec(trained.config))
