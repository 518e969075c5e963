"""All that a command has begun, wherever it went: how it is found, and ended.

A process may leave its group, its session and its parent. Two things find it all the same. A control group
(cgroup v2) holds all that descends from those who entered it, and its `cgroup.kill` ends them at once. And
whoever adopts orphans becomes the parent of each descendant that has lost its own; that takes a /proc which
tells who one's children are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

from electorate.prctl import adopt_orphans
from electorate.runtime.clock import now

FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 1.0
"""Seconds between two looks at whether all have ended, at first and at most: a tenth of what it has taken."""
SOON, OFTEN = 0.5, 60.0
"""Seconds after which it is told that something does not end, and between two such words at most."""
GROUPS = re.compile(r"electorate-\d+-\d+")
"""The names of control groups that are ours."""


def own_cgroup() -> str | None:
    """The directory of the control group that this process is in."""
    try:
        with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as groups:  # noqa: PTH123
            rows = [line.partition(" - ")[::2] for line in mounts]
            [top] = [row.split()[4] for row, what in rows if what.split()[0] == "cgroup2"][:1]
            [inside] = [line[3:].strip() for line in groups if line.startswith("0::")]
    except (OSError, ValueError):
        return None
    return (top + inside).rstrip("/")


def plea(left: str) -> str:
    """What is to be said while something of a command cannot be ended."""
    return (
        f"the command cannot be ended: {left}; this node keeps its port and its data directory until that is"
        " gone: end it, as root if need be"
    )


class Tree:
    """What has been begun by one command after the other. What tells of it, and ends it, is opened before the
    first one: later, nothing may be left to open a file with."""

    def __init__(self, cgroup: str = "", complain: Callable[[str], object] = lambda left: None) -> None:
        self.cgroup = cgroup
        """The directory of a control group of its own; "" if there is none."""
        self.complain = complain
        """Is told, now and then, what does not end."""
        self.listing = self.kill = self.events = -1
        """Files: my children, and two of the control group."""
        self.held = -1
        """The directory of the control group, locked: it is in use."""
        self.refused: dict[int, str] = {}
        """The children that could not be killed the last time, and why."""
        self.group = 0
        """The command, which leads a process group; 0 while there is none."""
        self.ended: dict[int, int] = {}
        """Those that were reaped: process and exit code, or -n for signal n."""

    def take_root(self) -> str:
        """Begin to adopt. Returns by what all will be found: "cgroup", "children", or "" if by nothing."""
        seen = adopt_orphans() and self.see_children()
        if self.cgroup and self.plant():
            return "cgroup"
        return "children" if seen else ""

    def see_children(self) -> bool:
        """Whether somebody tells who my children are."""
        me = os.getpid()
        try:
            if os.readlink("/proc/self") != str(me):  # noqa: PTH115 (pathlib is slow to import)
                return False  # that of another namespace, where numbers mean others
            if self.listing < 0:
                self.listing = os.open(f"/proc/self/task/{me}/children", os.O_RDONLY)
        except OSError:
            return False
        return True

    # --- the control group ------------------------------------------------------------------------

    def plant(self) -> bool:
        """Make the control group; what an earlier one of this name still holds is ended. Returns whether
        that can be had here."""
        try:
            self.hold()
            self.grasp()
            os.write(self.kill, b"1")
        except OSError:
            self.uproot()
            return False
        self.sweep()
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

    def hold(self) -> None:
        """Make it mine, which nobody sweeps away though it is empty. Raises `OSError`."""
        while self.held < 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.cgroup)  # noqa: PTH102
            with contextlib.suppress(FileNotFoundError):
                self.held = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self.held, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(self.held), os.stat(self.cgroup)):  # noqa: PTH116
                    return
            if self.held >= 0:
                os.close(self.held)
            self.held = -1

    def sweep(self) -> None:
        """Remove the empty ones beside it that nobody holds: their nodes and guardians were killed."""
        parent = os.path.dirname(self.cgroup)  # noqa: PTH120
        for name in filter(GROUPS.fullmatch, os.listdir(parent)):  # noqa: PTH208
            with contextlib.suppress(OSError):
                descriptor = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.rmdir(f"{parent}/{name}")  # noqa: PTH106
                finally:
                    os.close(descriptor)

    def grasp(self) -> None:
        """Open what ends it. Raises `OSError`."""
        self.let_go()
        self.kill = os.open(f"{self.cgroup}/cgroup.kill", os.O_WRONLY)
        self.events = os.open(f"{self.cgroup}/cgroup.events", os.O_RDONLY)

    def let_go(self) -> None:
        for descriptor in (self.kill, self.events):
            if descriptor >= 0:
                os.close(descriptor)
        self.kill = self.events = -1

    def enter(self) -> None:
        """This process, and all that it will begin, belong to it. Raises `OSError`."""
        if self.cgroup:
            descriptor = os.open(f"{self.cgroup}/cgroup.procs", os.O_WRONLY)
            try:
                os.write(descriptor, b"0")
            finally:
                os.close(descriptor)

    def uproot(self) -> None:
        """It is used no more."""
        self.let_go()
        if self.cgroup:
            with contextlib.suppress(OSError):
                os.rmdir(self.cgroup)  # noqa: PTH106
        if self.held >= 0:
            os.close(self.held)
        self.cgroup, self.held = "", -1

    @property
    def populated(self) -> bool:
        """Whether somebody is in it, as far as I know."""
        if self.events < 0:
            return False
        try:
            return b"populated 1" in os.pread(self.events, 4096, 0)
        except OSError as error:
            return error.errno != errno.ENODEV

    # --- the end ----------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Until nothing is left."""
        for pause in self.efforts():
            time.sleep(pause)

    def efforts(self) -> Iterator[float]:
        """Strike until nothing is left. Yields for how many seconds to wait before the next time, and tells
        what does not end: at once if it cannot be killed, and less and less often."""
        begun = now()
        told = 0.0
        while not self.strike():
            taken = now() - begun
            if (self.refused and self.kill < 0 and not told) or taken >= max(
                SOON, min(2 * told, told + OFTEN)
            ):
                told = max(taken, SOON)
                self.complain(self.left())
            yield max(FIRST_PAUSE, min(taken / 10, LONGEST_PAUSE))

    def strike(self) -> bool:
        """Kill all that is there, and each child of mine. Returns whether nothing is left: who cannot be seen
        now may be there."""
        self.refused.clear()
        if self.group:
            with contextlib.suppress(OSError):  # the children tell
                os.killpg(self.group, signal.SIGKILL)
        if self.kill >= 0:
            with contextlib.suppress(OSError):  # whoever is left is waited for
                os.write(self.kill, b"1")
        for pid in self.children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except OSError as error:
                self.refused[pid] = os.strerror(error.errno or 0)
        populated = self.populated
        gone = self.reap() and not populated
        for pid in self.ended:
            self.refused.pop(pid, None)
        return gone

    def left(self) -> str:
        """What still is there, as far as I can see, and why."""
        seen = [f"process {pid} ({self.refused.get(pid, 'killed, not gone')})" for pid in self.children()]
        return ", ".join(seen[:4]) or "processes that are no children of its guardian"

    def children(self) -> list[int]:
        """Those of mine that can be seen."""
        try:
            return [int(pid) for pid in os.pread(self.listing, 1 << 16, 0).split()]
        except OSError:
            return []

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
