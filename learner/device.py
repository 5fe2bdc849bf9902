"""Where and how precisely to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]


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


def to_device(array: NDArray[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of `array`; the copy to a CUDA device goes through pinned memory and does not block."""
    tensor = torch.from_numpy(array).to(dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
