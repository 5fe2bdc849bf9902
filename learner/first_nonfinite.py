"""Where the first tensor that is not finite comes from: in the state, or in an operation of an update.

An operation gives birth to such a tensor if all that it was given is finite. Operations are watched as torch dispatches
them, forward and backward, so nothing has to be known about the algorithm.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_NAME = "_name_in_algorithm"


@dataclass(frozen=True)
class Birth:
    """An operation whose inputs are finite and whose output is not."""

    phase: str  # "forward" or "backward"
    operation: str  # of torch, "aten.log"
    module: str  # the innermost module that was at work, "" outside modules and in a backward pass
    where: str  # file:line of the innermost call outside torch; in a backward pass, of the forward call
    value: str  # "nan", "inf" or "-inf", the first of them
    count: int  # of such entries
    shape: tuple[int, ...]  # of the output

    def __str__(self) -> str:
        inside = f" in {self.module}" if self.module else ""
        tensor = f"{self.count} of the entries of a tensor {list(self.shape)}"
        return f"{self.operation}{inside} ({self.phase}, {self.where}) makes {self.value} of {tensor}"


def nonfinite_tensors(state: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the tensors and numbers of a nest that are not finite."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from nonfinite_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from nonfinite_tensors(value, f"{name}.{index}")
    elif (isinstance(state, Tensor) and _is_bad(state)) or (isinstance(state, float) and state - state != 0.0):
        yield name


class Births(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects births while it is entered.

    Args:
        modules: Modules to name, by the names of their owner.
        most: How many to keep; later ones are not looked for.
    """

    def __init__(self, modules: Mapping[str, nn.Module], most: int = 5) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Birth] = []
        self._most = most
        self._inside: list[str] = []
        for prefix, module in modules.items():
            for name, part in module.named_modules(prefix=prefix):
                setattr(part, _NAME, name)  # an attribute, which copies of the module have too

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context, births are collected."""
        hooks = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        watched = len(self.found) < self._most and bool(inputs) and "empty" not in str(func)
        given = watched and func._schema.is_mutable and any(map(_is_bad, inputs))  # before they are written to
        result = func(*args, **kwargs)
        if watched and not given:
            bad = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and _is_bad(leaf)]
            if bad and (func._schema.is_mutable or not any(map(_is_bad, inputs))):
                self.found.append(self._birth(func, bad[0]))
        return result

    def _birth(self, func: Any, result: Tensor) -> Birth:
        wrong = result[~torch.isfinite(result)]
        backward = torch._C._current_graph_task_id() != -1
        return Birth(
            "backward" if backward else "forward",
            str(func.overloadpacket),
            "" if backward or not self._inside else self._inside[-1],
            _forward_call() if backward else _call(),
            str(float(wrong.flatten()[0])),
            wrong.numel(),
            tuple(result.shape),
        )

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._inside.append(getattr(module, _NAME, self._inside[-1] if self._inside else ""))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._inside.pop()


def find_births(update: Callable[[], Any], modules: Mapping[str, nn.Module]) -> tuple[list[Birth], str]:
    """Run an update with torch's anomaly detection.

    Args:
        update: What to run.
        modules: Modules to name.

    Returns:
        Births, the first one first; and what the anomaly detection said, "" for nothing.
    """
    births, said = Births(modules), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the anomaly detection prints a stack, of which births have what counts
        with births.watching(), torch.autograd.detect_anomaly(check_nan=True):
            try:
                update()
            except RuntimeError as error:
                if "returned nan values" not in str(error):
                    raise
                said = str(error).partition("\n")[0]
    return births.found, said


def modules_of(owner: Any) -> dict[str, nn.Module]:
    """The modules that are attributes of an object."""
    return {name.lstrip("_"): value for name, value in vars(owner).items() if isinstance(value, nn.Module)}


def _is_bad(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all())


def _call() -> str:
    """file:line function of the innermost frame outside torch and this file."""
    frame = sys._getframe(1)
    while frame is not None and _is_ours_or_torchs(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return "" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _forward_call() -> str:
    """The same of the forward call of the node that the backward pass is at, which the anomaly detection notes."""
    node = torch._C._current_autograd_node()
    metadata: Any = {} if node is None else node.metadata
    lines = metadata.get("traceback_", [])
    for line in reversed(lines):
        match = _FRAME.search(line)
        if match is not None and not _is_ours_or_torchs(match[1]):
            return _place(match[1], int(match[2]), match[3])
    return "" if node is None else str(node.name())


def _is_ours_or_torchs(file: str) -> bool:
    return file.startswith((_TORCH, "<")) or file == __file__


def _place(file: str, line: int, function: str) -> str:
    path = Path(file)
    root = Path(__file__).parents[1]
    return f"{path.relative_to(root) if path.is_relative_to(root) else path}:{line} {function}"
