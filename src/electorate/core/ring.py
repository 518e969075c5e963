"""Leader election on a ring: the voters in the order of their ids, each speaking to the next one alive.

A round has two turns. The first finds the best rank; how is what the three classes here differ in:

- `Ring` (Tanenbaum): a list token collects the positions of the living, back to its initiator.
- `ChangRoberts` (1979): a candidate's token goes on past lesser ones only; who meets its own is the best.
- `HirschbergSinclair` (1980): a candidate probes 2^k hops both ways, as long as it is the best there.

The second turn is the same for all: `Coordinator` is the claim of the best rank. It collects the backing
on its way, and goes to the best one when it is full: n hops for each turn, and one more if the initiator
is not itself the best.

What can go wrong on the way, and what is done about it:

    the successor is dead             skipped: no connection, or no Ack in time
    the initiator is dead             a node that a token has visited before drops it
    the token is lost                 its initiator's time-out starts another
    two tokens                        a voter backs one of their claims in each term
    a voter follows a living leader   the token waits there for a moment, and is dropped
    the best one has died meanwhile   its claim is not completed; the initiator's time-out
    a partition closes two rings      who was visited is no quorum: no Coordinator, and no newer term
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from electorate.core.elector import Elector
from electorate.core.model import NOBODY, Accept, Claim, ElectionMessage, Lead, NodeId, Role, Term

Backing = tuple[NodeId, int]
"""A voter, and its incarnation."""
Entry = tuple[NodeId, int]
"""A contender and its position."""


class Token(ElectionMessage, frozen=True):
    """Who is there? `term` is the newest that any of those visited knows."""

    initiator: NodeId
    serial: int
    visited: tuple[NodeId, ...]
    contenders: tuple[Entry, ...]


class Coordinator(Claim, frozen=True):
    """The claim of `leader`, sent round by `initiator`, with those who back it."""

    initiator: NodeId
    serial: int
    visited: tuple[NodeId, ...]
    leader: NodeId
    backers: tuple[Backing, ...]

    def is_backed_by(self, node: NodeId) -> bool:
        return any(voter == node for voter, _ in self.backers)


class Probe(ElectionMessage, frozen=True):
    """Is anybody within `hops` better than the initiator?"""

    initiator: NodeId
    serial: int
    position: int
    hops: int
    clockwise: bool
    visited: tuple[NodeId, ...]


class Echo(ElectionMessage, frozen=True):
    """Nobody in that direction is; on its way back by those whom the probe has visited."""

    initiator: NodeId
    serial: int
    back: tuple[NodeId, ...]
    clockwise: bool


class Ack(ElectionMessage, frozen=True):
    """What this initiator has sent round under this serial has reached me."""

    initiator: NodeId
    serial: int


Round: TypeAlias = Token | Coordinator | Probe | Echo
"""What goes round, from one living node to the next."""


UNSOUND = "a round of those who are not in the ring, or may not lead"


def speaker(message: Token | Coordinator) -> NodeId:
    """Who is known to want an election by this message, and therefore to lead no longer. A Coordinator may
    have been started for a leader that lives on: it speaks for that one only once it has joined."""
    if isinstance(message, Token):
        return message.initiator
    return message.leader if message.is_backed_by(message.leader) else NOBODY


def are_once(voters: frozenset[NodeId], *rows: Sequence[NodeId]) -> bool:
    """Whether each of these rows names voters, and none of them twice."""
    return all(len(row) == len(set(row)) and voters.issuperset(row) for row in rows)


class Ring(Elector):
    """Tanenbaum's ring, and what all rings share: successors, acknowledgements, the Coordinator."""

    claim_type = Coordinator
    fields = (*Elector.fields, "serial", "underway", "suspect")

    serial = 0
    """The number of the newest message that I have sent round."""
    underway: tuple[tuple[NodeId, Round], ...] = ()
    """What I have passed on, and to whom, and is not acknowledged yet."""
    suspect: tuple[NodeId, float] | None = None
    """The leader that has fallen silent: skipped without waiting for its Ack, for the time of one round."""

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self.underway

    # --- first turn: who is best ------------------------------------------------------------------

    def campaign(self) -> None:
        self.role = Role.CANDIDATE
        self.changed()
        self.arm_answers()
        mine = ((self.me, self.position),)
        self.pass_on(Token(self.name, self.promise.term, self.me, self.next_serial(), (self.me,), mine))

    def on_token(self, token: Token) -> None:
        if token.initiator == self.me:
            best = max(token.contenders, key=lambda entry: self.rank_of(*entry))
            self.proclaim(best, token.term, token.visited)
        else:
            mine = ((self.me, self.position),) if self.available else ()
            self.wait_for_another()
            self.pass_on(self.visited(token, token.contenders + mine))

    def visited(self, token: Token, contenders: tuple[Entry, ...]) -> Token:
        """The token as it leaves me."""
        term = max(token.term, self.promise.term)
        visited = (*token.visited, self.me)
        return Token(self.name, term, token.initiator, token.serial, visited, contenders)

    # --- second turn: the claim of the best -------------------------------------------------------

    def proclaim(self, best: Entry, term: Term, visited: tuple[NodeId, ...]) -> None:
        """Send the claim of the best one round, beginning with me, if those who were asked are enough."""
        if self.node.membership.is_quorum(visited):
            self.send_round(best, term)
        else:
            self.lose()

    def send_round(self, best: Entry, term: Term) -> None:
        leader, position = best
        term = max(term, self.promise.term) + 1
        self.on_coordinator(
            Coordinator(self.name, term, position, self.me, self.next_serial(), (), leader, ())
        )

    def claim(self, newest: Term = 0) -> None:
        """I am the heir: nobody needs to ask who is best."""
        self.role = Role.CANDIDATE
        self.arm_answers()
        self.send_round((self.me, self.position), newest)

    def claim_for(self, term: Term) -> Coordinator:
        return Coordinator(self.name, term, self.position, self.me, self.next_serial(), (), self.me, ())

    def on_coordinator(self, claim: Coordinator) -> None:
        if self.me in claim.visited and claim.leader == self.me:
            self.collect(claim)
        elif self.me in claim.visited:
            if claim.initiator == self.me and claim.leader in claim.visited:
                self.send(claim.leader, claim)
        else:
            mine = ((self.me, self.node.incarnation),) if self.joins(claim) else ()
            visited = (*claim.visited, self.me)
            self.pass_on(
                Coordinator(
                    self.name,
                    claim.term,
                    claim.position,
                    claim.initiator,
                    claim.serial,
                    visited,
                    claim.leader,
                    claim.backers + mine,
                )
            )

    def joins(self, claim: Coordinator) -> bool:
        """Back the one it names, as durably as ever; if that is me, it is my own claim."""
        if claim.leader == self.me and self.claimed and self.claimed == claim.term:
            return True
        if self.objection(claim.leader, claim):
            return False
        if claim.leader != self.me:
            self.back(claim.leader, claim.term)
            return True
        if not self.available or claim.term == self.promise.term:
            return False
        self.stand(claim.term)
        self.keep(claim.term, self.me)
        self.arm_answers()
        self.changed()
        return True

    def collect(self, claim: Coordinator) -> None:
        """My claim has been all the way round: count who backs it."""
        for voter, incarnation in claim.backers:
            if self.claimed == claim.term:
                self.on_accept(voter, Accept(self.name, claim.term, incarnation))
        if self.claimed == claim.term:
            self.lose()

    # --- going round ------------------------------------------------------------------------------

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        self.acquit(sender)
        match message:
            case Token() | Coordinator():
                self.acknowledge(sender, message)
                self.on_round(sender, message)
            case Ack(initiator=initiator, serial=serial):
                self.acknowledged(sender, initiator, serial)
            case _:
                super().receive(sender, message)

    def acknowledge(self, sender: NodeId, message: Round) -> None:
        self.acquit(sender)
        if sender != self.me:
            self.send(sender, Ack(self.name, message.term, message.initiator, message.serial))

    def on_round(self, sender: NodeId, message: Token | Coordinator) -> None:
        best = message.leader if isinstance(message, Coordinator) else message.initiator
        if not self.node.may_lead(best):
            self.node.ignore("a round for one who may not lead")
        elif not self.is_sound(message):
            self.node.ignore(UNSOUND)
        elif self.role is Role.LEADER:
            self.answer_as_leader(best, message)
        elif self.is_sticky(speaker(message)):
            self.hold(sender, message)
        elif isinstance(message, Coordinator):
            self.on_coordinator(message) if message.visited else self.node.ignore("I do not lead")
        elif message.initiator == self.me and (message.serial != self.serial or self.is_late):
            self.node.ignore("an old token of my own")
        elif message.initiator != self.me and self.me in message.visited:
            self.node.ignore("a token whose initiator is gone")
        else:
            self.on_token(message)

    def is_sound(self, message: Round) -> bool:
        """Whether it bears nobody twice and none but voters, and a token somebody who may lead, and nobody
        who may not: so it grows no longer than the ring."""
        voters = frozenset(self.node.membership.voters)
        match message:
            case Token(visited=visited, contenders=contenders):
                ids = [id for id, _ in contenders]
                return bool(ids) and all(map(self.node.may_lead, ids)) and are_once(voters, visited, ids)
            case Coordinator(visited=visited, backers=backers):
                return are_once(voters, visited, [id for id, _ in backers])
            case Probe(visited=visited):
                return are_once(voters, visited)
            case Echo(back=back):
                return are_once(voters, back)

    def answer_as_leader(self, best: NodeId, message: Token | Coordinator) -> None:
        """Somebody has missed me: tell it that I lead, or hand over if it asks with a better rank."""
        if isinstance(message, Coordinator) and self.gives_way_to(best, message):
            self.give_up(best)
            self.wait_for_another()
        elif self.node.now < self.lease:
            self.announce_to(message.initiator)
        elif isinstance(message, Coordinator) and message.visited:
            self.on_coordinator(message)

    def pass_on(self, message: Round, after: NodeId | None = None) -> None:
        """Send it to the next one alive (myself, if there is no other) and wait for the Ack."""
        to = self.next_hop(message, after)
        if to != self.me:
            self.underway += ((to, message),)
            self.arm("hop", self.node.timing.patience, self.node.timing.patience)
        if to != self.me or message.initiator == self.me:
            self.send(to, message)

    def next_hop(self, message: Round, after: NodeId | None) -> NodeId:
        """To whom it goes from me, or after one that does not answer; me, if there is nobody."""
        match message:
            case Echo(back=back):
                return self.way_back(back[: back.index(after)] if after in back else back)
            case Probe(clockwise=clockwise):
                return self.neighbour(after or self.me, clockwise)
            case _:
                return self.neighbour(after or self.me)

    def way_back(self, visited: tuple[NodeId, ...]) -> NodeId:
        there = (id for id in reversed(visited) if id == self.me or self.may_pass_to(id))
        return next(there, self.me)

    def may_pass_to(self, id: NodeId) -> bool:
        return not self.suspects(id) and self.node.peers[id].connected

    def neighbour(self, node: NodeId, clockwise: bool = True) -> NodeId:
        """The next voter after this one to which there is a connection, or me."""
        ring = self.node.membership.voters
        at, step = ring.index(node), 1 if clockwise else -1
        while True:
            at = (at + step) % len(ring)
            if ring[at] == self.me:
                return self.me
            if self.may_pass_to(ring[at]):
                return ring[at]

    def acknowledged(self, peer: NodeId, initiator: NodeId, serial: int) -> None:
        self.underway = tuple(
            (to, message)
            for to, message in self.underway
            if (to, message.initiator, message.serial) != (peer, initiator, serial)
        )
        if not self.underway:
            self.disarm("hop")

    def skip(self, peers: frozenset[NodeId]) -> None:
        """These do not answer: send what they should have passed on to the next ones."""
        skipped = [hop for hop in self.underway if hop[0] in peers]
        self.underway = tuple(hop for hop in self.underway if hop[0] not in peers)
        for peer, message in skipped:
            self.pass_on(message, after=peer)

    def fire(self, purpose: str) -> None:
        if purpose == "hop":
            self.skip(frozenset(to for to, _ in self.underway))
        else:
            super().fire(purpose)

    def peer_lost(self, peer: NodeId) -> None:
        self.skip(frozenset({peer}))

    # --- waiting ----------------------------------------------------------------------------------

    @property
    def round_time(self) -> float:
        """How long two turns may take, some of the successors being skipped."""
        return self.node.timing.patience * (2 + len(self.node.membership.voters) / 8)

    @property
    def is_overdue(self) -> bool:
        """My round should have ended, unless the network is slow: swallowing another's, I begin a new one."""
        return self.node.now >= self.asked_at + self.round_time

    @property
    def longest_wait(self) -> float:
        """No turn takes longer than if everybody else had to be skipped."""
        return max(super().longest_wait, self.node.timing.patience * len(self.node.membership.voters))

    def arm_answers(self) -> None:
        self.asked_at = self.node.now
        patience = self.round_time * 2 ** min(self.attempts, 4)
        self.arm("answers", patience, patience)

    def wait_for_another(self) -> None:
        low, high = self.turn()
        self.wait(self.round_time + low, self.round_time + high)

    def suspects(self, node: NodeId) -> bool:
        return self.suspect is not None and self.suspect[0] == node and self.node.now < self.suspect[1]

    def acquit(self, node: NodeId) -> None:
        """The suspect shows that it is alive."""
        if self.suspects(node):
            self.suspect = None

    def peer_found(self, peer: NodeId) -> None:
        self.acquit(peer)
        super().peer_found(peer)

    def leader_fell(self) -> None:
        if self.leader is not None:
            self.suspect = (self.leader, self.node.now + self.round_time)
        super().leader_fell()

    def follow(self, leader: NodeId, lead: Lead) -> None:
        self.suspect, self.underway = None, ()
        self.disarm("hop")
        super().follow(leader, lead)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial


class ChangRoberts(Ring):
    """A token goes on past lesser contenders only, so the best one's alone comes home."""

    def on_token(self, token: Token) -> None:
        candidate, position = token.contenders[0]
        if candidate == self.me:
            self.proclaim((self.me, self.position), token.term, token.visited)
        elif self.available and self.rank > self.rank_of(candidate, position):
            if self.role is not Role.CANDIDATE or self.is_overdue:
                self.try_now()
        else:
            self.wait_for_another()
            self.pass_on(self.visited(token, token.contenders))


class HirschbergSinclair(Ring):
    """Probes of 1, 2, 4 … hops in both directions; a better contender swallows them."""

    fields = (*Ring.fields, "reach", "echoes", "newest")

    reach = 1
    """How many hops my present probes go."""
    echoes: frozenset[bool] = frozenset()
    """The directions from which an Echo has come back."""
    newest: Term = 0
    """The newest term that my probes have met."""

    def campaign(self) -> None:
        self.role = Role.CANDIDATE
        self.reach, self.newest = 1, self.promise.term
        self.changed()
        self.arm_answers()
        self.probe()

    def probe(self) -> None:
        self.echoes, self.asked_at = frozenset(), self.node.now
        serial = self.next_serial()
        for clockwise in (True, False):
            about = (self.name, self.newest, self.me, serial, self.position)
            self.pass_on(Probe(*about, self.reach, clockwise, (self.me,)))

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case Probe() | Echo() if not self.is_sound(message):
                self.acknowledge(sender, message)
                self.node.ignore(UNSOUND)
            case Probe() if self.node.may_lead(message.initiator):
                self.acknowledge(sender, message)
                self.on_probe(sender, message)
            case Echo():
                self.acknowledge(sender, message)
                self.on_echo(message)
            case _:
                super().receive(sender, message)

    def on_probe(self, sender: NodeId, probe: Probe) -> None:
        if self.role is Role.LEADER:
            self.announce_to(probe.initiator)
        elif self.is_sticky(probe.initiator):
            self.hold(sender, probe)
        elif self.me in probe.visited and probe.initiator != self.me:
            self.node.ignore("a probe whose initiator is gone")
        elif probe.initiator == self.me:
            if self.is_of_this_round(probe.serial):
                self.proclaim((self.me, self.position), max(probe.term, self.newest), probe.visited)
        elif self.available and self.rank > self.rank_of(probe.initiator, probe.position):
            if self.role is not Role.CANDIDATE or self.is_overdue:
                self.try_now()
        else:
            self.wait_for_another()
            self.relay(probe)

    def is_of_this_round(self, serial: int) -> bool:
        return serial == self.serial and self.role is Role.CANDIDATE and not self.is_late

    def relay(self, probe: Probe) -> None:
        """Pass the probe on, or turn it back where it has gone far enough."""
        about = (self.name, max(probe.term, self.promise.term), probe.initiator, probe.serial)
        if probe.hops > 1:
            visited = (*probe.visited, self.me)
            onward = Probe(*about, probe.position, probe.hops - 1, probe.clockwise, visited)
            self.pass_on(onward)
        else:
            self.pass_on(Echo(*about, probe.visited, probe.clockwise))

    def on_echo(self, echo: Echo) -> None:
        if echo.initiator != self.me:
            if self.me in echo.back:
                about = (self.name, echo.term, echo.initiator, echo.serial)
                self.pass_on(Echo(*about, echo.back[: echo.back.index(self.me)], echo.clockwise))
        elif self.is_of_this_round(echo.serial):
            self.newest = max(self.newest, echo.term)
            self.echoes |= {echo.clockwise}
            if len(self.echoes) == 2:
                self.reach *= 2
                self.probe()
