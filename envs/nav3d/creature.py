"""The navigation task of a creature that tires: `nav3d_creature`.

The observation `state` has 7 numbers: position (3), goal minus position (3), stamina (1). Velocity is left out on
purpose: the creature is so light for its drag (time constant mass / drag = 0.13 s, about one step) that its velocity is
nearly a function of the last action, so position, goal and stamina are close to a Markov state, and the position is
needed to know where obstacles and walls are.

With effort = mean(action^2) in [0, 1] the stamina s follows

    s <- clip(s + dt * (rest_gain * (1 - effort) - effort_cost * effort), 0, 1)

and the thrust is scaled by exhausted_force + (1 - exhausted_force) * min(1, s / tired_below), with the stamina before
the step. Full speed all the way is therefore slower than pacing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.nav3d.config import Nav3DConfig, Nav3DCreatureConfig
from envs.nav3d.env import Nav3DEnv, mean_square
from envs.nav3d.layout import Layout, Vector


class Nav3DCreatureEnv(Nav3DEnv):
    """`Nav3DEnv` with stamina that effort spends and rest restores.

    Args:
        config: The task and the creature.
        render_mode: None or "rgb_array".
    """

    config: Nav3DCreatureConfig

    def __init__(self, config: Nav3DCreatureConfig | None = None, render_mode: str | None = None) -> None:
        super().__init__(config or Nav3DCreatureConfig(), render_mode)
        self._stamina = 1.0

    def _begin_episode(self, episode: Nav3DConfig, layout: Layout, start: Vector, goal: Vector) -> None:
        super()._begin_episode(episode, layout, start, goal)
        self._stamina = 1.0

    def _control(self, thrust: tuple[float, float, float]) -> tuple[float, float, float]:
        config = self.config
        strength = config.exhausted_force + (1 - config.exhausted_force) * min(1.0, self._stamina / config.tired_below)
        effort = mean_square(thrust)
        change = config.rest_gain * (1.0 - effort) - config.effort_cost * effort
        self._stamina = min(max(self._stamina + config.step_seconds * change, 0.0), 1.0)
        x, y, z = super()._control(thrust)
        return strength * x, strength * y, strength * z

    def _state(self) -> NDArray[np.float32]:
        state = np.empty(7, np.float32)
        position = self.arena.position
        state[:3] = position
        state[3:6] = self._goal - position
        state[6] = self._stamina
        return state
