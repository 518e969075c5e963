"""A process that is forked off a node is not that node: it leads nothing, and lets go of what the node holds.

It must not keep the node's address from refusing when the node has died, nor its data directory locked. Its
copy of the database is never closed, because closing could roll back what the node is writing.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from electorate.runtime.host import Host

running: WeakSet[Host] = WeakSet()


def let_go() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for host in tuple(running):
        if host.node.leading:
            host.log.warning("process %d was forked off node %s: it does not lead", os.getpid(), host.id)
        host.stopping = True
        host.node.leading.clear()
        host.node.tenures.clear()
        for descriptor in host.descriptors():
            os.dup2(null, descriptor, inheritable=False)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(host.store.database))
    os.close(null)
    running.clear()


os.register_at_fork(after_in_child=let_go)
