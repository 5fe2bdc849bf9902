"""Noticing from a thread of its own that an environment hangs that is stepped in this process."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from envs.frame_stack import FrameStackVectorEnv
from envs.progress import Progress
from envs.vector import SerialVectorEnv

_LOOK_SECONDS = 1.0


def watch(env: object, seconds: float, hung: Callable[[str], None]) -> None:
    """Call `hung`, once and from another thread, when one reset or step of an environment takes longer than it may.

    Nobody can take a call back that does not return: `hung` can only say so and end the process. A simulator that
    holds Python's interpreter lock while it hangs stops the watch too; only `SubprocessVectorEnv` ends that one.

    Args:
        env: The environments; those of other kinds than `SerialVectorEnv` are not watched.
        seconds: How long it may take, 0 for any time.
        hung: Takes one line.
    """
    if isinstance(env, FrameStackVectorEnv):
        env = env.env
    if isinstance(env, SerialVectorEnv) and seconds > 0:
        arguments = (weakref.ref(env), env.spec.name, env.progress, seconds, hung)
        threading.Thread(target=_look, args=arguments, name="environment watch", daemon=True).start()


def _look(
    env: weakref.ref[SerialVectorEnv], name: str, progress: Progress, seconds: float, hung: Callable[[str], None]
) -> None:
    place, since = progress.place, time.monotonic()
    while env() is not None:
        time.sleep(min(_LOOK_SECONDS, seconds / 4))
        now = time.monotonic()
        if progress.place != place or place[0] < 0:
            place, since = progress.place, now
        elif now - since > seconds:
            hung(
                f"environment {place[0]} of {name} has not come back from a reset or step for {seconds:g} s "
                "(env.step_timeout_seconds); env.mode=subprocess would replace its process"
            )
            return
