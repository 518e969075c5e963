"""A schedule: not what befalls a cluster at what time, but each single step that is taken, in order.

    contend c                        somebody wants to lead
    deliver c a PreVote term=1       the message of that wording arrives (`duplicate`: and is still under way)
    fire a 1 silence c               a timer, so many seconds later on that node's clock
    crash a, restart a, connect a b  …

Here nothing happens by itself: clocks stand still, messages wait, timers are silent, until a step says so.
The nodes, the links, the disks and the invariants are those of every other run. What the model checker has
found is told in this form, and seen again here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from electorate.core.model import (
    Beat,
    Member,
    Membership,
    Message,
    NodeId,
    QuorumRule,
    Settings,
    Support,
    Timer,
)
from electorate.errors import UserError
from electorate.sim.network import Link
from electorate.sim.trace import wording
from electorate.sim.world import Host, Plan, World


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster, and the steps taken in it."""

    story: str
    members: tuple[Member, ...]
    settings: Settings
    quorum: QuorumRule = QuorumRule.MAJORITY
    elections: tuple[str, ...] = ("main",)
    flaw: str = ""
    """The guard that was taken away, if any (`electorate.check.flaws`)."""
    violates: str = ""
    slow_disk: bool = False
    """Commits are steps of their own."""
    steps: tuple[str, ...] = ()


def read(file: Path) -> Schedule:
    """Raises `UserError`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Schedule)
    except OSError as error:
        raise UserError(f"schedule {file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise UserError(f"schedule {file}: {error}") from None


def saying(message: Message) -> str:
    """How a step names a message: beats are not told apart by their numbers."""
    return type(message).__name__ if isinstance(message, Beat | Support) else wording(message)


class Stage(World):
    """A world in which only the steps of a schedule happen."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        membership = Membership(schedule.members, schedule.quorum)
        plan = Plan(
            membership=membership, settings=schedule.settings, elections=schedule.elections, contenders=()
        )
        super().__init__(plan, 0, record=True)
        self.wanted: set[tuple[NodeId, str]] = set()

    def play(self) -> None:
        """Take every step. Raises `UserError` where one is not possible."""
        for host in self.hosts.values():
            self.begin(host)
        ids = list(self.hosts)
        for number, a in enumerate(ids):
            for b in ids[number + 1 :]:
                self.connect([a, b])
        for step in self.schedule.steps:
            verb, *words = step.split()
            self.note("story", "", None, step)
            try:
                STEPS[verb](self, words)
            except (KeyError, IndexError, ValueError):
                raise UserError(f"schedule: step '{step}' is not possible here") from None
            self.invariants.after_step()

    # --- steps

    def contend(self, words: list[str]) -> None:
        node, election = words
        self.wanted.add((node, election))
        self.act(self.hosts[node], "contend", election)

    def wish(self, words: list[str]) -> None:
        """`wish a transfer main b`"""
        node, what, *arguments = words
        self.act(self.hosts[node], what, *arguments)

    def deliver(self, words: list[str]) -> None:
        link, entry = self.find(words)
        self.queue.remove(entry)
        link.deliver(entry[3], entry[4])
        self.settle_disk(self.hosts[link.target])

    def duplicate(self, words: list[str]) -> None:
        link, entry = self.find(words)
        link.deliver(entry[3], entry[4])
        self.settle_disk(self.hosts[link.target])

    def drop(self, words: list[str]) -> None:
        self.queue.remove(self.find(words)[1])

    def find(self, words: list[str]) -> tuple[Link, Any]:
        """The oldest message of that wording under way on that link."""
        source, target, *rest = words
        link = self.links[source, target]
        for entry in sorted(self.queue, key=lambda entry: entry[1]):
            if entry[2] == link.deliver and entry[4] == link.session and saying(entry[3]) == " ".join(rest):
                return link, entry
        raise KeyError(words)

    def fire(self, words: list[str]) -> None:
        """`fire a 1 silence c`"""
        node, elapsed, purpose, *subject = words
        host = self.hosts[node]
        timer: Timer = (purpose, subject[0] if subject else "")
        host.offset += float(elapsed)
        host.fire(timer, host.timers[timer])
        self.settle_disk(host)

    def pass_time(self, words: list[str]) -> None:
        """`pass a 1`: on its clock."""
        self.hosts[words[0]].offset += float(words[1])

    def tick(self, words: list[str]) -> None:
        """`tick`, `tick b`: on all clocks one, on that of b two."""
        for host in self.hosts.values():
            host.offset += 2.0 if host.id in words else 1.0
        for election in self.plan.elections:
            self.invariants.attention[election] = None
            self.invariants.reigning.setdefault(election, {})

    def crash(self, words: list[str]) -> None:
        """`crash a`, `crash a durable`: and what was being saved has reached the disk."""
        host = self.hosts[words[0]]
        if words[1:] == ["durable"]:
            host.write(host.committing)
        host.committing = []
        self.end(host)

    def tear(self, words: list[str]) -> None:
        """`tear 1 deliver …`: a crash just before the first save of that step is on the disk."""
        number, verb, *rest = words
        at = {"deliver": 1, "duplicate": 1}.get(verb, 0)
        host = self.hosts[rest[at]]
        self.torn = (host, int(number))
        STEPS[verb](self, rest)
        self.end(host)

    torn: tuple[Host, int] | None = None

    def restart(self, words: list[str]) -> None:
        host = self.hosts[words[0]]
        self.begin(host)
        for election in self.plan.elections:
            if (host.id, election) in self.wanted:
                self.act(host, "contend", election)

    def notice(self, words: list[str]) -> None:
        """`notice a b`: a finds that the process of b is gone."""
        host, gone = self.hosts[words[0]], words[1]
        self.links[gone, host.id].session = 0
        host.links[gone].session = 0
        self.act(host, "lost", gone, True)

    def connect(self, words: list[str]) -> None:
        for a, b in (words, words[::-1]):
            self.sessions += 1
            self.links[a, b].open(self.sessions)
        for a, b in (words, words[::-1]):
            if self.hosts[a].node.peers[b].connected:
                self.act(self.hosts[a], "lost", b, False)
        for a, b in (words, words[::-1]):
            self.act(self.hosts[a], "connected", b, self.hosts[b].node.incarnation)

    def sever(self, words: list[str]) -> None:
        for a, b in (words, words[::-1]):
            self.links[a, b].session = 0
        for a, b in (words, words[::-1]):
            self.act(self.hosts[a], "lost", b, False)

    def commit(self, words: list[str]) -> None:
        host = self.hosts[words[0]]
        host.committed(host.life)
        self.settle_disk(host)

    # --- what they have in common

    def act(self, host: Host, what: str, *arguments: Any) -> None:
        host.do(getattr(host.node, what)(host.clock(), *arguments))
        self.settle_disk(host)

    def settle_disk(self, host: Host) -> None:
        """Unless disks are slow, what is to be saved is, at once; and what a node says to itself arrives."""
        while host.up and (host.committing or self.to_itself(host)):
            if host.committing and self.schedule.slow_disk:
                break
            if host.committing:
                self.torn = self.torn and (self.torn[0], self.torn[1] - 1)
                if self.torn and self.torn == (host, 0):
                    self.torn = None
                    host.committing = []
                    return
                host.committed(host.life)
            for entry in self.to_itself(host):
                self.queue.remove(entry)
                host.hear_myself(entry[3], entry[4])

    def to_itself(self, host: Host) -> list[Any]:
        return sorted((e for e in self.queue if e[2] == host.hear_myself), key=lambda entry: entry[1])

    def begin(self, host: Host) -> None:
        host.contends = {}
        host.start()
        self.settle_disk(host)

    def end(self, host: Host) -> None:
        """Its process is gone; what it has said may still arrive, what it is told does not."""
        sessions = {peer: link.session for peer, link in host.links.items()}
        host.crash()
        for peer, session in sessions.items():
            host.links[peer].session = session
            self.links[peer, host.id].session = 0


STEPS: dict[str, Callable[[Stage, list[str]], None]] = {
    "contend": Stage.contend,
    "wish": Stage.wish,
    "deliver": Stage.deliver,
    "duplicate": Stage.duplicate,
    "drop": Stage.drop,
    "fire": Stage.fire,
    "pass": Stage.pass_time,
    "tick": Stage.tick,
    "crash": Stage.crash,
    "tear": Stage.tear,
    "restart": Stage.restart,
    "notice": Stage.notice,
    "connect": Stage.connect,
    "cut": Stage.sever,
    "commit": Stage.commit,
}
