"""The table of remote calls: name, function and the form of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from envs.carla.standin.layouts import DONE, ok, refused

if TYPE_CHECKING:
    from envs.carla.standin.server import Server

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Call:
    """One remote call.

    Args:
        function: Takes the server and the arguments.
        form: "value", "void" or "bare" (without the envelope of a result).
    """

    function: Callable[..., Any]
    form: str

    def __call__(self, server: Server, arguments: list[Any]) -> Any:
        """The result as the wire has it; bad arguments are a refusal, not the end of the server."""
        try:
            value = self.function(server, *arguments)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            return refused(str(error), self.form == "void")
        if self.form == "void":
            return DONE
        return ok(value) if self.form == "value" else value


CALLS: dict[str, Call] = {}
"""By name; filled by the modules that define calls."""


def call(form: str = "value", name: str = "") -> Callable[[Function], Function]:
    """Enter a function into the table under its own or another name."""

    def enter(function: Function) -> Function:
        CALLS[name or function.__name__] = Call(function, form)
        return function

    return enter
