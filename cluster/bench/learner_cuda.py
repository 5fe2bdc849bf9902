"""Updates of DreamerV3 on a GPU: time, memory and how much of the arithmetic it could do is used."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from cluster.bench.learner_data import Workload, make_algorithm, make_batch
from cluster.bench.row import BenchRow
from learner.learner_config import Precision
from learner.models.sizes import SizeName

SIZES: tuple[SizeName, ...] = ("1m", "12m", "50m", "200m")
MODES: tuple[tuple[Precision, bool], ...] = (("bf16", False), ("bf16", True), ("fp32", False))
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "4090": 165.0}
"""Dense bf16 matrix products of a GPU by a part of its name, 10^12 / s, from the makers' data sheets."""

logger = logging.getLogger(__name__)


def cuda_rows(rounds: int) -> Iterator[BenchRow]:
    """Milliseconds, transitions/s, memory and model FLOP utilisation of every size, on vectors and pooled images."""
    for size in SIZES:
        for image in (False, True):
            work = Workload(f"{'image' if image else 'vector'} {size}", image=image, size=size)
            flop = model_flop(work)
            for precision, compiled in MODES:
                try:
                    yield from _measure(work, precision, compiled, rounds, flop)
                except torch.cuda.OutOfMemoryError as error:
                    logger.warning("%s, %s skipped: %s", work.name, precision, str(error).splitlines()[0])
                torch.cuda.empty_cache()


def model_flop(work: Workload, device: torch.device | None = None) -> float:
    """Floating-point operations of the matrix products and convolutions of one update, counted as it runs."""
    algorithm, batch = make_algorithm(work, device or torch.device("cuda")), make_batch(work)
    with FlopCounterMode(display=False) as counter:
        algorithm.update(batch)
    return float(counter.get_total_flops())


def _measure(work: Workload, precision: Precision, compiled: bool, rounds: int, flop: float) -> Iterator[BenchRow]:
    device = torch.device("cuda")
    algorithm, batch = make_algorithm(work, device, precision, compiled), make_batch(work)
    for _ in range(5):
        algorithm.update(batch)
    torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(max(rounds, 10)):
        start = perf_counter()
        algorithm.update(batch)  # reads the losses, so it is over when it returns
        times.append(perf_counter() - start)
    mode = f"{torch.cuda.get_device_name(device)}, {work.name}, {precision}{', compiled' if compiled else ''}"
    best = min(times)
    yield BenchRow("learner", f"{mode}: minimum", 1e3 * best, "ms")
    yield BenchRow("learner", f"{mode}: median", 1e3 * statistics.median(times), "ms")
    yield BenchRow("learner", f"{mode}: speed", work.transitions / best, "transitions/s")
    yield BenchRow("learner", f"{mode}: peak memory", torch.cuda.max_memory_allocated(device) / 1e6, "MB")
    peak = next((value for part, value in PEAK_TFLOPS.items() if part in torch.cuda.get_device_name(device)), None)
    if peak is not None and precision == "bf16":
        yield BenchRow("learner", f"{mode}: model FLOP utilisation", 100.0 * flop / best / (1e12 * peak), "%")
