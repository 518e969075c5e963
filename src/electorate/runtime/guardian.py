"""The guardian of a node: a second process, which outlives the first, and needs nothing but a deadline.

It is the parent of the command of `elect run`, and the dead man's switch: at the deadline, unless that was
put off, nothing of the command is left, whatever has become of the node. It holds the node's listening socket
and the lock of its data directory. So the address refuses nobody, and no other process is this node, before
the command has ended. Once the node is gone, and its command with it, it lets go of the data directory and
tells whoever dials that this life has ended (`attestation`), until a new process of the node sends SIGUSR1,
or nobody needs to know any more.

    from the node   ["testimony", ...], ["start", ARGUMENTS, ENVIRONMENT, DEADLINE, SECONDS],
                    ["extend", DEADLINE], ["stop", SECONDS], ["forward", SIGNAL], ["end"]
    to the node     ["ready", HOW]: by what the command will be found; "" if by nothing
                    ["gone", CODE, TOLD]: nothing of the command is left; it ended with CODE, or by signal
                    -CODE; and whether it had been told to
                    ["resists", WHAT]: of the command this cannot be ended; repeated now and then

Run as a program of its own, `python -I -S guardian.py ORDERS`, it must start fast and be small: of ours it
imports only what needs nothing but the standard library.
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
import time
from typing import Any, NamedTuple, NoReturn

if __name__ == "__main__":  # a program of its own, which finds the others by its place
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))  # noqa: PTH100 (pathlib is slow to import)

from electorate.prctl import change_user, die_with, renounce
from electorate.runtime.attestation import Testimony, Witness, attest, complain
from electorate.runtime.clock import now
from electorate.runtime.tree import Tree, plea

CLOCK_BOOTTIME, TFD_TIMER_ABSTIME = 7, 1
NEVER = float("inf")
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals meant for the node, which may reach all processes of a terminal or a service."""
RELIEF = signal.SIGUSR1
POLL = 0.05
"""Seconds between two looks at whether the node lives, where the system does not tell."""


WORDS = {
    "testimony": len(Testimony._fields),
    "start": 4,
    "extend": 1,
    "stop": 1,
    "forward": 1,
    "end": 0,
}
"""What the node says, and with how many arguments. It may be of a later version, as installed packages can
change while it runs: more words and arguments are ignored, and a new one must be no more than a hint."""


class Orders(NamedTuple):
    """What a guardian is started with. Numbers of files, and seconds."""

    control: int
    node: int
    """The process."""
    listeners: list[int]
    store: int
    """The lock of the data directory; whoever holds it is the node."""
    lock: int
    """That of the guardian: it is told from any other by its number in this file."""
    seconds: float
    """For so long the end of the node is attested."""
    grace: float = 0.0
    """So long before the deadline a command is told to stop."""
    margin: float = 0.0
    """So long before the deadline it is killed."""
    cgroup: str = ""
    """Where a control group might be made."""
    user: tuple[int, int, list[int]] | None = None
    """Whose the command is, if not ours: the user, the group, and the other groups."""
    allow_setuid: bool = False
    """The command may gain privileges by a set-uid program; then it may be beyond our reach."""


class Alarm:
    """Wakes whoever polls it at a time of our clock, and at once if the machine has slept past that: the
    time-out of a `poll` does not count sleep."""

    def __init__(self) -> None:
        self.libc: Any = ctypes.CDLL(None)
        self.descriptor = -1
        """There is none where the system has no such thing."""
        self.due = NEVER
        if hasattr(self.libc, "timerfd_create"):
            self.descriptor = self.libc.timerfd_create(CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self, due: float) -> None:
        if self.descriptor < 0 or due == self.due:
            return
        self.due, seconds = due, 0.0
        if due < NEVER:
            seconds = max(time.clock_gettime(time.CLOCK_BOOTTIME) + due - now(), 1e-6)
        whole = int(seconds)
        spec = (ctypes.c_long * 4)(0, 0, whole, int((seconds - whole) * 1e9))
        self.libc.timerfd_settime(self.descriptor, TFD_TIMER_ABSTIME, spec, None)

    def clear(self) -> None:
        os.read(self.descriptor, 8)
        self.due = NEVER


class Guardian:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.control = socket.socket(fileno=orders.control)
        self.tree = Tree(orders.cgroup, self.resist)
        self.witness: Witness | None = None
        self.deadline = NEVER
        self.kill_at = NEVER
        """When the command's time to stop is over."""
        self.seconds = NEVER
        """How long that is, if the deadline comes near."""
        self.told = False
        self.unread = b""
        self.alarm = Alarm()
        self.poll = select.poll()

    def run(self) -> NoReturn:
        os.pwrite(self.orders.lock, b"%-20d" % os.getpid(), 0)
        how = self.tree.take_root()
        self.signalled, write = os.pipe()
        os.set_blocking(self.signalled, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (*OURS, RELIEF):
            signal.signal(number, signal.SIG_IGN)
        self.poll.register(self.signalled, select.POLLIN)
        self.poll.register(self.control, select.POLLIN)
        if self.alarm.descriptor >= 0:
            self.poll.register(self.alarm.descriptor, select.POLLIN)
        process = self.open_node()
        self.say("ready", how)
        self.guard(process)
        self.tree.destroy()
        self.tree.uproot()
        self.outlive(process)
        self.testify()

    def open_node(self) -> int | None:
        """A file that can be read once the node is gone; None where there is no such file, or no node."""
        with contextlib.suppress(AttributeError, OSError):
            process = os.pidfd_open(self.orders.node)
            if os.getppid() == self.orders.node:
                self.poll.register(process, select.POLLIN)
                return process
            os.close(process)
        return None

    def guard(self, process: int | None) -> None:
        """Until the node is gone, or has let go of us."""
        while True:
            for descriptor, _ in self.poll.poll(self.patience()):
                if descriptor == self.signalled:
                    os.read(self.signalled, 4096)
                elif descriptor == self.alarm.descriptor:
                    self.alarm.clear()
                elif descriptor == process or not self.listen():
                    return
            self.watch()

    def outlive(self, process: int | None) -> None:
        """Until the node's process is gone: what is to be attested is that, and no less."""
        if process is not None:
            select.select([process], [], [])
        while os.getppid() == self.orders.node:
            time.sleep(POLL)

    def testify(self) -> NoReturn:
        """The node is gone, and its command with it. Nothing here keeps others waiting for the end of a pipe,
        or a file system from being unmounted."""
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(null, stream)
        os.chdir("/")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(BlockingIOError):
            os.read(self.signalled, 4096)
        signal.signal(RELIEF, lambda number, frame: None)
        os.close(self.orders.store)
        if self.witness and self.orders.seconds > 0:
            listeners = [socket.socket(fileno=listener) for listener in self.orders.listeners]
            attest(listeners, self.witness, self.signalled, self.orders.seconds)
        os._exit(0)

    def listen(self) -> bool:
        """Do what the node says. Returns False once it is gone."""
        try:
            data = self.control.recv(1 << 16)
        except ConnectionError:
            return False
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            verb, *arguments = json.loads(line)
            if verb in WORDS:
                getattr(self, verb)(*arguments[: WORDS[verb]])
        return bool(data)

    def say(self, *words: object) -> bool:
        """Returns False if there is no node to hear it."""
        try:
            self.control.sendall(json.dumps(words).encode() + b"\n")
        except ConnectionError:
            return False
        return True

    def resist(self, left: str) -> None:
        """That is still there. Nothing is let go of, and nothing is attested, before it is gone."""
        if not self.say("resists", left):
            complain(plea(left))

    # --- what the node says -----------------------------------------------------------------------

    def testimony(self, *said: Any) -> None:
        """What is to be attested; if that cannot be, what was to be before."""
        try:
            self.witness = Witness(Testimony(*said))
        except (OSError, ValueError) as error:
            complain(f"the end of this node cannot be attested: {error}")

    def start(
        self, arguments: list[str], environment: dict[str, str], deadline: float, seconds: float
    ) -> None:
        me = os.getpid()
        self.deadline, self.kill_at, self.told = deadline, NEVER, False
        self.seconds = seconds
        self.tree.group = os.fork()
        if self.tree.group == 0:
            become(me, self.tree, self.orders, arguments, environment)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it has done so itself
            os.setpgid(self.tree.group, self.tree.group)

    def extend(self, deadline: float) -> None:
        self.deadline = deadline

    def stop(self, seconds: float) -> None:
        """Tell the command to stop, and kill it if it has not after so many seconds."""
        if self.tree.group and not self.told:
            self.told = True
            self.forward(signal.SIGTERM)
            self.forward(signal.SIGCONT)
        self.kill_at = min(self.kill_at, now() + seconds)

    def forward(self, number: int) -> None:
        if self.tree.group:
            try:
                os.killpg(self.tree.group, number)
            except ProcessLookupError:
                pass
            except OSError as error:
                complain(f"the command cannot be sent {signal.Signals(number).name}: {error.strerror}")

    def end(self) -> None:
        """The node has resigned, and needs nobody."""
        self.tree.destroy()
        self.tree.uproot()
        os._exit(0)

    # --- what time says ---------------------------------------------------------------------------

    def patience(self) -> float | None:
        """Milliseconds until something is to be done; None if nothing is."""
        due = min(self.kill_at, self.deadline - (self.orders.margin if self.told else self.orders.grace))
        due = due if self.tree.group else NEVER
        self.alarm.set(due)
        return None if due == NEVER else max(0.0, 1000 * (due - now()))

    def watch(self) -> None:
        """End what must not go on, and notice what has ended."""
        at = now()
        if self.tree.group and at >= min(self.kill_at, self.deadline - self.orders.margin):
            self.told = True
            self.finish()
        elif self.tree.group and not self.told and at >= self.deadline - self.orders.grace:
            self.stop(self.seconds)
        self.tree.reap()
        if self.tree.group in self.tree.ended:
            self.finish()
        self.tree.ended.clear()

    def finish(self) -> None:
        """End whatever there is of the command."""
        self.tree.destroy()
        code = self.tree.ended.get(self.tree.group, -signal.SIGKILL)
        self.tree.group = 0
        self.say("gone", code, self.told)


def become(
    guardian: int, tree: Tree, orders: Orders, arguments: list[str], environment: dict[str, str]
) -> NoReturn:
    """This process, forked off the guardian, becomes the command; it dies with the guardian."""
    try:
        os.setpgid(0, 0)
        tree.enter()
        if orders.user:
            change_user(*orders.user)
        if not orders.allow_setuid:
            renounce()
        die_with(guardian)  # a change of user forgets that
        signal.set_wakeup_fd(-1)
        for number in (*OURS, RELIEF, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        os.write(2, f"elect: cannot run {arguments[0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)


def main(said: str) -> None:
    given = json.loads(said)
    orders = Orders(**{name: given[name] for name in Orders._fields if name in given})
    for descriptor in (orders.control, *orders.listeners, orders.store, orders.lock):
        os.set_inheritable(descriptor, False)
    Guardian(orders).run()


if __name__ == "__main__":
    main(sys.argv[1])
