"""Many environments as one: in this process, or spread over worker processes.

Both reset an environment in the step after its last one (see `envs.specs.VectorEnv`), and both give the same streams
for the same seeds: a worker process runs the same code as `SerialVectorEnv` on its share, writing to shared memory.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import spawn
from envs.adapters import ActionCheck, GymnasiumEnv
from envs.contract import CHECK_SHARE, Contract
from envs.specs import Env, EnvSpec, StepBatch
from envs.step_arrays import allocate, allocate_like, copy_batch, memory_size, rows_of, shared_views

EnvFactory = Callable[[], Env]
_CLOSE_SECONDS = 5.0
_Answer = tuple[Any, Exception | None, str]
"""A worker's answer: the result, or the exception and its traceback."""


class SerialVectorEnv:
    """Environments stepped one after the other in this process.

    Args:
        factories: One per environment.
        check_share: See `envs.contract.Contract`, by which all that the environments return is checked.

    Raises:
        ContractError: From any method that steps or resets, if an environment returns what its spec rules out.
        ValueError: If there is none, or their specs differ.
    """

    def __init__(self, factories: Sequence[EnvFactory], check_share: float = CHECK_SHARE) -> None:
        if not factories:
            raise ValueError("a vector environment needs at least one environment")
        self._envs = [factory() for factory in factories]
        self.spec = self._envs[0].spec
        if any(env.spec != self.spec for env in self._envs):
            raise ValueError(f"environments of different specs cannot be stepped together: {self.spec.name}")
        self.num_envs = len(self._envs)
        self._check = ActionCheck(self.spec.action)
        self._contract = Contract(self.spec, check_share)
        self._template = allocate(self.spec, self.num_envs)
        self._ended: list[bool] | None = None
        self._options: Mapping[str, Any] | None = None

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """Start an episode everywhere.

        Args:
            seeds: One per environment.
            options: Passed to every reset, also to those of later episodes, until the next call.
        """
        out = allocate_like(self._template)
        self.reset_into(out, seeds, options)
        return out

    def origins(self) -> list[dict[str, Any]]:
        """What the present episodes were made from, see `envs.specs.Env`."""
        return [env.origin for env in self._envs]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """Go to the middle of an episode everywhere, by playing it again.

        Args:
            origins: What `origins` said in that episode.
            actions: Actions [T, *spec.action.shape] taken in it, one array per environment.

        Returns:
            The step after the last action; for a deterministic simulator the same as the first time.

        Raises:
            ValueError: If an action is invalid, or an episode ends before its last action.
        """
        out = allocate_like(self._template)
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
        out = allocate_like(self._template)
        self.step_into(out, actions)
        return out

    def reset_into(self, out: StepBatch, seeds: Sequence[int], options: Mapping[str, Any] | None) -> None:
        """`reset`, written into the arrays of `out`."""
        _check_seeds(seeds, self.num_envs)
        self._ended = None
        self._contract.begin(out)
        for row, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            self._contract.write(out, row, *self._contract.fields(env.reset(seed=int(seed), options=options)))
        self._contract.end(out)
        self._options = options
        self._ended = [False] * self.num_envs

    def redo_into(self, out: StepBatch, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> None:
        """`redo`, written into the arrays of `out`."""
        self._ended = None
        ended = [False] * self.num_envs
        self._contract.begin(out)
        for row, (env, origin, taken) in enumerate(zip(self._envs, origins, actions, strict=True)):
            self._check(taken, (len(taken),))
            step = env.redo(origin)
            for action in taken:
                if step.is_last:
                    raise ValueError(f"the episode of environment {row} ends before the last of {len(taken)} actions")
                step = env.step(action)
            ended[row] = self._contract.write(out, row, *self._contract.fields(step))
        self._contract.end(out)
        self._ended = ended

    def step_into(self, out: StepBatch, actions: NDArray[Any]) -> None:
        """`step` with checked actions, written into the arrays of `out`."""
        ended = self._ended
        if ended is None:
            raise RuntimeError("call reset before step, also after an error")
        self._ended = None
        contract = self._contract
        contract.begin(out)
        for row, env in enumerate(self._envs):
            if ended[row]:
                ended[row] = contract.write(out, row, *contract.fields(env.reset(options=self._options)))
            elif isinstance(env, GymnasiumEnv):
                ended[row] = contract.write(out, row, *env.advance(actions[row]))
            else:
                ended[row] = contract.write(out, row, *contract.fields(env.step(actions[row])))
        contract.end(out)
        self._ended = ended

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """A picture of environment `index`."""
        return self._envs[index].render()

    def close(self) -> None:
        for env in self._envs:
            env.close()


class SubprocessVectorEnv:
    """Environments stepped in worker processes, several per worker.

    Commands go through pipes, actions and results through shared memory. Workers are spawned, so factories must be
    picklable, and a simulator or GL context is opened only in its worker. An exception in a worker is raised
    here as it was, with the worker's traceback as its cause.

    Args:
        factories: One per environment.
        num_workers: Processes; None takes one per core, at most one per environment.
        check_share: As for `SerialVectorEnv`.

    Raises:
        ContractError: As from `SerialVectorEnv`.
        ValueError: For an invalid `num_workers`, or environments that cannot be made.
        RuntimeError: From any method, if a worker has died.
    """

    def __init__(
        self, factories: Sequence[EnvFactory], num_workers: int | None = None, check_share: float = CHECK_SHARE
    ) -> None:
        if not factories:
            raise ValueError("a vector environment needs at least one environment")
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.num_envs = len(factories)
        count = min(num_workers or len(os.sched_getaffinity(0)), self.num_envs)
        bounds = [self.num_envs * worker // count for worker in range(count + 1)]
        self._shares = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        self._workers: list[_Worker] = []
        try:
            self._workers.extend(_Worker(factories[share], check_share) for share in self._shares)
            specs = _results(self._workers)
            self.spec: EnvSpec = specs[0]
            if any(spec != self.spec for spec in specs):
                raise ValueError(f"environments of different specs cannot be stepped together: {self.spec.name}")
            self._share_memory()
        except BaseException:
            self.close()
            raise
        self._check = ActionCheck(self.spec.action)

    def _share_memory(self) -> None:
        """Map the steps and actions of all environments here and in every worker."""
        size = memory_size(self.spec, self.num_envs)
        handle = os.memfd_create("worldfleet-vector-env")
        try:
            os.ftruncate(handle, size)
            self._steps, self._actions = shared_views(mmap.mmap(handle, size), self.spec, self.num_envs)
            for worker, share in zip(self._workers, self._shares, strict=True):
                worker.send("attach", self.num_envs, share)
                worker.send_handle(handle)
            _results(self._workers)
        finally:
            os.close(handle)

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        """As `SerialVectorEnv.reset`."""
        _check_seeds(seeds, self.num_envs)
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send("reset", [int(seed) for seed in seeds[share]], options)
        _results(self._workers)
        return copy_batch(self._steps)

    def origins(self) -> list[dict[str, Any]]:
        """As `SerialVectorEnv.origins`."""
        for worker in self._workers:
            worker.send("origins")
        return [origin for origins in _results(self._workers) for origin in origins]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """As `SerialVectorEnv.redo`."""
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send("redo", list(origins[share]), list(actions[share]))
        _results(self._workers)
        return copy_batch(self._steps)

    def step(self, actions: NDArray[Any]) -> StepBatch:
        """As `SerialVectorEnv.step`."""
        actions = np.asarray(actions)
        self._check(actions, (self.num_envs,))
        self._actions[:] = actions
        for worker in self._workers:
            worker.send("step")
        _results(self._workers)
        return copy_batch(self._steps)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """A picture of environment `index`."""
        index = range(self.num_envs)[index]
        for worker, share in zip(self._workers, self._shares, strict=True):
            if share.start <= index < share.stop:
                worker.send("render", index - share.start)
                picture: NDArray[np.uint8] = _results([worker])[0]
        return picture

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """This process's end of one worker process."""

    def __init__(self, factories: Sequence[EnvFactory], check_share: float) -> None:
        self._connection, theirs = spawn.CONTEXT.Pipe()
        self._process = spawn.process(_work, theirs, list(factories), check_share, daemon=True)
        self._process.start()
        theirs.close()

    def send(self, command: str, *arguments: Any) -> None:
        try:
            self._connection.send((command, arguments))
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def send_handle(self, handle: int) -> None:
        try:
            reduction.send_handle(self._connection, handle, self._process.pid)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def receive(self) -> tuple[Any, BaseException | None]:
        """The answer to the oldest unanswered command: its result, or the exception it raised."""
        try:
            result, error, text = self._connection.recv()
        except (EOFError, ConnectionResetError):
            return None, self._death()
        if error is not None:
            error.__cause__ = RuntimeError(f"in an environment worker:\n{text}")
        return result, error

    def _death(self) -> RuntimeError:
        self._process.join(_CLOSE_SECONDS)
        return RuntimeError(
            f"environment worker {self._process.pid} died with exit code {self._process.exitcode}; "
            "close the vector environment and make a new one"
        )

    def ask_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(("close", ()))

    def end(self) -> None:
        self._process.join(_CLOSE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _results(workers: Sequence[_Worker]) -> list[Any]:
    """One answer of every worker; all are read before the first error is raised."""
    answers = [worker.receive() for worker in workers]
    for _, error in answers:
        if error is not None:
            raise error
    return [result for result, _ in answers]


def _work(connection: Connection, factories: Sequence[EnvFactory], check_share: float) -> None:
    """The worker process: answer commands until told to close, or until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share = _Share(connection, factories, check_share)
    command, arguments = "make", ()
    while command != "close":
        try:
            answer: _Answer = (getattr(share, command)(*arguments), None, "")
        except Exception as error:  # noqa: BLE001 (raised again in the process that sent the command)
            answer = (None, _portable(error), traceback.format_exc())
        try:
            connection.send(answer)
            command, arguments = connection.recv()
        except (EOFError, OSError):
            break
    share.close()


class _Share:
    """What a worker does: each method is a command."""

    def __init__(self, connection: Connection, factories: Sequence[EnvFactory], check_share: float) -> None:
        self._connection = connection
        self._factories = factories
        self._check_share = check_share
        self._envs: SerialVectorEnv | None = None

    def make(self) -> EnvSpec:
        self._envs = SerialVectorEnv(self._factories, self._check_share)
        return self._envs.spec

    def attach(self, num_envs: int, share: slice) -> None:
        assert self._envs is not None
        handle = reduction.recv_handle(self._connection)
        spec = self._envs.spec
        memory = mmap.mmap(handle, memory_size(spec, num_envs))
        os.close(handle)
        steps, actions = shared_views(memory, spec, num_envs)
        self._steps, self._actions = rows_of(steps, share), actions[share]

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None) -> None:
        assert self._envs is not None
        self._envs.reset_into(self._steps, seeds, options)

    def origins(self) -> list[dict[str, Any]]:
        assert self._envs is not None
        return self._envs.origins()

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> None:
        assert self._envs is not None
        self._envs.redo_into(self._steps, origins, actions)

    def step(self) -> None:
        assert self._envs is not None
        self._envs.step_into(self._steps, self._actions.copy())

    def render(self, index: int) -> NDArray[np.uint8]:
        assert self._envs is not None
        return self._envs.render(index)

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()


def _portable(error: Exception) -> Exception:
    """`error`, or its text if it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _check_seeds(seeds: Sequence[int], num_envs: int) -> None:
    if len(seeds) != num_envs:
        raise ValueError(f"seeds must hold one seed per environment ({num_envs}), got {len(seeds)}")
