"""Dynamic batching: requests of many callers become one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass
class _Entry(Generic[Request, Result]):
    request: Request
    rows: int
    future: asyncio.Future[Result]
    arrival: float


class DynamicBatcher(Generic[Request, Result]):
    """Collects requests until a batch is full or its first request has waited long enough, then runs them as one.

    One batch runs at a time, in a thread of its own; requests that arrive meanwhile form the next batch. If a batch
    fails, its requests are run one by one, so that only the callers of bad requests see an error.

    Use it from one event loop.

    Args:
        function: Results of some requests, in order. Blocking; called in a thread.
        rows: Rows of a request, at least 1.
        max_rows: Rows of a batch; a larger request runs alone.
        max_wait_ms: How long the first request of a batch waits for others.

    Raises:
        ValueError: max_rows is below 1 or max_wait_ms negative.
    """

    def __init__(
        self,
        function: Callable[[list[Request]], Sequence[Result]],
        rows: Callable[[Request], int],
        max_rows: int,
        max_wait_ms: float,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}")
        if not max_wait_ms >= 0.0:
            raise ValueError(f"max_wait_ms must not be negative, not {max_wait_ms}")
        self._function = function
        self._rows = rows
        self._max_rows = max_rows
        self._max_wait = 1e-3 * max_wait_ms
        self._pending: deque[_Entry[Request, Result]] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, "batcher")
        self._server: asyncio.Task[None] | None = None
        self._closed = False
        self._batches, self._batch_rows, self._requests, self._waited = 0, 0, 0, 0.0

    async def submit(self, request: Request) -> Result:
        """The result of `request`.

        Raises:
            RuntimeError: The batcher is closed.
            Exception: What the function raised for this request.
        """
        if self._closed:
            raise RuntimeError("the batcher is closed")
        if self._server is None:
            self._server = asyncio.create_task(self._serve())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append(_Entry(request, self._rows(request), future, perf_counter()))
        self._arrived.set()
        return await future

    def metrics(self) -> dict[str, float]:
        """Since the last call: batches, mean rows of a batch (batch_rows), mean wait of a request (wait_ms)."""
        result = {
            "batches": float(self._batches),
            "batch_rows": self._batch_rows / max(1, self._batches),
            "wait_ms": 1e3 * self._waited / max(1, self._requests),
        }
        self._batches, self._batch_rows, self._requests, self._waited = 0, 0, 0, 0.0
        return result

    async def close(self) -> None:
        """Answers what has been submitted, then stops."""
        self._closed = True
        self._arrived.set()
        if self._server is not None:
            await self._server
        self._executor.shutdown()

    async def _serve(self) -> None:
        while True:
            if not self._pending:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._wait_for_more()
            entries = self._take()
            if entries:
                await self._answer(entries)

    async def _wait_for_more(self) -> None:
        deadline = self._pending[0].arrival + self._max_wait
        while not self._closed and sum(entry.rows for entry in self._pending) < self._max_rows:
            remaining = deadline - perf_counter()
            if remaining <= 0.0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), remaining)
            except TimeoutError:
                return

    def _take(self) -> list[_Entry[Request, Result]]:
        """The next batch: the oldest requests that fit, without those whose callers have gone."""
        entries: list[_Entry[Request, Result]] = []
        rows = 0
        while self._pending and (not entries or rows + self._pending[0].rows <= self._max_rows):
            entry = self._pending.popleft()
            if not entry.future.done():
                entries.append(entry)
                rows += entry.rows
        return entries

    async def _answer(self, entries: list[_Entry[Request, Result]]) -> None:
        now = perf_counter()
        self._batches += 1
        self._batch_rows += sum(entry.rows for entry in entries)
        self._requests += len(entries)
        self._waited += sum(now - entry.arrival for entry in entries)
        error = await self._run(entries)
        if error is None:
            return
        if len(entries) == 1:
            _fail(entries[0], error)
            return
        for entry in entries:
            error = await self._run([entry])
            if error is not None:
                _fail(entry, error)

    async def _run(self, entries: list[_Entry[Request, Result]]) -> BaseException | None:
        """Runs the function and delivers its results; its exception if it raised one."""
        requests = [entry.request for entry in entries]
        future = asyncio.wrap_future(self._executor.submit(self._call, requests))
        await asyncio.wait([future])
        error = future.exception()
        if error is None:
            for entry, result in zip(entries, future.result(), strict=True):
                if not entry.future.done():
                    entry.future.set_result(result)
        return error

    def _call(self, requests: list[Request]) -> list[Result]:
        results = list(self._function(requests))
        if len(results) != len(requests):
            raise RuntimeError(f"{len(requests)} requests got {len(results)} results")
        return results


def _fail(entry: _Entry[Request, Result], error: BaseException) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
