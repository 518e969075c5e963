"""Whom this node reaches: a peer that stays away, or a quorum that is lost, is said once, with the reason,
and again when it is back. What lasts no longer than `PATIENCE` is told to those who ask, and not logged."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from electorate.core.model import NodeId, QuorumRule
from electorate.runtime.figures import hour
from electorate.runtime.hearsay import Room

if TYPE_CHECKING:
    from electorate.runtime.host import Host

PATIENCE = 5.0
"""After so many seconds without a quorum, or without a peer, the log says so."""


class Contact:
    """What one host knows of its reach."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.had_quorum = False
        self.since: float | None = None
        """Since when there is no quorum, by the clock on the wall: to be shown."""
        self.said = False
        self.timer: asyncio.TimerHandle | None = None
        self.away: dict[NodeId, float] = {}
        """Since when each peer has not been reached, on the clock of the loop."""
        self.lost: dict[NodeId, float] = {}
        """Since when each peer that had been reached is not, in seconds since 1970: to be shown."""
        self.why: dict[NodeId, str] = {}
        """Why the last attempt to reach it failed."""
        self.named: dict[NodeId, Room] = {}
        """The reasons that the log has told; who answers there chooses some of the words."""

    @property
    def missing(self) -> list[NodeId]:
        """The voters that are not reached."""
        return [voter for voter in self.host.node.membership.voters if voter not in self.host.node.reachable]

    @property
    def no_quorum(self) -> str | None:
        """The conclusion, if no quorum is reached."""
        if self.since is None:
            return None
        how = "lost" if self.had_quorum else "not reached"
        return f"no quorum since {hour(self.since)}: {named(self.missing)} {how}"

    def look(self) -> None:
        """After each change of what is connected."""
        node = self.host.node
        if node.membership.is_quorum(node.reachable):
            self.had_quorum = True
            self.forget()
            if self.said:
                self.host.log.warning("I reach a quorum again: %s", self.count())
            self.since, self.said = None, False
        elif self.since is None:
            self.since = time.time()
            self.timer = self.host.loop.call_later(PATIENCE, self.say)

    def first(self) -> str:
        """What a node that has just started waits for."""
        host = self.host
        _, name, port = host.config.listens(host.id)
        listens = f"node {host.id} of cluster '{host.config.cluster}' listens on {name}:{port}"
        if not self.missing:
            return listens
        return f"{listens} and dials {named(host.links)}: it reaches {self.count()}"

    def say(self) -> None:
        self.said = True
        missing = named(self.missing)
        reach = f"I reach {missing} no more" if self.had_quorum else f"I have not reached {missing}"
        self.host.log.warning("%s: %s", reach, self.count())

    def count(self) -> str:
        membership, reached = self.host.node.membership, len(self.host.node.reachable)
        count = f"{reached} of {len(membership.voters)} voters"
        if membership.rule is QuorumRule.MAJORITY:
            return f"{count}, {len(membership.voters) // 2 + 1} needed"
        quorum = "a quorum" if membership.is_quorum(self.host.node.reachable) else "no quorum"
        return f"{count}, by quorum = {membership.rule.value} {quorum}"

    def parted(self, peer: NodeId) -> None:
        self.lost[peer] = time.time()

    def reached(self, peer: NodeId) -> None:
        self.lost.pop(peer, None)
        self.away.pop(peer, None)
        self.why.pop(peer, None)
        if self.named.pop(peer, None):
            self.host.log.info("node %s is reached again", peer)

    def failed(self, peer: NodeId, why: str) -> None:
        """An attempt has failed: say so once it has lasted, and each other reason once."""
        self.why[peer] = why
        since = self.away.setdefault(peer, self.host.loop.time())
        now = self.host.loop.time()
        if now - since >= PATIENCE and self.named.setdefault(peer, Room(now)).hear(why, now):
            address = self.host.config.nodes[peer].address
            self.host.log.warning("node %s cannot be reached at %s: %s", peer, address, why)

    def forget(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None


def named(nodes: Iterable[NodeId]) -> str:
    *others, last = nodes
    return f"{', '.join(others)} and {last}" if others else last


def explain(error: OSError) -> str:
    """Why nobody was reached, in words that do not change from one attempt to the next."""
    if isinstance(error, socket.gaierror):
        return f"its name does not resolve ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason})"
    if isinstance(error, ConnectionError) and not (error.strerror or str(error)):
        return "it hangs up"
    return error.strerror or str(error) or type(error).__name__
