"""Guards taken away one by one, to show what each is for. Nothing here runs outside the laboratory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from electorate.core.elector import Elector
from electorate.core.liveness import Peer
from electorate.core.model import NodeId, Save, Support
from electorate.core.node import Node
from electorate.core.outbox import Outbox
from electorate.core.ring import Ring, Token
from electorate.core.zab import Zab
from electorate.errors import UserError

Flaw = tuple[type, str, Callable[..., Any]]
"""In this class, this method is another."""


def never_saved(perform: Callable[..., Any]) -> Callable[..., Any]:
    """Votes are not written down."""

    def forgetful(self: Outbox, effects: list[Any]) -> None:
        perform(self, [effect for effect in effects if not isinstance(effect, Save)])

    return forgetful


def counted_from_receipt(on_support: Callable[..., Any]) -> Callable[..., Any]:
    """The leader counts its lease from when the answer came, not from when it sent the beat."""

    def late(self: Node, sender: NodeId, support: Support) -> None:
        self.beats.sent = tuple((n, self.now if n == support.seq else at) for n, at in self.beats.sent)
        on_support(self, sender, support)

    return late


def kept_going(on_round: Callable[..., Any]) -> Callable[..., Any]:
    """A token whose initiator is gone is passed on like any other."""

    def patient(self: Ring, sender: NodeId, message: Any) -> None:
        if isinstance(message, Token) and message.initiator != self.me and self.me in message.visited:
            self.on_token(message)
        else:
            on_round(self, sender, message)

    return patient


def counted_whatever_the_round(on_looking_vote: Callable[..., Any]) -> Callable[..., Any]:
    """A vote of an earlier round counts in this one."""

    def forgiving(self: Zab, sender: NodeId, round: int, vote: Any) -> None:
        on_looking_vote(self, sender, max(round, self.round), vote)

    return forgiving


def nothing(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def never(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


FLAWS: dict[str, tuple[type, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "votes-not-saved": (Outbox, "perform", never_saved),
    "lease-from-receipt": (Node, "on_support", counted_from_receipt),
    "no-stickiness": (Elector, "is_sticky", never),
    "no-amnesia-guard": (Elector, "is_amnesiac", never),
    "two-votes-a-term": (Elector, "has_backed_another", never),
    "no-support-epoch": (Peer, "begin_stretch", nothing),
    "token-never-purged": (Ring, "on_round", kept_going),
    "stale-votes-count": (Zab, "on_looking_vote", counted_whatever_the_round),
}


@contextmanager
def flawed(name: str) -> Iterator[None]:
    """For a while, all nodes lack this guard. Raises `UserError`."""
    if name and name not in FLAWS:
        raise UserError(f"there is no flaw '{name}'; there are {', '.join(FLAWS)}")
    if not name:
        yield
        return
    where, method, spoil = FLAWS[name]
    sound = vars(where)[method]
    setattr(where, method, spoil(sound))
    try:
        yield
    finally:
        setattr(where, method, sound)
