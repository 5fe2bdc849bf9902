"""A process that steps a share of the environments of a vector, and this process's end of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import spawn
from envs.faults import Fault, FaultKind
from envs.progress import Progress
from envs.specs import Env, EnvSpec
from envs.step_arrays import memory_size, rows_of, shared_views
from envs.vector import SerialVectorEnv

MAKE_SECONDS = 120.0
"""How long a worker may take at least to start Python and make its environments."""

_CLOSE_SECONDS = 5.0
_LOOK_SECONDS = 0.5
"""Time between two looks at a worker that does not answer."""


class WorkerLost(Exception):
    """A worker died or did not answer; its environments are gone."""

    def __init__(self, kind: FaultKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """What a worker says to a command."""

    result: Any = None
    error: Exception | None = None
    text: str = ""  # traceback of the error
    faults: tuple[Fault, ...] = ()  # since the last answer
    remakes: Sequence[int] = ()  # of its environments, where there are faults or an error


class SharedSteps:
    """Steps, actions and progress of all environments, in memory that every worker maps.

    Args:
        spec: Of the environments.
        num_envs: Environments, N.
        shares: Rows of each worker.
        handle: Of the memory, None to make it.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, shares: Sequence[slice], handle: int | None = None) -> None:
        counts = [Progress.size(share.stop - share.start) for share in shares]
        steps_size = -(-memory_size(spec, num_envs) // 64) * 64
        size = steps_size + 8 * sum(counts)
        self.handle = os.memfd_create("worldfleet-vector-env") if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, size)
        memory = mmap.mmap(self.handle, size)
        self.steps, self.actions = shared_views(memory, spec, num_envs)
        cells: NDArray[np.int64] = np.ndarray((sum(counts),), np.int64, memory, steps_size)
        ends = np.cumsum(counts).tolist()
        self.progress = [
            Progress(share.stop - share.start, cells[end - count : end])
            for share, count, end in zip(shares, counts, ends, strict=True)
        ]


class Worker:
    """This process's end of one worker process, which makes its environments at once: `receive` says their spec.

    Args:
        factories: One per environment of its share.
        check_share: See `envs.contract.Contract`.
        first_row: Row of its first environment.
        step_seconds: How long one reset or step of one environment may take, 0 for any time.
    """

    def __init__(
        self, factories: Sequence[Callable[[], Env]], check_share: float, first_row: int, step_seconds: float
    ) -> None:
        self._connection, theirs = spawn.CONTEXT.Pipe()
        self._process = spawn.process(_work, theirs, list(factories), check_share, first_row, daemon=True)
        self._process.start()
        theirs.close()
        self._readable = select.poll()
        self._readable.register(self._connection.fileno(), select.POLLIN | select.POLLHUP)
        self._step_seconds = step_seconds
        self._limit = max(step_seconds, MAKE_SECONDS) if step_seconds else 0.0
        self._broken = False
        self.progress = Progress(len(factories))
        self._sent, self._place = time.monotonic(), self.progress.place

    def attach(self, shared: SharedSteps, num_envs: int, shares: Sequence[slice], index: int) -> None:
        """Have it write to shared memory; `receive` when it does."""
        self.send("attach", num_envs, shares, index)
        self.progress = shared.progress[index]
        with self._noticing_death():
            reduction.send_handle(self._connection, shared.handle, self._process.pid)

    def send(self, command: str, *arguments: Any) -> None:
        """Give it a command; `receive` tells if it is not there any more."""
        self._sent, self._place = time.monotonic(), self.progress.place
        with self._noticing_death():
            self._connection.send((command, arguments))

    def receive(self) -> Answer:
        """The answer to the oldest unanswered command.

        Raises:
            WorkerLost: It died or does not get on; it is killed then.
        """
        if self._broken:
            raise self._death()
        look = min(_LOOK_SECONDS, self._limit / 2) if self._limit else _LOOK_SECONDS
        while not self._readable.poll(1000 * look):
            if self._process.exitcode is not None and not self._readable.poll(0):
                raise self._death()
            now, place = time.monotonic(), self.progress.place
            if place != self._place:
                self._sent, self._place = now, place
            elif self._limit and now - self._sent > self._limit:
                self.kill()
                raise WorkerLost("timeout", f"no answer for {self._limit:g} s (env.step_timeout_seconds)")
        try:
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._limit = self._step_seconds
        if answer.error is not None:
            answer.error.__cause__ = RuntimeError(f"in an environment worker:\n{answer.text}")
        return answer

    def ask_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(("close", ()))

    def end(self, deadline: float) -> None:
        """Wait for its end until `deadline`, monotonic, and kill it if it is still there."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the process now; a second call does nothing."""
        self._broken = True
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    @contextlib.contextmanager
    def _noticing_death(self) -> Any:
        try:
            yield
        except OSError:
            self._broken = True

    def _death(self) -> WorkerLost:
        self._process.join(_CLOSE_SECONDS)
        self.kill()
        code = self._process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerLost("death", f"the environment's process {self._process.pid} died with {how}")


def end_all(workers: Sequence[Worker]) -> None:
    """End workers in an orderly way, and those that take too long by force."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + _CLOSE_SECONDS
    for worker in workers:
        worker.end(deadline)


def _work(connection: Connection, factories: Sequence[Callable[[], Env]], check_share: float, first_row: int) -> None:
    """The worker process: answer commands until told to close, or until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share = _Share(connection, factories, check_share, first_row)
    command, arguments = "make", ()
    while command != "close":
        try:
            answer = Answer(getattr(share, command)(*arguments), None, "", *share.report())
        except Exception as error:  # noqa: BLE001 (raised again in the process that sent the command)
            answer = Answer(None, _portable(error), traceback.format_exc(), *share.report())
        try:
            connection.send(answer)
            command, arguments = connection.recv()
        except (EOFError, OSError):
            break
    share.close()


class _Share:
    """What a worker does: each method is a command."""

    def __init__(
        self, connection: Connection, factories: Sequence[Callable[[], Env]], check_share: float, first_row: int
    ) -> None:
        self._connection = connection
        self._factories = factories
        self._check_share = check_share
        self._first_row = first_row
        self._made: SerialVectorEnv | None = None

    @property
    def _envs(self) -> SerialVectorEnv:
        assert self._made is not None, "made with the first command"
        return self._made

    def report(self) -> tuple[tuple[Fault, ...], Sequence[int]]:
        """Faults since the last report, and where there are some how often each environment was made again."""
        faults = () if self._made is None else tuple(self._made.take_faults())
        return faults, self._envs.remakes if faults else ()

    def make(self) -> EnvSpec:
        self._made = SerialVectorEnv(self._factories, self._check_share, self._first_row)
        return self._made.spec

    def attach(self, num_envs: int, shares: Sequence[slice], index: int) -> None:
        handle = reduction.recv_handle(self._connection)
        shared = SharedSteps(self._envs.spec, num_envs, shares, handle)
        os.close(handle)
        self._steps, self._actions = rows_of(shared.steps, shares[index]), shared.actions[shares[index]]
        self._envs.progress = shared.progress[index]

    def reset(
        self, seeds: Sequence[int], options: Mapping[str, Any] | None, remakes: Sequence[int] | None = None
    ) -> None:
        self._envs.begin(self._steps)
        self._envs.reset_into(self._steps, seeds, options, remakes)

    def origins(self) -> list[dict[str, Any]]:
        return self._envs.origins()

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> None:
        self._envs.begin(self._steps)
        self._envs.redo_into(self._steps, origins, actions)

    def step(self) -> None:
        self._envs.begin(self._steps)
        self._envs.step_into(self._steps, self._actions.copy())

    def render(self, index: int) -> NDArray[np.uint8]:
        return self._envs.render(index)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def _portable(error: Exception) -> Exception:
    """`error`, or its text if it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
