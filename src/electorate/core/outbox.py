"""Performs effects in their order; what is sent after a `Save` waits until the save is durable.

This is the one interpreter of effects: the simulator and the runtime implement the five calls of
`Host`, and whatever is tested in the one holds in the other. Saves that gather while a commit is
under way are committed together, so durable writes cost one commit per batch.

Beat, Support and Resign pass at once. They rest on no promise that a store keeps (support is a
promise in time, guarded by the wait after a restart; a resignation takes nothing back), so a slow
disk delays neither a living leader's lease nor the end of a leadership.

What waits already is not queued again: however long a disk stalls, and however often a node repeats itself
meanwhile, the queue does not grow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from electorate.core.model import (
    Arm,
    Beat,
    Disarm,
    Effect,
    Message,
    NodeId,
    Promise,
    Resign,
    Save,
    Send,
    Support,
    Timer,
    View,
)

UNBOUND = frozenset({Beat, Support, Resign})


class Host(Protocol):
    """What a driver does for a machine. Each call returns at once and never raises."""

    def transmit(self, to: NodeId, message: Message) -> None: ...
    def arm(self, timer: Timer, low: float, high: float) -> None: ...
    def disarm(self, timer: Timer) -> None: ...
    def announce(self, view: View) -> None: ...
    def save(self, promises: list[Promise]) -> None:
        """Begin to make these durable; call `Outbox.saved` when they are."""


class Outbox:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.queue: OrderedDict[Save | Send, None] = OrderedDict()
        self.committing = 0

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if self.queue and type(effect.message) not in UNBOUND:
                    self.queue[effect] = None
                else:
                    self.host.transmit(effect.to, effect.message)
            elif isinstance(effect, Arm):
                self.host.arm(effect.timer, effect.low, effect.high)
            elif isinstance(effect, Save):
                self.queue[effect] = None
            elif isinstance(effect, Disarm):
                self.host.disarm(effect.timer)
            else:
                self.host.announce(effect.view)
        if self.queue and not self.committing:
            self._commit()

    def saved(self) -> None:
        """The commit under way is durable: let go what waited for it, then commit what came since."""
        queue = self.queue
        while queue:
            effect = next(iter(queue))
            if isinstance(effect, Save):
                if not self.committing:
                    break
                self.committing -= 1
                del queue[effect]
            else:
                del queue[effect]
                self.host.transmit(effect.to, effect.message)
        if queue:
            self._commit()

    def _commit(self) -> None:
        promises = [effect.promise for effect in self.queue if isinstance(effect, Save)]
        self.committing = len(promises)
        self.host.save(promises)
