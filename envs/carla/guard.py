"""Runs a server and ends it, with all that it started, when whoever asked for it is gone.

Run as a file of its own, in a session of its own: `python guard.py COMMAND ...`. When its standard input closes, which
the death of the process at the other end does too, it kills the server's process group, a stopped one as well, and
collects what is left of it. Should the guard itself be killed, the server's first process dies with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Guard until the command ends or the input closes."""
    libc = ctypes.CDLL(None)
    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # there is one thread
    )
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if ended in ready or not os.read(0, 4096):
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
