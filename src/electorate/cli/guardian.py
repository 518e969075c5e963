"""The guardian of a command: a second process, which needs nothing but a deadline.

It is the parent of the command, and the dead man's switch: at the deadline, unless that was put off, nothing
of the command is left, whatever has become of `elect`. It also holds the node's listening socket and the lock
of its data directory. So the address refuses nobody before the command has ended, and a refusal is what the
other nodes take for proof of death.

    from elect      ["start", ARGUMENTS, ENVIRONMENT, DEADLINE], ["extend", DEADLINE], ["stop", SECONDS],
                    ["forward", SIGNAL]; its end means: kill, and exit
    to elect        ["gone", CODE]: nothing of the command is left; it ended with CODE, or by signal -CODE

Run as a program of its own, `python -I -S guardian.py CONTROL GRACE MARGIN FD...`, it must start fast and be
small: of ours it imports the clock alone, on which the deadlines are given.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

if __name__ == "__main__":  # a program of its own, which finds the clock by its place
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))  # noqa: PTH100 (pathlib is slow to import)

from electorate.runtime.clock import now

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NEVER = float("inf")
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals meant for `elect`, which may reach all processes of a terminal or a service."""


def prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere a descendant that leaves the command's group escapes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes my child."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The processes whose parent I am."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123 (pathlib is slow to import)
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return []


def destroy(group: int = 0) -> dict[int, int]:
    """Kill the group, and every child of mine, until there is none. Returns how each ended."""
    ended: dict[int, int] = {}
    while True:
        if group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


class Guardian:
    def __init__(self, control: int, grace: float, margin: float) -> None:
        self.control = socket.socket(fileno=control)
        self.grace = grace
        """So long before the deadline the command is told to stop (seconds)."""
        self.margin = margin
        """So long before the deadline it is killed."""
        self.pid = 0
        """The command, which leads a group of its own; 0 while there is none."""
        self.deadline = NEVER
        self.kill_at = NEVER
        """When its time to stop is over."""
        self.told = False
        self.unread = b""

    def run(self) -> NoReturn:
        """Until `elect` is gone, and then end at once: the others wait for that."""
        adopt_orphans()
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in OURS:
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        elect_lives = True
        while elect_lives:
            for descriptor, _ in poll.poll(self.patience()):
                if descriptor == read:
                    os.read(read, 4096)
                else:
                    elect_lives = self.listen()
            self.watch()
        if self.pid:
            destroy(self.pid)
        os._exit(0)

    def listen(self) -> bool:
        """Do what `elect` says. Returns False once it is gone."""
        try:
            data = self.control.recv(1 << 16)
        except ConnectionError:
            return False
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            verb, *arguments = json.loads(line)
            getattr(self, verb)(*arguments)
        return bool(data)

    def say(self, *words: object) -> None:
        with contextlib.suppress(ConnectionError):
            self.control.sendall(json.dumps(words).encode() + b"\n")

    # --- what elect says --------------------------------------------------------------------------

    def start(self, arguments: list[str], environment: dict[str, str], deadline: float) -> None:
        me = os.getpid()
        self.deadline, self.kill_at, self.told = deadline, NEVER, False
        self.pid = os.fork()
        if self.pid == 0:
            become(me, arguments, environment)
        with contextlib.suppress(PermissionError):  # it has done so itself
            os.setpgid(self.pid, self.pid)

    def extend(self, deadline: float) -> None:
        self.deadline = deadline

    def stop(self, seconds: float) -> None:
        """Tell the command to stop, and kill it if it has not after so many seconds."""
        if self.pid and not self.told:
            self.told = True
            self.forward(signal.SIGTERM)
            self.forward(signal.SIGCONT)
        self.kill_at = min(self.kill_at, now() + seconds)

    def forward(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    # --- what time says ---------------------------------------------------------------------------

    def patience(self) -> float | None:
        """Milliseconds until something is to be done; None if nothing is."""
        due = min(self.kill_at, self.deadline - (self.margin if self.told else self.grace))
        if not self.pid or due == NEVER:
            return None
        return max(0.0, 1000 * (due - now()))

    def watch(self) -> None:
        """End what must not go on, and notice what has ended."""
        at = now()
        if self.pid and at >= min(self.kill_at, self.deadline - self.margin):
            self.finish(destroy(self.pid))
        elif self.pid and at >= self.deadline - self.grace:
            self.stop(NEVER)
        self.reap()

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.pid:
                self.finish(destroy(pid) | {pid: os.waitstatus_to_exitcode(status)})

    def finish(self, ended: dict[int, int]) -> None:
        """Nothing is left of the command."""
        code, self.pid = ended.get(self.pid, -signal.SIGKILL), 0
        self.say("gone", code)


def become(guardian: int, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """This process, forked off the guardian, becomes the command; it dies with the guardian."""
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(0)
        signal.set_wakeup_fd(-1)
        for number in (*OURS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        os.write(2, f"elect: cannot run {arguments[0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)


def main(control: str, grace: str, margin: str, *held: str) -> None:
    for descriptor in (control, *held):
        os.set_inheritable(int(descriptor), False)
    Guardian(int(control), float(grace), float(margin)).run()


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main(*arguments)
