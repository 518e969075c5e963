"""Who has called and not greeted yet: a few wait at one time, and if more come, chance says who has to go.

The oldest would be wrong: whoever calls often enough then pushes out all who live further away than that. And
no crowd keeps a member out: the addresses of members have places of their own, and those who call from one
address (in IPv6 from one network of 64 bits, which anybody has) push out each other and nobody else.

This is imported by the guardian, so it needs nothing but the standard library.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

STRANGERS = 64
"""So many at most wait at one time, from all addresses that are not those of members."""
EACH = 16
"""So many of them at most from one address."""
AT_HOME = 128
"""So many at most from each address of a member."""

MAPPED = bytes(10) + b"\xff\xff"
"""What comes before an address of IPv4 that is written as one of IPv6."""


def machine(address: str) -> bytes:
    """The number that this address is, however it is written; empty if it is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, address.partition("%")[0]).removeprefix(MAPPED)
        except OSError:
            continue
    return b""


def any_of(crowd: Sequence[T]) -> T:
    """One of them, whichever: nobody can tell beforehand."""
    return crowd[int.from_bytes(os.urandom(4)) % len(crowd)]


def network(machine: bytes) -> bytes:
    """What a stranger has of addresses, if it has this one."""
    return machine[:8]


class Lobby(Generic[T]):
    """For those who wait. Whoever has to go is told by `dismiss`."""

    def __init__(self, dismiss: Callable[[T], object]) -> None:
        self.dismiss = dismiss
        self.crowds: dict[bytes, list[T]] = {}
        """Those who wait, by where they come from: a whole address, for one of a member."""
        self.homes: dict[T, bytes] = {}
        """Of each who waits, the crowd."""
        self.strange: list[T] = []
        """All who come from no address of a member."""

    def __len__(self) -> int:
        return len(self.homes)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self.homes))

    def enter(self, caller: T, machine: bytes, members: Container[bytes]) -> T | None:
        """One more comes. Returns who has to go for it, if anybody."""
        member = machine in members
        home = b"member" + machine if member else network(machine)
        crowd = self.crowds.get(home, [])
        gone: T | None = None
        if len(crowd) >= (AT_HOME if member else EACH):
            gone = any_of(crowd)
        elif not member and len(self.strange) >= STRANGERS:
            gone = any_of(self.strange)
        if gone is not None:
            self.leave(gone)
            self.dismiss(gone)
        self.homes[caller] = home
        self.crowds.setdefault(home, []).append(caller)
        if not member:
            self.strange.append(caller)
        return gone

    def leave(self, caller: T) -> None:
        """It waits no longer, or never did."""
        home = self.homes.pop(caller, None)
        if home is None:
            return
        crowd = self.crowds[home]
        crowd.remove(caller)
        if not crowd:
            del self.crowds[home]
        if caller in self.strange:
            self.strange.remove(caller)
