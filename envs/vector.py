"""Many environments as one, in this process; `envs.workers` spreads them over others.

Both reset an environment in the step after its last one, and make it again where it fails (see `envs.specs.VectorEnv`),
and both give the same streams for the same seeds: a worker process runs the same code as `SerialVectorEnv` on its
share, writing to shared memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.adapters import ActionCheck, GymnasiumEnv
from envs.contract import CHECK_SHARE, Contract, ContractError
from envs.faults import REMAKE_WAITS, Fault, SimulatorError, instance_seed, note, one_line
from envs.progress import Progress
from envs.specs import Env, StepBatch
from envs.step_arrays import allocate, begin_like

EnvFactory = Callable[[], Env]

INSTANCE = "instance"
"""Key that a vector environment adds to an origin: [seed of the row, remakes, episodes of the instance before]."""


class SerialVectorEnv:
    """Environments stepped one after the other in this process.

    Args:
        factories: One per environment.
        check_share: See `envs.contract.Contract`, by which all that the environments return is checked.
        first_row: Row of the first one where this is a share of a larger vector; faults tell it.
        progress: Where it says which environment is at work.

    Raises:
        ContractError: From any method that steps or resets, if an environment returns what its spec rules out.
        SimulatorError: From `reset` and `step`, if an environment fails however often it is made again.
        ValueError: If there is none, or their specs differ.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        check_share: float = CHECK_SHARE,
        first_row: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if not factories:
            raise ValueError("a vector environment needs at least one environment")
        self._factories = factories
        self._envs = [factory() for factory in factories]
        self.spec = self._envs[0].spec
        if any(env.spec != self.spec for env in self._envs):
            raise ValueError(f"environments of different specs cannot be stepped together: {self.spec.name}")
        self.num_envs = len(self._envs)
        self.progress = progress or Progress(self.num_envs)
        self._check = ActionCheck(self.spec.action)
        self._contract = Contract(self.spec, check_share)
        self._template = allocate(self.spec, self.num_envs)
        self._contract.begin(self._template)
        self._first_row = first_row
        self._seeds = [0] * self.num_envs
        self._remakes = [0] * self.num_envs
        self._faults: list[Fault] = []
        self._ended: list[bool] | None = None
        self._options: Mapping[str, Any] | None = None

    @property
    def remakes(self) -> Sequence[int]:
        """As `envs.specs.VectorEnv`."""
        return tuple(self._remakes)

    def take_faults(self) -> list[Fault]:
        """As `envs.specs.VectorEnv`."""
        taken, self._faults = self._faults, []
        return taken

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """Start an episode everywhere.

        Args:
            seeds: One per environment.
            options: Passed to every reset, also to those of later episodes, until the next call.

        Raises:
            ValueError: An environment refuses the options.
        """
        check_seeds(seeds, self.num_envs)
        out = begin_like(self._template)
        self.reset_into(out, seeds, options)
        return out

    def origins(self) -> list[dict[str, Any]]:
        """What the present episodes were made from, see `envs.specs.Env`."""
        return [
            {**env.origin, INSTANCE: [self._seeds[row], self._remakes[row], self.progress.episode(row)]}
            for row, env in enumerate(self._envs)
        ]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """Go to the middle of an episode everywhere, by playing it again.

        Args:
            origins: What `origins` said in that episode.
            actions: Actions [T, *spec.action.shape] taken in it, one array per environment.

        Returns:
            The step after the last action; for a deterministic simulator the same as the first time.

        Raises:
            ValueError: If an action is invalid, an episode ends before its last action, or a simulator fails; `reset`
                is to follow.
        """
        out = begin_like(self._template)
        self.redo_into(out, origins, actions)
        return out

    def step(self, actions: NDArray[Any]) -> StepBatch:
        """Act everywhere; an environment whose last step was `is_last` starts its next episode instead.

        Args:
            actions: [N, *spec.action.shape].

        Raises:
            ValueError: If an action is invalid; no environment has stepped then.
        """
        actions = np.asarray(actions)
        self._check(actions, (self.num_envs,))
        out = begin_like(self._template)
        self.step_into(out, actions)
        return out

    def begin(self, out: StepBatch) -> None:
        """Make arrays ready that are used again."""
        self._contract.begin(out)

    def reset_into(
        self,
        out: StepBatch,
        seeds: Sequence[int],
        options: Mapping[str, Any] | None,
        remakes: Sequence[int] | None = None,
    ) -> None:
        """`reset`, written into the arrays of `out`, after `begin`; each was made again `remakes` times elsewhere."""
        self._ended = None
        self._seeds = [int(seed) for seed in seeds]
        self._remakes = [0] * self.num_envs if remakes is None else list(remakes)
        self._options = options
        self.progress.tick()
        try:
            self._reset_all(out)
        finally:
            self.progress.at(-1)

    def _reset_all(self, out: StepBatch) -> None:
        contract, progress, options = self._contract, self.progress, self._options
        for row, env in enumerate(self._envs):
            progress.at(row)
            progress.begin(row, instance=True)
            try:
                step = env.reset(seed=instance_seed(self._seeds[row], self._remakes[row]), options=options)
                contract.write(out, row, *contract.fields(step))
            except (Exception, SystemExit) as error:
                if options and isinstance(error, ValueError):
                    raise  # it refuses the options
                self._recover(out, row, error)
        self._finish(out, [False] * self.num_envs)

    def redo_into(self, out: StepBatch, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> None:
        """`redo`, written into the arrays of `out`, after `begin`."""
        self._ended = None
        self.progress.tick()
        try:
            self._redo_all(out, origins, actions)
        finally:
            self.progress.at(-1)

    def _redo_all(self, out: StepBatch, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> None:
        ended = [False] * self.num_envs
        contract, progress = self._contract, self.progress
        for row, (env, origin, taken) in enumerate(zip(self._envs, origins, actions, strict=True)):
            self._check(taken, (len(taken),))
            progress.at(row)
            self._seeds[row], self._remakes[row], episode = origin.get(INSTANCE, (0, 0, 0))
            progress.set_episode(row, len(taken), episode)
            try:
                step = env.redo(origin)
                for action in taken:
                    if step.is_last:
                        raise ValueError(
                            f"the episode of environment {row} ends before the last of {len(taken)} actions"
                        )
                    progress.alive()
                    step = env.step(action)
                ended[row] = contract.write(out, row, *contract.fields(step))
            except ValueError:  # among them a broken contract
                raise
            except (Exception, SystemExit) as error:
                self._note(row, error)
                raise ValueError(f"environment {row} cannot be played again: {one_line(error)}") from error
        if contract.nonfinite(out):
            raise ValueError("an episode that is played again is not finite")
        contract.end(out)
        self._ended = ended

    def step_into(self, out: StepBatch, actions: NDArray[Any]) -> None:
        """`step` with checked actions, written into the arrays of `out`, after `begin`."""
        ended = self._ended
        if ended is None:
            raise RuntimeError("call reset before step, also after an error")
        self._ended = None
        self.progress.tick()
        try:
            self._step_all(out, actions, ended)
        finally:
            self.progress.at(-1)

    def _step_all(self, out: StepBatch, actions: NDArray[Any], ended: list[bool]) -> None:
        contract, progress = self._contract, self.progress
        cells = progress.cells
        for row, env in enumerate(self._envs):
            cells[0] = row  # as `progress.at` does
            try:
                if ended[row]:
                    progress.begin(row, instance=False)
                    ended[row] = contract.write(out, row, *contract.fields(env.reset(options=self._options)))
                elif isinstance(env, GymnasiumEnv):
                    ended[row] = contract.write(out, row, *env.advance(actions[row]))
                else:
                    ended[row] = contract.write(out, row, *contract.fields(env.step(actions[row])))
            except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a simulator raises)
                self._recover(out, row, error)
                ended[row] = False
        self._finish(out, ended)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """A picture of environment `index`."""
        return self._envs[index].render()

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _finish(self, out: StepBatch, ended: list[bool]) -> None:
        """The end of a tick: what is checked for all environments together."""
        for row, fault in self._contract.nonfinite(out):
            self._recover(out, row, fault)
            ended[row] = False
        self._contract.end(out)
        self._ended = ended

    def _recover(self, out: StepBatch, row: int, error: BaseException) -> None:
        """Note the failure of an environment, and make it again: its row becomes the first step of a new instance.

        Raises:
            ContractError: It was no failure of the simulator.
            SimulatorError: It fails each time.
        """
        self.progress.at(row)
        for wait in REMAKE_WAITS:
            self._note(row, error)
            with contextlib.suppress(Exception, SystemExit):
                self._envs[row].close()
            time.sleep(wait)
            self._remakes[row] += 1
            self.progress.begin(row, instance=True)
            self.progress.alive()
            self._contract.clear(out, row)
            try:
                self._make_again(out, row)
                return
            except (Exception, SystemExit) as again:  # noqa: BLE001 (whatever a simulator raises)
                error = again
        self._note(row, error)
        raise SimulatorError(
            f"{self.spec.name}: environment {self._first_row + row} fails each of the {len(REMAKE_WAITS)} times that "
            f"it is made again: {one_line(error)}"
        ) from error

    def _make_again(self, out: StepBatch, row: int) -> None:
        env = self._factories[row]()
        if env.spec != self.spec:
            raise ContractError(f"{self.spec.name}: made again, the environment has another spec: {env.spec}")
        self._envs[row] = env
        self.progress.alive()
        step = env.reset(seed=instance_seed(self._seeds[row], self._remakes[row]), options=self._options)
        self._contract.write(out, row, *self._contract.fields(step))
        for _, fault in self._contract.nonfinite(out, [row]):
            raise fault

    def _note(self, row: int, error: BaseException) -> None:
        """Write down a fault; a broken contract is none."""
        if isinstance(error, ContractError):
            raise error
        seed = instance_seed(self._seeds[row], self._remakes[row])
        episode, step = self.progress.episode(row), self.progress.step(row)
        self._faults.append(note(self._first_row + row, seed, episode, step, error))


def check_seeds(seeds: Sequence[int], num_envs: int) -> None:
    """Refuse another number of seeds than one per environment."""
    if len(seeds) != num_envs:
        raise ValueError(f"seeds must hold one seed per environment ({num_envs}), got {len(seeds)}")
