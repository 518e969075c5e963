"""Performs effects in their order; what is sent after a `Save` waits until the save is durable.

This is the one interpreter of effects: the simulator and the runtime implement the five calls of
`Host`, and whatever is tested in the one holds in the other. Saves that gather while a commit is
under way are committed together, so durable writes cost one commit per batch.

Beat, Support and Resign pass at once. They rest on no promise that a store keeps (support is a
promise in time, guarded by the wait after a restart; a resignation takes nothing back), so a slow
disk delays neither a living leader's lease nor the end of a leadership.

What waits already is not queued again: however long a disk stalls, and however often a node repeats itself
meanwhile, the queue does not grow. But of all that a node says to another of one kind and election, the last
word stays the last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from electorate.core.model import (
    Arm,
    Beat,
    Changed,
    Disarm,
    Effect,
    Message,
    NodeId,
    Notice,
    Record,
    Rejoined,
    Resign,
    Save,
    Send,
    Support,
    Timer,
    View,
)

UNBOUND = frozenset({Beat, Support, Resign})

Queued: TypeAlias = Save | Send | Rejoined


class Host(Protocol):
    """What a driver does for a machine. Each call returns at once and never raises."""

    def transmit(self, to: NodeId, message: Message) -> None: ...
    def arm(self, timer: Timer, low: float, high: float) -> None: ...
    def disarm(self, timer: Timer) -> None: ...
    def announce(self, view: View) -> None: ...
    def notify(self, notice: Notice) -> None: ...
    def save(self, records: list[Record]) -> None:
        """Begin to make these durable; call `Outbox.saved` when they are."""


class Outbox:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.queue: OrderedDict[Queued, None] = OrderedDict()
        self.last_words: dict[tuple[NodeId, type[Message], str], Send] = {}
        """What is said last to each node, of one kind and election, among what waits."""
        self.committing = 0

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if self.queue and type(effect.message) not in UNBOUND:
                    self._defer(effect)
                else:
                    self.host.transmit(effect.to, effect.message)
            elif isinstance(effect, Arm):
                self.host.arm(effect.timer, effect.low, effect.high)
            elif isinstance(effect, Save) or (isinstance(effect, Rejoined) and self.queue):
                self.queue[effect] = None
            elif isinstance(effect, Disarm):
                self.host.disarm(effect.timer)
            elif isinstance(effect, Changed):
                self.host.announce(effect.view)
            else:
                self.host.notify(effect)
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
                self._let_go(effect)
        if queue:
            self._commit()

    def _defer(self, effect: Send) -> None:
        about = subject(effect)
        if self.last_words.get(about) != effect:
            self.last_words[about] = effect
            self.queue.pop(effect, None)
            self.queue[effect] = None

    def _let_go(self, effect: Send | Rejoined) -> None:
        if isinstance(effect, Rejoined):
            return self.host.notify(effect)
        if self.last_words.get(subject(effect)) == effect:
            del self.last_words[subject(effect)]
        return self.host.transmit(effect.to, effect.message)

    def _commit(self) -> None:
        records = [effect.record for effect in self.queue if isinstance(effect, Save)]
        self.committing = len(records)
        self.host.save(records)


def subject(effect: Send) -> tuple[NodeId, type[Message], str]:
    return effect.to, type(effect.message), getattr(effect.message, "election", "")
