"""What the local user wants of each election: to contend, and for a while not to, whatever else is wished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LONGEST = 10 * 365 * 86400.0
"""The longest while, in seconds."""


class Wishes:
    """`contend` and `withdraw` do it."""

    def __init__(self, contend: Callable[[str], None], withdraw: Callable[[str], None]) -> None:
        self.do_contend = contend
        self.do_withdraw = withdraw
        self.contends: set[str] = set()
        self.frozen: dict[str, asyncio.TimerHandle] = {}

    def contend(self, election: str) -> None:
        self.contends.add(election)
        if election not in self.frozen:
            self.do_contend(election)

    def withdraw(self, election: str) -> None:
        self.contends.discard(election)
        self.do_withdraw(election)

    def freeze(self, election: str, seconds: float) -> None:
        """Raises `ValueError` for what is no such number."""
        check(seconds)
        if election in self.frozen:
            self.frozen.pop(election).cancel()
        if seconds:
            loop = asyncio.get_running_loop()
            self.frozen[election] = loop.call_later(seconds, self.thaw, election)
            self.do_withdraw(election)
        else:
            self.thaw(election)

    def thaw(self, election: str) -> None:
        self.frozen.pop(election, None)
        if election in self.contends:
            self.do_contend(election)

    def frozen_for(self, election: str) -> float:
        """For how many seconds more it does not contend."""
        frozen = self.frozen.get(election)
        return max(0.0, frozen.when() - asyncio.get_running_loop().time()) if frozen else 0.0

    def close(self) -> None:
        for frozen in self.frozen.values():
            frozen.cancel()
        self.frozen.clear()
        self.contends.clear()


def check(seconds: float) -> None:
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{seconds:g} is not a number of seconds from 0 to {LONGEST:.0f}")


def frozen(election: str, seconds: float) -> str:
    """What is wished by that."""
    return f"freeze of {election!r} for {seconds:g} s" if seconds else f"end of the freeze of {election!r}"
