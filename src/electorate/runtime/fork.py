"""A process that is forked off a node is not that node: it leads nothing, and lets go of what the node holds.

It must not keep the node's address from refusing when the node has died, nor its data directory locked. Its
copy of the database is never closed, because closing could roll back what the node is writing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from electorate.runtime.host import Host

running: WeakSet[Host] = WeakSet()

heeded: WeakSet[Any] = WeakSet()
"""Who has set a handler for SIGTERM. In a child it would wake the loop of its parent: there the signal does
again what it did before."""

waiting = threading.local()
"""While a thread forks: the signals that it had blocked before SIGTERM has to wait."""


def hold_back() -> None:
    """A SIGTERM to the child must not come before the child has let go."""
    if heeded:
        waiting.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def take_up() -> None:
    blocked = waiting.__dict__.pop("blocked", None)
    if blocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def let_go() -> None:
    if heeded:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        heeded.clear()
    take_up()
    null = os.open(os.devnull, os.O_RDWR)
    for host in tuple(running):
        if host.node.leading:
            host.log.warning("process %d was forked off node %s: it does not lead", os.getpid(), host.id)
        host.stopping = host.forked = True
        host.node.leading.clear()
        host.node.tenures.clear()
        for descriptor in host.descriptors():
            os.dup2(null, descriptor, inheritable=False)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(host.store.database))
    os.close(null)
    running.clear()


os.register_at_fork(before=hold_back, after_in_parent=take_up, after_in_child=let_go)
