"""What a process asks of the system for itself, and so for what it begins. Most of it Linux alone has."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def prctl(option: int, value: int) -> bool:
    """Linux alone has it."""
    return sys.platform == "linux" and not ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with(parent: int) -> None:
    """This process, just forked, is killed when its parent ends, however that is."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def renounce() -> bool:
    """From now on this thread gains no privileges by running a set-uid program, nor does what it begins."""
    return prctl(PR_SET_NO_NEW_PRIVS, 1)


def change_user(uid: int, gid: int, groups: list[int]) -> None:
    """This process, just forked, is that user's for good. Raises `OSError`."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def adopt_orphans() -> bool:
    """From now on a descendant whose parent dies becomes my child."""
    return prctl(PR_SET_CHILD_SUBREAPER, 1)
