"""Watches from outside that no two nodes ever hold a lease of one election at the same instant.

A node says when a lease of its begins, until when it runs, and when it is given up. Each leadership is so
a span of time on the one clock that all processes of a machine share. Two spans of different nodes that
overlap are two leaders at once; a later leadership without a greater term has a useless fencing token.
Both are violations, and there must be none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import msgspec


class Claim(msgspec.Struct):
    """From `start` to `end` (seconds) this node could rightly say "I lead this election"."""

    election: str
    start: float
    end: float
    term: int
    node: str

    def __str__(self) -> str:
        return f"{self.node} led {self.election} in term {self.term} from {self.start:.6f} to {self.end:.6f}"


class Ledger:
    """Every leadership that was claimed, and whether they exclude each other."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.open: dict[tuple[str, str], Claim] = {}
        """The latest claim of each node in each election, until it is given up."""

    def lease(self, node: str, election: str, term: int, until: float | None, at: float) -> None:
        """At this time a node's lease began or was extended, or, with `until` None, was given up."""
        claim = self.open.get((node, election))
        if until is None:
            self.close(node, election, at)
        elif claim is None or claim.term != term or at > claim.end:
            claim = Claim(election, at, until, term, node)
            self.open[node, election] = claim
            self.claims.append(claim)
        else:
            claim.end = max(claim.end, until)

    def died(self, node: str, at: float) -> None:
        """The node's process has ended: it claims nothing any more."""
        for holder, election in tuple(self.open):
            if holder == node:
                self.close(node, election, at)

    def close(self, node: str, election: str, at: float) -> None:
        if claim := self.open.pop((node, election), None):
            claim.end = max(claim.start, min(claim.end, at))

    def violations(self, before: float = float("inf")) -> list[str]:
        """One sentence for each violation by a leadership that began before this time.

        News of an end may come a moment after news of the next beginning: ask about a time that has
        passed, or when the cluster has come to rest."""
        return list(self.find(sorted((c for c in self.claims if c.start < before), key=order)))

    def find(self, claims: list[Claim]) -> Iterator[str]:
        for _, group in groupby(claims, key=lambda claim: claim.election):
            yield from self.compare(list(group))

    def compare(self, claims: list[Claim]) -> Iterator[str]:
        for i, earlier in enumerate(claims):
            for later in claims[i + 1 :]:
                if later.start >= earlier.end:
                    break
                if later.node != earlier.node:
                    yield f"two leaders at once: {earlier}, and {later}"
        for earlier, later in pairwise(claims):
            if later.term <= earlier.term:
                yield f"the term did not grow: {earlier}, and then {later}"


def order(claim: Claim) -> tuple[str, float]:
    return claim.election, claim.start
