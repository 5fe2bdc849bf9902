"""DynamicBatcher: what is batched, and who gets which result or error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from actors.batching import DynamicBatcher


class Doubler:
    """Doubles integers; records its batches; refuses negative ones; waits for `gate`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, requests: list[int]) -> list[int]:
        self.gate.wait()
        self.batches.append(requests)
        if min(requests) < 0:
            raise ValueError(f"negative: {min(requests)}")
        return [2 * request for request in requests]


def make_batcher(function: Doubler, max_rows: int = 100, max_wait_ms: float = 20.0) -> DynamicBatcher[int, int]:
    return DynamicBatcher(function, lambda request: 1, max_rows, max_wait_ms)


def test_concurrent_requests_share_a_call_and_get_their_own_results() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function)
        assert await asyncio.gather(*(batcher.submit(i) for i in range(10))) == [2 * i for i in range(10)]
        metrics = batcher.metrics()
        assert metrics["batches"] == 1
        assert metrics["batch_rows"] == 10
        assert 10.0 < metrics["wait_ms"] < 2000.0
        assert batcher.metrics() == {"batches": 0.0, "batch_rows": 0.0, "wait_ms": 0.0}
        await batcher.close()

    asyncio.run(main())
    assert function.batches == [list(range(10))]


def test_a_full_batch_does_not_wait() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function, max_rows=4, max_wait_ms=60_000)
        await asyncio.wait_for(asyncio.gather(*(batcher.submit(i) for i in range(8))), 30)
        await batcher.close()

    asyncio.run(main())
    assert function.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_requests_that_arrive_during_a_call_form_the_next_batch() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function, max_wait_ms=0.0)
        function.gate.clear()
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.submit(i)) for i in (2, 3, 4)]
        await asyncio.sleep(0.05)
        function.gate.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
        await batcher.close()

    asyncio.run(main())
    assert function.batches == [[1], [2, 3, 4]]


def test_rows_are_counted_and_a_large_request_runs_alone() -> None:
    calls: list[list[str]] = []

    def measure(requests: list[str]) -> list[int]:
        calls.append(requests)
        return [len(request) for request in requests]

    async def main() -> None:
        batcher: DynamicBatcher[str, int] = DynamicBatcher(measure, len, max_rows=4, max_wait_ms=1.0)
        words = ["ab", "ab", "abcdefgh", "a"]
        assert await asyncio.gather(*(batcher.submit(word) for word in words)) == [2, 2, 8, 1]
        await batcher.close()

    asyncio.run(main())
    assert calls == [["ab", "ab"], ["abcdefgh"], ["a"]]


def test_an_error_reaches_its_own_caller_only() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function)
        results = await asyncio.gather(*(batcher.submit(i) for i in (1, -7, 3)), return_exceptions=True)
        assert results[0] == 2
        assert results[2] == 6
        assert isinstance(results[1], ValueError)
        assert str(results[1]) == "negative: -7"
        assert await batcher.submit(5) == 10  # it goes on
        with pytest.raises(ValueError, match="negative: -1"):
            await batcher.submit(-1)
        await batcher.close()

    asyncio.run(main())


def test_a_wrong_number_of_results_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        empty: Sequence[int] = []
        batcher: DynamicBatcher[int, int] = DynamicBatcher(lambda requests: empty, lambda request: 1, 4, 0.0)
        with pytest.raises(RuntimeError, match="1 requests got 0 results"):
            await asyncio.wait_for(batcher.submit(1), 30)
        await batcher.close()

    asyncio.run(main())


def test_a_caller_that_gives_up_is_left_out() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function, max_wait_ms=50.0)
        gone = asyncio.create_task(batcher.submit(-1))
        stays = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        assert await stays == 4
        await batcher.close()

    asyncio.run(main())
    assert function.batches == [[2]]


def test_closing_answers_what_was_submitted_and_refuses_more() -> None:
    function = Doubler()

    async def main() -> None:
        batcher = make_batcher(function, max_wait_ms=60_000)
        waiting = asyncio.create_task(batcher.submit(4))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(batcher.close(), 30)
        assert await waiting == 8
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit(1)

    asyncio.run(main())


@pytest.mark.parametrize(("max_rows", "max_wait_ms"), [(0, 1.0), (1, -1.0), (1, float("nan"))])
def test_refuses_bad_limits(max_rows: int, max_wait_ms: float) -> None:
    with pytest.raises(ValueError, match="max_"):
        make_batcher(Doubler(), max_rows, max_wait_ms)
