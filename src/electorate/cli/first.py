"""Process 1 of a container: it reaps what it inherits, and lives as long as the guardian does.

When process 1 ends, everything in its container is killed. So the node must not be that: a node that dies
would take along the guardian that is to attest it. And whoever is process 1 inherits each process that has
lost its parent, and must reap it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
)
LINGER = 300.0
"""Seconds that process 1 waits at most for what the node leaves: a guardian attests for two leases."""


def leave_first() -> None:
    """If this is process 1, go on as its child. Process 1 itself does nothing but pass on signals and reap;
    it ends with the exit code of that child, when all have ended."""
    if os.getpid() != 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.fork()
    if child:
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: forward(child, number))
    else:
        os.setpgid(0, 0)  # what a terminal sends to all of a group is passed on once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if child:
        os._exit(reap(child))


def forward(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def reap(child: int) -> int:
    """Until all have ended. Returns the exit code of this one, 128 + n for signal n."""
    code, ended_at = 0, None
    while ended_at is None or time.monotonic() < ended_at + LINGER:
        try:
            pid, status = os.waitpid(-1, 0 if ended_at is None else os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            code, ended_at = os.waitstatus_to_exitcode(status), time.monotonic()
        elif not pid:
            time.sleep(0.02)
    return code if code >= 0 else 128 - code
