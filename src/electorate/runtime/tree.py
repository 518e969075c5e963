"""All that a command has begun, wherever it went: how it is found, and ended.

A process may leave its group, its session and its parent. Two things find it all the same. A control group
(cgroup v2) holds all that descends from those who entered it, and its `cgroup.kill` ends them at once. And
whoever adopts orphans becomes the parent of each descendant that has lost its own; that takes a /proc which
tells who one's children are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.05
"""Seconds between two looks at whether all have ended, at first and at most."""


def prctl(option: int, value: int) -> bool:
    """Linux alone has it."""
    return sys.platform == "linux" and not ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> bool:
    """From now on a descendant whose parent dies becomes my child. Returns whether that, too, can be seen."""
    return prctl(PR_SET_CHILD_SUBREAPER, 1) and children() is not None


def children() -> list[int] | None:
    """The processes whose parent I am; None if nobody tells."""
    me = os.getpid()
    try:
        if os.readlink("/proc/self") != str(me):  # noqa: PTH115 (pathlib is slow to import)
            return None  # that of another namespace, where numbers mean others
        with open(f"/proc/self/task/{me}/children") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return None


def own_cgroup() -> str | None:
    """The directory of the control group that this process is in."""
    try:
        with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as groups:  # noqa: PTH123
            rows = [line.partition(" - ")[::2] for line in mounts]
            [top] = [row.split()[4] for row, what in rows if what.split()[0] == "cgroup2"][:1]
            [inside] = [line[3:].strip() for line in groups if line.startswith("0::")]
    except (OSError, ValueError):
        return None
    return top + inside


class Tree:
    """What has been begun by one command after the other."""

    def __init__(self, cgroup: str = "") -> None:
        self.cgroup = cgroup
        """The directory of a control group of its own; "" if there is none."""
        self.group = 0
        """The command, which leads a process group; 0 while there is none."""
        self.ended: dict[int, int] = {}
        """Those that were reaped: process and exit code, or -n for signal n."""

    # --- the control group ------------------------------------------------------------------------

    def plant(self) -> bool:
        """Make the control group; what an earlier one of this name still holds is ended. Returns whether
        that can be had here."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.cgroup)  # noqa: PTH102
            self.write("cgroup.kill")
        except OSError:
            self.uproot()
            return False
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                self.enter()
                os._exit(0)
            os._exit(1)
        entered = os.waitpid(pid, 0)[1] == 0
        if not entered:
            self.uproot()
        return entered

    def enter(self) -> None:
        """This process, and all that it will begin, belong to it. Raises `OSError`."""
        if self.cgroup:
            self.write("cgroup.procs", "0")

    def uproot(self) -> None:
        """It is used no more."""
        if self.cgroup:
            with contextlib.suppress(OSError):
                os.rmdir(self.cgroup)  # noqa: PTH106
        self.cgroup = ""

    def write(self, name: str, value: str = "1") -> None:
        descriptor = os.open(f"{self.cgroup}/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    @property
    def populated(self) -> bool:
        if not self.cgroup:
            return False
        try:
            with open(f"{self.cgroup}/cgroup.events") as file:  # noqa: PTH123
                return "populated 1" in file.read()
        except OSError:
            return False

    # --- the end ----------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Until nothing is left."""
        pause = FIRST_PAUSE
        while not self.strike():
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def strike(self) -> bool:
        """Kill all that is there, and each child of mine. Returns whether nothing is left."""
        if self.group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)
        if self.cgroup:
            with contextlib.suppress(FileNotFoundError):
                self.write("cgroup.kill")
        mine = children()
        for pid in mine or ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        populated = self.populated
        return (self.reap() or mine is None) and not populated

    def reap(self) -> bool:
        """Note who has ended. Returns whether I have no child any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return False
            self.ended[pid] = os.waitstatus_to_exitcode(status)
