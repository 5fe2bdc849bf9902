"""Runs a server and ends it, with all that it started, when whoever asked for it is gone.

Run as a file of its own, in a session of its own: `python guard.py COMMAND ...`. When its standard input closes, which
the death of the process at the other end does too, it kills its process group. A stopped server dies as well.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys


def main() -> None:
    """Guard until the command ends or the input closes."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if ended in ready:
            code = child.wait()
            _end_group(code if code >= 0 else 128 - code)
        if 0 in ready and not os.read(0, 4096):
            _end_group(0)


def _end_group(code: int) -> None:
    """Kill what is left of the group, this process last."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    sys.exit(code)


if __name__ == "__main__":
    main()
