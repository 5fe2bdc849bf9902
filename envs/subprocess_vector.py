"""Many environments as one, in worker processes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.adapters import ActionCheck
from envs.contract import CHECK_SHARE, ContractError
from envs.faults import REMAKE_WAITS, STEP_TIMEOUT_SECONDS, Fault, SimulatorError, instance_seed, one_line
from envs.specs import EnvSpec, StepBatch
from envs.step_arrays import copy_batch
from envs.vector import INSTANCE, EnvFactory, check_seeds
from envs.worker import SharedSteps, Worker, WorkerLost, end_all


class SubprocessVectorEnv:
    """Environments stepped in worker processes, several per worker.

    Commands go through pipes, actions and results through shared memory. Workers are spawned, so factories must be
    picklable, and a simulator or GL context is opened only in its worker. A worker that dies or does not get on is
    replaced: the fault is of the row that it was at, and all its rows are made again.

    Args:
        factories: One per environment.
        num_workers: Processes; None takes one per core, at most one per environment.
        check_share: As for `SerialVectorEnv`.
        step_timeout_seconds: How long one reset or step of one environment may take before its worker is replaced, 0
            for any time.

    Raises:
        ContractError: As from `SerialVectorEnv`.
        SimulatorError: As from `SerialVectorEnv`; or from here, if a worker is lost before its environments are made.
        ValueError: For an invalid `num_workers`, or environments that cannot be made.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        num_workers: int | None = None,
        check_share: float = CHECK_SHARE,
        step_timeout_seconds: float = STEP_TIMEOUT_SECONDS,
    ) -> None:
        if not factories:
            raise ValueError("a vector environment needs at least one environment")
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.num_envs = len(factories)
        count = min(num_workers or len(os.sched_getaffinity(0)), self.num_envs)
        bounds = [self.num_envs * worker // count for worker in range(count + 1)]
        self._shares = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        self._factories, self._check_share, self._step_seconds = factories, check_share, step_timeout_seconds
        self._seeds: list[int] | None = None
        self._remakes = [0] * self.num_envs
        self._options: Mapping[str, Any] | None = None
        self._faults: list[Fault] = []
        self._shared: SharedSteps | None = None
        self._workers: list[Worker] = []
        try:
            self._workers.extend(self._start(index) for index in range(count))
            specs = [self._answer(index) for index in range(count)]
            self.spec: EnvSpec = specs[0]
            if any(spec != self.spec for spec in specs):
                raise ValueError(f"environments of different specs cannot be stepped together: {self.spec.name}")
            self._shared = SharedSteps(self.spec, self.num_envs, self._shares)
            for index, worker in enumerate(self._workers):
                worker.attach(self._shared, self.num_envs, self._shares, index)
            for index in range(count):
                self._answer(index)
        except WorkerLost as lost:
            self.close()
            raise SimulatorError(f"an environment cannot be made: {lost}") from None
        except BaseException:
            self.close()
            raise
        self._check = ActionCheck(self.spec.action)

    @property
    def remakes(self) -> Sequence[int]:
        """As `envs.specs.VectorEnv`."""
        return tuple(self._remakes)

    def take_faults(self) -> list[Fault]:
        """As `envs.specs.VectorEnv`."""
        taken, self._faults = self._faults, []
        return taken

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """As `SerialVectorEnv.reset`."""
        check_seeds(seeds, self.num_envs)
        self._seeds, self._remakes, self._options = [int(seed) for seed in seeds], [0] * self.num_envs, options
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send("reset", self._seeds[share], options)
        self._finish()
        return copy_batch(self._memory.steps)

    def origins(self) -> list[dict[str, Any]]:
        """As `SerialVectorEnv.origins`; nothing of a worker that is lost: the next step makes its rows again."""
        for worker in self._workers:
            worker.send("origins")
        origins: list[dict[str, Any]] = []
        for index, share in enumerate(self._shares):
            try:
                origins += self._answer(index)
            except WorkerLost:
                origins += [{} for _ in range(share.start, share.stop)]
        return origins

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """As `SerialVectorEnv.redo`."""
        self._seeds = [int(origin.get(INSTANCE, (0, 0, 0))[0]) for origin in origins]
        self._remakes = [int(origin.get(INSTANCE, (0, 0, 0))[1]) for origin in origins]
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send("redo", list(origins[share]), list(actions[share]))
        if self._finish():
            raise ValueError("a worker was lost while it played an episode again")
        return copy_batch(self._memory.steps)

    def step(self, actions: NDArray[Any]) -> StepBatch:
        """As `SerialVectorEnv.step`."""
        actions = np.asarray(actions)
        self._check(actions, (self.num_envs,))
        self._memory.actions[:] = actions
        for worker in self._workers:
            worker.send("step")
        self._finish()
        return copy_batch(self._memory.steps)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """A picture of environment `index`.

        Raises:
            RuntimeError: Its worker is lost; the next step makes another.
        """
        index = range(self.num_envs)[index]
        worker = next(n for n, share in enumerate(self._shares) if index < share.stop)
        self._workers[worker].send("render", index - self._shares[worker].start)
        try:
            picture: NDArray[np.uint8] = self._answer(worker)
        except WorkerLost as lost:
            raise RuntimeError(f"environment {index} cannot be drawn: {lost}") from None
        return picture

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        end_all(self._workers)
        self._workers = []
        if self._shared is not None:
            os.close(self._shared.handle)
            self._shared = None

    @property
    def _memory(self) -> SharedSteps:
        if self._shared is None:
            raise RuntimeError("the vector environment is closed")
        return self._shared

    def _start(self, index: int) -> Worker:
        share = self._shares[index]
        return Worker(self._factories[share], self._check_share, share.start, self._step_seconds)

    def _answer(self, index: int) -> Any:
        """What worker `index` answers.

        Raises:
            WorkerLost: It does not.
            Exception: What it raised.
        """
        answer = self._workers[index].receive()
        self._faults += answer.faults
        if answer.faults:
            self._remakes[self._shares[index]] = answer.remakes
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _finish(self) -> bool:
        """Take the answer of every worker, then replace those that are lost; whether there were any.

        Raises:
            Exception: The first that a worker raised, when all have answered.
        """
        lost: dict[int, WorkerLost] = {}
        errors: list[Exception] = []
        for index in range(len(self._workers)):
            try:
                self._answer(index)
            except WorkerLost as loss:
                lost[index] = loss
            except Exception as error:  # noqa: BLE001 (raised below)
                errors.append(error)
        for index, cause in lost.items():
            self._replace(index, cause)
        if errors:
            raise errors[0]
        return bool(lost)

    def _replace(self, index: int, lost: WorkerLost) -> None:
        """Note the loss of a worker and start another, whose rows are first steps of new instances.

        Raises:
            SimulatorError: That fails however often it is tried.
        """
        if self._seeds is None:
            raise SimulatorError(f"{self.spec.name}: {lost}")
        share = self._shares[index]
        error: Exception = lost
        for wait in REMAKE_WAITS:
            self._note(index, error)
            self._workers[index].kill()
            self._memory.progress[index].clear()
            self._remakes[share] = [count + 1 for count in self._remakes[share]]
            time.sleep(wait)
            self._workers[index] = self._start(index)
            try:
                if self._answer(index) != self.spec:
                    raise ContractError(f"{self.spec.name}: made again, the environment has another spec")
                self._workers[index].attach(self._memory, self.num_envs, self._shares, index)
                self._answer(index)
                self._workers[index].send("reset", self._seeds[share], self._options, self._remakes[share])
                self._answer(index)
                return
            except (ContractError, SimulatorError):
                raise
            except Exception as again:  # noqa: BLE001 (whatever a simulator raises while it is made)
                error = again
        self._note(index, error)
        rows = f"environments {share.start} to {share.stop - 1}"
        raise SimulatorError(
            f"{self.spec.name}: {rows} fail each of the {len(REMAKE_WAITS)} times that their process is started again: "
            f"{one_line(error)}"
        )

    def _note(self, index: int, error: Exception) -> None:
        """Write down the fault of the row that a worker was at."""
        assert self._seeds is not None
        share, progress = self._shares[index], self._memory.progress[index]
        local = max(0, progress.place[0])
        row, step = share.start + local, progress.step(local)
        kind = error.kind if isinstance(error, WorkerLost) else "exception"
        seed, episode = instance_seed(self._seeds[row], self._remakes[row]), progress.episode(local)
        text = str(error) if isinstance(error, WorkerLost) else one_line(error)
        self._faults.append(Fault(row, kind, "step" if step > 0 else "reset", seed, episode, step, text))
