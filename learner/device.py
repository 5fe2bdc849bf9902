"""Where and how precisely to compute, and the arrays of a batch there.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import SequenceBatch
from learner.learner_config import DeviceName, Precision

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def resolve_device(name: DeviceName) -> torch.device:
    """The torch device; "auto" is CUDA when there is one.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device is 'cuda' but torch finds no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Context of a forward pass: bfloat16 matrix products under "bf16", nothing under "fp32"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def keep_freed_memory() -> None:
    """Let the C library keep what tensors give back, for the rest of the process; nothing without glibc.

    By default glibc returns large blocks to the kernel, and the next tensor pays a page fault for every 4 KiB: that is
    a seventh of an update on vectors and almost half of one on images. The process stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Within the context, float32 matrix products on a CPU come from oneDNN where that costs no precision.

    torch leaves them to MKL, which takes twice as long on CPUs of other makers than its own. It takes oneDNN if it may
    round their factors to bfloat16; on CPUs without matrix units oneDNN has no use for that and multiplies in full.
    """
    if device.type != "cpu" or not _onednn_is_exact():
        yield
        return
    with _rounding_allowed():
        yield


@contextmanager
def _rounding_allowed() -> Iterator[None]:
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN keeps the digits that bfloat16 would lose although it may drop them."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.enabled:
        return False
    factor, ones = torch.full((1024, 512), 1.0 + 2.0**-10), torch.ones(1024, 512)
    with torch.no_grad(), _rounding_allowed():
        products = factor @ ones[:512], factor.T @ ones, factor.view(8, 128, 512) @ ones[:512].expand(8, -1, -1)
    sums = 512.5, 1025.0, 512.5  # of 512 or 1024 factors; 512 and 1024 where they are rounded
    return all(bool((product == value).all()) for product, value in zip(products, sums, strict=True))


def to_device(array: NDArray[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of `array`; the copy to a CUDA device goes through pinned memory and does not block."""
    tensor = torch.from_numpy(array).to(dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


@dataclass(frozen=True)
class DeviceBatch(SequenceBatch):
    """A batch whose `data` is on the learner's device too."""

    tensors: dict[str, Tensor] = field(default_factory=dict)  # key -> [B, T, ...] on the device, same width as `data`


def batch_tensors(batch: SequenceBatch, device: torch.device) -> dict[str, Tensor]:
    """The `data` of a batch as tensors [B, T, ...] on a device; copied unless a prefetcher has already done so."""
    if isinstance(batch, DeviceBatch) and all(_is_on(tensor, device) for tensor in batch.tensors.values()):
        return batch.tensors
    return {key: to_device(value, device, torch_dtype(value.dtype)) for key, value in batch.data.items()}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch type of NumPy's."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
