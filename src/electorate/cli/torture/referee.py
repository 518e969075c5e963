"""What happened, and whether it was allowed to.

    I1  one leader per term                       I2  no two leases of one election at one instant
    I3  the terms of leaderships grow             overlap  no two commands of `elect run` at once
    stale  the resource accepts no write with an older token than the newest that it has accepted

The leases are on the one clock that all processes of a machine share, whatever network they are in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from electorate.cli.safety import Claim, Ledger
from electorate.cli.torture.schedule import Fault


class Violation(msgspec.Struct, frozen=True):
    rule: str
    time: float
    what: str


class Write(msgspec.Struct, frozen=True):
    """A write that the resource has accepted."""

    time: float
    term: int
    node: str


class Gap(msgspec.Struct, frozen=True):
    """From `start` to `end` nobody led; it began during, or after, this fault."""

    fault: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class History(msgspec.Struct, kw_only=True):
    """All that was recorded. Times are seconds on the machine's own clock."""

    start: float = 0.0
    end: float = 0.0
    claims: list[Claim] = []
    writes: list[Write] = []
    overlaps: list[Write] = []
    refused: list[Write] = []
    """Writes that the fence has turned away: the reason why it is there."""
    faults: list[Fault] = []
    skipped: dict[str, int] = {}
    """Verbs that cannot be carried out on this machine, and how often they were due."""
    down: list[tuple[str, float, float]] = []
    """When a node had no process, or one that was paused."""


def judge(history: History) -> list[Violation]:
    return sorted([*leases(history), *commands(history)], key=lambda violation: violation.time)


def leases(history: History) -> Iterator[Violation]:
    led: dict[tuple[str, int], str] = {}
    for claim in history.claims:
        first = led.setdefault((claim.election, claim.term), claim.node)
        if first != claim.node:
            what = f"{first} and {claim.node} both led {claim.election} in term {claim.term}"
            yield Violation("I1", claim.start, what)
    ledger = Ledger()
    ledger.claims = history.claims
    for sentence in ledger.violations():
        rule = "I2" if sentence.startswith("two leaders") else "I3"
        yield Violation(rule, float(sentence.rsplit(" from ", 1)[1].split()[0]), sentence)


def commands(history: History) -> Iterator[Violation]:
    for row in history.overlaps:
        what = f"the command of {row.node}, term {row.term}, was started while another one lived"
        yield Violation("overlap", row.time, what)
    newest = 0
    for write in history.writes:
        if write.term < newest:
            what = f"{write.node} wrote with token {write.term} after {newest} had been accepted"
            yield Violation("stale", write.time, what)
        newest = max(newest, write.term)


def rows(database: sqlite3.Connection, table: str) -> list[Write]:
    """A table of the resource, in the order in which it was written."""
    return [Write(*row) for row in database.execute(f"SELECT time, term, node FROM {table} ORDER BY rowid")]


# --- how long nobody led --------------------------------------------------------------------------------


def gaps(history: History, election: str) -> list[Gap]:
    """Each time without a leader, and the latest fault that had begun before it, or both of two at once."""
    found = []
    covered = history.start
    for claim in sorted(history.claims, key=lambda claim: claim.start):
        if claim.election != election or claim.end <= covered:
            continue
        if claim.start > covered:
            found.append(Gap(cause(history.faults, covered), covered, claim.start))
        covered = claim.end
    if covered < history.end:
        found.append(Gap(cause(history.faults, covered), covered, history.end))
    return found


def cause(faults: Sequence[Fault], at: float) -> str:
    begun = [fault for fault in faults if fault.start <= at + 0.001]
    latest = max((fault.start for fault in begun), default=at)
    return " and ".join(sorted({fault.name for fault in begun if fault.start == latest})) or "start"


def availability(history: History, election: str) -> float:
    """The share of the time during which somebody led."""
    lasted = history.end - history.start
    return 1 - sum(gap.seconds for gap in gaps(history, election)) / lasted if lasted > 0 else 0.0


def failovers(history: History, elections: Sequence[str]) -> dict[str, list[float]]:
    """For each fault, how long nobody led, from the shortest to the longest."""
    found: dict[str, list[float]] = {fault.name: [] for fault in history.faults}
    for election in elections:
        for gap in gaps(history, election):
            found.setdefault(gap.fault, []).append(gap.seconds)
    return {name: sorted(seconds) for name, seconds in found.items()}
