"""Which life of a node this is, and whether its store descends from the one that the others know.

Each start of a node draws a number, and its store keeps the *chain* of all its starts. Whoever meets a node
remembers its newest start, durably. Met again, the node must show that start in its chain: a store that was
lost, or put back from an older copy, cannot, however often it has started since.

    it says                                  and is
    the very start that is remembered       welcome: the same process
    a later one, and shows the remembered   welcome: its store has forgotten nothing
    a later one, and shows another          asked to show the remembered one (`SHOW`)
    any other                               refused: its store was lost or rolled back, or runs twice (`LOST`)

A node that rejoins (`Rejoin`) has lost its store and says so. It takes what others remember of it into its
new chain, begins a later life than any that they have met, and votes again once it knows what its lost
store may have promised. Whom an operator has named as gone for good meanwhile is refused until it rejoins
itself (`GONE`).
"""

from __future__ import annotations

from collections.abc import Set
from enum import Enum, auto
from typing import NamedTuple

from electorate.core.model import NodeId


class Start(NamedTuple):
    """One start of a node: which one of its store it is, and the number drawn for it."""

    incarnation: int = 1
    number: int = 0


Chain = Set[Start]
"""The starts of a store, and those before them that others have told it of when it rejoined."""


class Identity(NamedTuple):
    """What a node says of itself when it is met, with the start that it shows."""

    start: Start
    shown: Start | None = None
    rejoining: bool = False


class Verdict(Enum):
    WELCOME = auto()
    SHOW = auto()
    LOST = auto()
    GONE = auto()


def judge(known: Start | None, gone: bool, identity: Identity, observer: bool = False) -> Verdict:
    """Whether this may be the node of which `known` was the newest start that was met. An observer, which may
    have been away when a store was replaced, takes any later life: nothing rests on what it believes."""
    if gone and not identity.rejoining:
        return Verdict.GONE
    if known is None or identity.start == known:
        return Verdict.WELCOME
    if identity.start.incarnation <= known.incarnation:
        return Verdict.LOST
    if identity.shown == known or observer:
        return Verdict.WELCOME
    if identity.shown is not None and identity.shown.incarnation == known.incarnation:
        return Verdict.LOST
    return Verdict.SHOW


class Rejoin(NamedTuple):
    """Why a node must ask the others before it votes."""

    lost: bool = True
    """Its store was lost or rolled back: it may have promised anything, and answers nobody meanwhile. If
    not, the store is whole, but the set of voters is another."""
    without: frozenset[NodeId] = frozenset()
    """Who is gone for good, by the word of the operator: not waited for, and refused by all who answer."""
