"""Runs targets and counts what they answer."""

from __future__ import annotations

import logging
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.targets import REFUSALS, Target, targets

SAMPLES = 3
"""Tracebacks kept of one place that fails."""


@dataclass
class Count:
    """The answers to the inputs of one kind."""

    accepted: int = 0
    refused: int = 0
    crashed: int = 0
    cpu_seconds: float = 0.0


@dataclass
class Result:
    """All answers, and what a crash looked like."""

    counts: dict[str, Count] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many there were."""
        return sum(count.accepted + count.refused + count.crashed for count in self.counts.values())


def fuzz(inputs: int, seed: int, only: str = "") -> Result:
    """Try random inputs; the same seed gives the same ones.

    Args:
        inputs: How many, over all kinds.
        seed: Of all randomness.
        only: Kinds whose name contains this.
    """
    result, places = Result(), Counter[str]()
    logging.disable(logging.WARNING)  # a warning is an answer
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen = [target for target in targets(Path(folder)) if only in target.name]
            total = sum(target.share for target in chosen)
            for target in chosen:
                number = max(1, inputs * target.share // total)
                result.counts[target.name] = _run(target, number, Random(f"{seed} {target.name}"), result, places)
    finally:
        logging.disable(logging.NOTSET)
    return result


def _run(target: Target, number: int, rng: Random, result: Result, places: Counter[str]) -> Count:
    count, start = Count(), time.process_time()
    for _ in range(number):
        try:
            target.attempt(rng)
            count.accepted += 1
        except REFUSALS as error:
            if str(error).strip():
                count.refused += 1
            else:
                _crash(error, target, count, result, places)
        except Exception as error:  # noqa: BLE001 - the point of it all
            _crash(error, target, count, result, places)
    count.cpu_seconds = time.process_time() - start
    return count


def _crash(error: Exception, target: Target, count: Count, result: Result, places: Counter[str]) -> None:
    count.crashed += 1
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{target.name}: {type(error).__name__} at {last.filename}:{last.lineno}"
    places[place] += 1
    if places[place] <= SAMPLES:
        result.crashes.append(f"{place}\n{''.join(traceback.format_exception(error)[-6:])}")
