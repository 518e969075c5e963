"""What all four algorithms share: claim, back, announce, follow, resign.

An algorithm chooses who tries next; this base decides who may lead. The safety argument is here, whole:

1. A voter backs at most one claimant per term, durably, before it says so (`back`).
2. A claimant leads once a quorum has backed it, itself included (`on_accept`), and two quorums share a
   voter: so a term has at most one leader, and leads it once.
3. A voter backs nobody while it supports another living leader (`is_sticky`), nor for a lease after a
   restart in which it may have forgotten such support (`is_amnesiac`).
4. A leader counts on a quorum of supports only (`lease`), and resigns before it backs another
   (`step_down`): so when a quorum backs the next leader, the lease of the last one has ended.
5. While work rests on a leadership, it is not given away (`give_up`): it ends with its lease, or when the
   work has ended. So the work of one leader is over before the next leader is elected.

    role        waits for                   and then
    follower    its leader to fall silent   tries in its turn (`seek`)
    candidate   a quorum of Accepts         leads, or loses the round and tries again
    leader      nothing                     steps down when its lease ends, or a newer term is heard of

A message with an older term is answered with the newer one; a newer term is adopted, which by itself
frees no voter from its support. A claim that comes while the support stands is held for a moment: news
of a leader's end travels on several links, and the claimant's word may overtake it.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from electorate.core.model import (
    MAX_TERM,
    Accept,
    Arm,
    Changed,
    Claim,
    Disarm,
    ElectionMessage,
    Follow,
    Kind,
    Lead,
    NodeId,
    Promise,
    Rank,
    Reason,
    Refuse,
    Resign,
    Role,
    Save,
    Send,
    Term,
    View,
)

if TYPE_CHECKING:
    from electorate.core.liveness import Pair
    from electorate.core.node import Node


class Elector:
    """One election on one node. Fields hold immutable values only, so that `state` is a copy."""

    claim_type: ClassVar[type[Claim]]

    fields: ClassVar[tuple[str, ...]] = (
        *("promise", "role", "leader", "leader_term", "leader_position", "departed", "contends", "position"),
        *(
            "claimed",
            "backers",
            "refusers",
            "followers",
            "heirs",
            "intended",
            "secured",
            "assured",
            "occupied",
            "giving_up",
            "held",
            "waiting",
            "attempts",
        ),
        *("deterred_until", "stands_back_until", "takeovers", "quiet_until", "view"),
    )
    """What `state` consists of; an algorithm adds its own."""

    def __init__(self, node: Node, name: str, promise: Promise) -> None:
        self.node = node
        self.name = name
        self.promise = promise
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.leader_term: Term = 0
        self.leader_position = 0
        self.departed: NodeId | None = None
        """The last leader, once it has resigned or fallen silent."""
        self.contends = False
        self.position = 0
        self.claimed: Term = 0
        """The term that I am asking for, or 0."""
        self.backers: frozenset[NodeId] = frozenset()
        self.refusers: frozenset[NodeId] = frozenset()
        self.followers: frozenset[tuple[NodeId, Pair]] = frozenset()
        """The voters that follow me, each with the stretch of support that counts for it."""
        self.heirs: frozenset[NodeId] = frozenset()
        """Those of them that contend: I can hand over to one."""
        self.intended: tuple[NodeId, float] | None = None
        """To whom I am to hand over as soon as it follows, and until when that wish holds."""
        self.secured = False
        """My leadership has had its lease; when that ends, so does the leadership."""
        self.assured = float("-inf")
        """The lease that a quorum had promised me when last a voter of it restarted. It is kept: who restarts
        backs nobody for a lease."""
        self.occupied = False
        """Work of the local user rests on my leadership."""
        self.giving_up: tuple[NodeId | None, bool] | None = None
        """When that work has ended, I hand over: to whom, and whether by a wish."""
        self.held: tuple[tuple[NodeId, ElectionMessage, float], ...] = ()
        """What others asked while I supported a leader, one question each, and until when to answer."""
        self.waiting = False
        """The campaign timer is armed."""
        self.attempts = 0
        self.deterred_until = float("-inf")
        """Not to take over from a living leader before then: I have just asked, or (inf) it was elected
        by a wish."""
        self.stands_back_until = float("-inf")
        """I have resigned: others should lead before I do."""
        self.takeovers = 0
        """How often I have asked a living leader to hand over, since I last led."""
        self.quiet_until = node.started_at + node.timing.lease if promise.term else float("-inf")
        self.view = View(name, self.shown_role, None, promise.term)

    # --- who I am ---------------------------------------------------------------------------------

    @property
    def me(self) -> NodeId:
        return self.node.me

    @property
    def shown_role(self) -> Role:
        return Role.OBSERVER if self.node.kind is Kind.OBSERVER else self.role

    @property
    def eligible(self) -> bool:
        return self.me in self.node.membership.candidates

    @property
    def available(self) -> bool:
        """I would lead if I were chosen now."""
        return self.contends and self.node.now >= max(self.stands_back_until, self.quiet_until)

    @property
    def is_deterred(self) -> bool:
        return self.node.now < self.deterred_until

    def rank_of(self, node: NodeId, position: int = 0) -> Rank:
        return self.node.settings.rank(self.name, self.node.membership.by_id[node], position)

    @property
    def rank(self) -> Rank:
        return self.rank_of(self.me, self.position)

    # --- the wishes of the local user -------------------------------------------------------------

    def contend(self) -> None:
        """Want to lead, now and whenever there is no leader."""
        if not self.eligible:
            return self.node.ignore("a member that may not lead cannot contend")
        self.contends = True
        self.deterred_until = float("-inf")
        if self.leader is None and self.role is Role.FOLLOWER:
            self.seek()
        elif self.leader not in (None, self.me):
            self.say_follow(self.leader)
            self.take_over_from_lesser()

    def withdraw(self) -> None:
        """No longer want to lead."""
        self.contends = False
        self.disarm("campaign")
        self.waiting = False
        if self.role is Role.LEADER:
            self.give_up(self.best_heir, wished=True)
        elif self.role is Role.CANDIDATE:
            self.abandon()
            self.changed()
        elif self.leader is not None:
            self.say_follow(self.leader)

    def resign(self) -> None:
        """Hand over to the best of those that contend, and stand back for a lease."""
        if self.role is not Role.LEADER:
            return self.node.ignore("only a leader can resign")
        return self.give_up(self.best_heir, wished=True)

    def transfer(self, heir: NodeId) -> None:
        """End my leadership in favour of one that contends: now, or when it follows, but within a lease."""
        if self.role is not Role.LEADER:
            return self.node.ignore("only a leader can transfer")
        if heir == self.me:
            return None
        if not self.may_inherit(heir):
            return self.node.ignore("the heir may not lead, or does not contend")
        self.intended = (heir, self.node.now + self.node.timing.lease)
        return self.hand_over()

    def may_inherit(self, node: NodeId) -> bool:
        """It contends, or has not told me yet whether it does."""
        follows = any(follower == node for follower, _ in self.followers)
        return node in self.heirs or (node in self.node.membership.candidates and not follows)

    def hand_over(self) -> None:
        """If the intended heir is ready, end my leadership in its favour."""
        if self.intended and self.intended[0] in self.heirs and self.node.now < self.intended[1]:
            self.give_up(self.intended[0], wished=True)

    @property
    def best_heir(self) -> NodeId | None:
        return max(self.ready_heirs, key=self.rank_of, default=None)

    @property
    def ready_heirs(self) -> list[NodeId]:
        return [heir for heir in self.heirs if self.node.peers[heir].connected]

    def stand_back(self) -> None:
        """Let another lead: try again only if nobody does."""
        timing = self.node.timing
        self.deterred_until = float("inf")
        self.stands_back_until = self.node.now + timing.lease
        self.wait(timing.lease, timing.lease + timing.patience)

    def occupy(self) -> None:
        """The user's work begins: until `vacate`, this leadership is not given away."""
        if self.role is not Role.LEADER:
            return self.node.ignore("only a leader can work")
        self.occupied = True
        return None

    def vacate(self) -> None:
        """The user's work has ended: hand over, if that is wanted."""
        self.occupied = False
        if self.giving_up:
            heir, wished = self.giving_up
            self.give_up(heir if heir in self.ready_heirs else self.best_heir, wished)

    def give_up(self, heir: NodeId | None = None, wished: bool = False) -> None:
        """End my leadership in favour of the heir, but the user's work first."""
        if self.occupied and self.node.now < self.lease:
            if heir is not None or self.giving_up is None:
                self.giving_up = (heir, wished)
            return self.changed()
        self.step_down(heir, wished)
        if wished and (self.contends or heir):
            self.stand_back()
        return None

    def set_position(self, position: int) -> None:
        """Tell how fresh this node's data is."""
        self.position = position
        self.take_over_from_lesser()

    # --- what happens on the links ----------------------------------------------------------------

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case Claim():
                self.consider(sender, message)
            case Accept(term=term):
                self.on_accept(sender, term)
            case Refuse():
                self.on_refuse(sender, message)
            case Lead():
                self.on_lead(sender, message)
            case Follow():
                self.on_follow(sender, message)
            case Resign():
                self.on_resign(sender, message)
            case _:
                self.node.ignore("not a message of this algorithm")

    def fire(self, purpose: str) -> None:
        match purpose:
            case "campaign":
                self.waiting = False
                if self.leader is None and self.role is Role.FOLLOWER:
                    self.try_now()
            case "answers":
                if self.role is Role.CANDIDATE:
                    self.lose()
            case "takeover":
                self.take_over_from_lesser()
            case "tenure":
                if self.role is Role.LEADER and self.lease <= self.node.now:
                    self.step_down()
                    self.seek()

    def peer_found(self, peer: NodeId) -> None:
        """A connection to the peer stands."""
        if self.role is Role.LEADER:
            self.announce_to(peer)
            return
        leaderless = self.leader is None and self.role is Role.FOLLOWER
        if leaderless and (not self.waiting or (self.node.is_gathering and self.node.all_connected)):
            self.seek()

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to the peer broke: for an algorithm that waits for this peer alone."""

    # --- choosing: when to try --------------------------------------------------------------------

    def campaign(self) -> None:
        """Find out who should lead, and `claim` if it is me. Each algorithm has its own way."""
        raise NotImplementedError

    def seek(self) -> None:
        """There is no leader: try when my turn comes."""
        if not self.may_try:
            return
        low, high = self.turn()
        if self.node.is_gathering and not self.node.all_connected and not self.leader_term:
            low = max(low, self.node.gathered_at - self.node.now)
        low = max(low, self.quiet_until - self.node.now, self.stands_back_until - self.node.now)
        high = max(low, high)
        if high <= 0 and not self.node.has_much_to_say:
            self.try_now()
        else:
            self.wait(low, high)

    def try_now(self) -> None:
        if self.may_try:
            self.disarm("campaign")
            self.waiting = False
            self.deterred_until = float("-inf")
            self.campaign()

    @property
    def may_try(self) -> bool:
        """Whether a quorum can be reached at all; a connection that comes back is a new occasion."""
        if not self.contends or self.node.recalled is not None:
            return False
        return self.node.membership.is_quorum(self.node.reachable)

    @cached_property
    def betters(self) -> tuple[NodeId, ...]:
        """Those who may lead and outrank me, positions apart."""
        mine = self.rank_of(self.me)
        return tuple(id for id in self.node.membership.candidates if self.rank_of(id) > mine)

    def turn(self) -> tuple[float, float]:
        """How long to wait before trying: in order of rank, so that the best usually wins alone."""
        timing = self.node.timing
        match self.node.settings.stagger:
            case "rank":
                ahead = sum(id in self.node.reachable and id != self.departed for id in self.betters)
                low = ahead * timing.rank_slot
                return low, low + min(self.attempts, 8) * timing.patience
            case "random":
                return 0.0, timing.lease
            case "none":
                return 0.0, min(self.attempts, 8) * timing.patience

    def wait(self, low: float, high: float) -> None:
        """Try later, unless a leader appears."""
        if self.contends:
            self.waiting = True
            self.arm("campaign", low, high)

    def wait_for_another(self) -> None:
        """Somebody else is about to lead: try only if nothing comes of it."""
        low, high = self.turn()
        self.wait(self.node.timing.patience + low, self.node.timing.patience + high)

    # --- claiming and backing: who may ------------------------------------------------------------

    def claim(self, newest: Term = 0) -> None:
        """Ask every voter to back me for the term after the newest. I back myself as durably as any other,
        and do not lead before; but to be asked, nobody need wait for my disk."""
        term = max(self.promise.term, newest) + 1
        claim = self.claim_for(term)
        if self.objection(self.me, claim):
            return self.lose()
        self.stand(term)
        for voter in self.node.membership.voters:
            if voter != self.me:
                self.send(voter, claim)
        self.keep(term, self.me)
        self.changed()
        self.send(self.me, Accept(self.name, term))
        return self.arm_answers()

    def stand(self, term: Term) -> None:
        """Stop being what I was: I ask for this term."""
        self.free_myself_for(self.me)
        self.role, self.claimed = Role.CANDIDATE, term
        self.backers = self.refusers = frozenset()

    def claim_for(self, term: Term) -> Claim:
        return self.claim_type(self.name, term, self.position)

    def arm_answers(self) -> None:
        timing = self.node.timing
        if self.node.settings.stagger == "random":
            self.arm("answers", timing.lease, 2 * timing.lease)
        else:
            patience = timing.patience * 2 ** min(self.attempts, 4)
            self.arm("answers", patience, patience)

    def consider(self, claimant: NodeId, claim: Claim) -> None:
        """Back the claimant if nothing stands against it."""
        objection = self.objection(claimant, claim)
        if objection is Reason.LEADER_LIVES and self.gives_way_to(claimant, claim.position):
            self.give_up(claimant)
            objection = self.objection(claimant, claim)
        if objection is None:
            self.back(claimant, claim.term)
            self.send(claimant, Accept(self.name, claim.term))
        else:
            self.decline(claimant, claim, objection)

    def decline(self, claimant: NodeId, claim: Claim, objection: Reason) -> None:
        if objection in (Reason.LEADER_LIVES, Reason.JUST_RESTARTED):
            return self.hold(claimant, claim)
        if objection in (Reason.NOT_A_VOTER, Reason.INELIGIBLE):
            return self.node.ignore(f"claim: {objection}")
        self.adopt(claim.term)
        self.send(claimant, Refuse(self.name, claim.term, self.promise.term, objection))
        return self.refused(claimant, objection)

    def objection(self, claimant: NodeId, claim: Claim) -> Reason | None:
        """Why I may not back this claim, or None."""
        if self.me not in self.node.membership.voters:
            return Reason.NOT_A_VOTER
        if claimant not in self.node.membership.candidates:
            return Reason.INELIGIBLE
        if claim.term > MAX_TERM:
            return Reason.NO_TERM_LEFT
        if claim.term < self.promise.term or self.has_followed(claimant, claim.term):
            return Reason.OLD_TERM
        if claim.term == self.promise.term and self.has_backed_another(claimant):
            return Reason.BACKED_ANOTHER
        if self.is_amnesiac():
            return Reason.JUST_RESTARTED
        if self.is_sticky(claimant):
            return Reason.LEADER_LIVES
        return self.misgiving(claimant, claim)

    def has_followed(self, claimant: NodeId, term: Term) -> bool:
        """The claim has long been won: backing it again would forget my support for the winner."""
        return self.leader == claimant and term <= self.leader_term

    def has_backed_another(self, claimant: NodeId) -> bool:
        return self.promise.backed not in (None, claimant)

    def is_amnesiac(self) -> bool:
        """I restarted less than a lease ago, and what I promised before is not in my store."""
        return self.node.now < self.quiet_until

    def is_sticky(self, claimant: NodeId) -> bool:
        """I am a leader with a lease, or promised another my support and am still bound."""
        if self.role is Role.LEADER:
            return self.node.now < self.lease
        return self.leader not in (None, claimant) and self.node.peers[self.leader].stands(self.node.now)

    def misgiving(self, claimant: NodeId, claim: Claim) -> Reason | None:
        """What the algorithm itself holds against a claim, such as stale data."""
        return None

    def refused(self, claimant: NodeId, objection: Reason) -> None:
        """I refused this claim, and may have lost my own candidacy to its term."""
        if self.leader is None and self.role is Role.FOLLOWER and not self.waiting:
            self.seek()

    def back(self, claimant: NodeId, term: Term) -> None:
        self.free_myself_for(claimant)
        self.abandon()
        self.keep(term, claimant)
        self.changed()
        self.wait_for_another()

    def free_myself_for(self, claimant: NodeId) -> None:
        """Before I back anyone: if I lead, resign; if I have followed another, who may not know that I am
        no longer bound to it here, my support for it from now on is another stretch."""
        if self.role is Role.LEADER:
            self.step_down()
        if self.leader not in (None, claimant):
            self.node.peers[self.leader].begin_stretch()
        self.forget_leader()

    def keep(self, term: Term, backed: NodeId | None, epoch: Term | None = None) -> None:
        """Change my promise; the driver makes it durable before anything later leaves this node."""
        epoch = self.promise.epoch if epoch is None else epoch
        self.promise = Promise(self.name, term, backed, epoch)
        self.node.out.append(Save(self.promise))

    def adopt(self, term: Term) -> None:
        """Somebody has a newer term. My support for a leader of an older one goes on."""
        if term <= self.promise.term:
            return
        if self.role is Role.LEADER:
            self.give_up()
        if self.role is Role.LEADER:
            return
        self.keep(term, None)
        if self.role is Role.CANDIDATE:
            self.abandon()
        self.changed()

    def on_accept(self, voter: NodeId, term: Term) -> None:
        if term > self.promise.term or voter not in self.node.membership.voters:
            return self.node.ignore("an Accept of what I have never claimed")
        if not self.claimed or term != self.claimed:
            return None
        self.backers |= {voter}
        if self.me in self.backers and self.node.membership.is_quorum(self.backers):
            self.win()
        return None

    def on_refuse(self, voter: NodeId, refusal: Refuse) -> None:
        if refusal.newest > self.promise.term:
            self.adopt(refusal.newest)
            if self.leader is None and not self.waiting:
                self.seek()
        elif self.role is Role.CANDIDATE and refusal.term == self.promise.term and self.claimed:
            self.count_refusal(voter)

    def count_refusal(self, voter: NodeId) -> None:
        """A refusal by so many that the rest within reach are no quorum ends the round at once."""
        self.refusers |= {voter}
        left = [v for v in self.node.reachable if v not in self.refusers]
        if not self.node.membership.is_quorum(left):
            self.lose()

    def lose(self) -> None:
        """This round came to nothing."""
        self.abandon()
        self.attempts += 1
        self.changed()
        self.seek()

    def abandon(self) -> None:
        """Stop being a candidate."""
        self.claimed = 0
        if self.role is Role.CANDIDATE:
            self.role = Role.FOLLOWER
            self.disarm("answers")

    # --- leading ----------------------------------------------------------------------------------

    def win(self) -> None:
        term, self.claimed = self.claimed, 0
        self.disarm("answers")
        self.role = Role.LEADER
        self.leader, self.leader_term, self.leader_position = self.me, term, self.position
        self.followers, self.heirs, self.secured = frozenset(), frozenset(), False
        self.assured = float("-inf")
        self.attempts, self.takeovers, self.held, self.intended = 0, 0, (), None
        self.occupied, self.giving_up = False, None
        self.deterred_until = float("-inf")
        self.settle(term)
        self.changed()
        for peer in self.node.peers:
            self.announce_to(peer)
        self.node.began_leading(self)
        self.arm("tenure", self.node.timing.lease, self.node.timing.lease)

    def settle(self, term: Term) -> None:
        """A leadership is established, mine or another's: ZAB keeps its number as the current epoch."""

    def announce_to(self, peer: NodeId) -> None:
        if peer != self.me:
            self.send(peer, Lead(self.name, self.leader_term, self.position))

    def on_follow(self, voter: NodeId, follow: Follow) -> None:
        if self.role is not Role.LEADER or follow.term != self.leader_term:
            return self.send(voter, Resign(self.name, follow.term, None, False))
        pair = (follow.incarnation, follow.epoch)
        if pair < self.node.peers[voter].pair:
            return self.node.ignore("a Follow of an older stretch of support")
        if voter in self.node.membership.voters:
            if follow.incarnation > self.node.peers[voter].pair[0]:
                self.assure()
            rest = frozenset(other for other in self.followers if other[0] != voter)
            self.followers = rest | {(voter, pair)}
            contends = follow.contends and voter in self.node.membership.candidates
            self.heirs = self.heirs | {voter} if contends else self.heirs - {voter}
        self.node.followed(self, voter)
        return self.hand_over()

    @property
    def lease(self) -> float:
        """I lead until then, on my clock: so long a quorum supports me. -inf if none does."""
        return max(self.assured, self.node.supported_until(self.followers))

    def assure(self) -> None:
        """One of my supporters is about to count anew, in its next life: what the last one promised holds."""
        self.assured = self.lease

    def step_down(self, heir: NodeId | None = None, wished: bool = False) -> None:
        """End my leadership first, then say so: the voters are free from now on."""
        self.role = Role.FOLLOWER
        self.leader, self.departed = None, self.me
        self.followers, self.heirs, self.secured = frozenset(), frozenset(), False
        self.assured, self.occupied, self.giving_up = float("-inf"), False, None
        self.node.ceased_leading(self)
        self.disarm("tenure")
        for peer in self.node.peers:
            self.send(peer, Resign(self.name, self.leader_term, heir, wished))
        self.changed()

    # --- following --------------------------------------------------------------------------------

    def on_lead(self, sender: NodeId, lead: Lead) -> None:
        if lead.term < self.promise.term:
            return self.send(sender, Refuse(self.name, lead.term, self.promise.term, Reason.OLD_TERM))
        if sender not in self.node.membership.candidates:
            return self.node.ignore("a Lead from one who may not lead")
        if self.role is Role.LEADER and lead.term == self.leader_term:
            return self.face_rival(sender, lead)
        self.follow(sender, lead)
        return self.take_over_from_lesser()

    def follow(self, leader: NodeId, lead: Lead) -> None:
        if self.role is Role.LEADER:
            self.step_down()
        self.abandon()
        if lead.term > self.promise.term:
            self.keep(lead.term, leader)
        if lead.term > self.promise.epoch:
            self.settle(lead.term)
        self.disarm("campaign")
        self.waiting, self.attempts, self.held = False, 0, ()
        self.leader, self.leader_term, self.leader_position = leader, lead.term, lead.position
        self.say_follow(leader)
        self.changed()

    def say_follow(self, leader: NodeId) -> None:
        incarnation, epoch = self.node.watch(leader)
        self.send(leader, Follow(self.name, self.leader_term, incarnation, epoch, self.contends))

    def face_rival(self, rival: NodeId, lead: Lead) -> None:
        """Two leaders of one term meet: the split brain of the textbook quorum heals by rank."""
        if self.rank > self.rank_of(rival, lead.position):
            self.announce_to(rival)
        else:
            self.follow(rival, lead)

    def on_resign(self, sender: NodeId, resign: Resign) -> None:
        """The leader has ended its leadership; if I am its heir, it is for me to claim."""
        if sender == self.leader and resign.term >= self.leader_term:
            self.forget_leader()
            self.changed()
        elif resign.heir != self.me or self.leader is not None:
            return self.node.ignore("a Resign from one who does not lead")
        if resign.wished:
            self.deterred_until = float("inf")
        if self.release_held() or self.role is not Role.FOLLOWER:
            return None
        if resign.heir == self.me and self.contends:
            self.stands_back_until = float("-inf")
            self.adopt(resign.term)
            self.disarm("campaign")
            self.waiting = False
            return self.claim()
        return self.seek() if resign.heir is None else self.wait_for_another()

    def leader_fell(self) -> None:
        """The leader has been silent for a lease, or its process is gone."""
        self.deterred_until = float("-inf")
        self.forget_leader()
        self.changed()
        if not self.release_held() and self.role is Role.FOLLOWER:
            self.seek()

    def forget_leader(self) -> None:
        if self.leader is not None:
            self.departed, self.leader = self.leader, None

    def hold(self, sender: NodeId, message: ElectionMessage) -> None:
        """Keep a question for a moment: the news that frees me may be on its way. It may also be lost, while
        the leader of this election lives on as that of another: I tell it that I follow, and it objects.
        If the leader is me, whoever asks does not know."""
        if self.role is Role.LEADER:
            self.announce_to(sender)
        others = tuple(held for held in self.held if held[0] != sender)
        self.held = (*others, (sender, message, self.node.now + self.node.timing.patience))
        if self.leader not in (None, self.me):
            self.say_follow(self.leader)

    def release_held(self) -> bool:
        """I am free: answer what I have held. Returns whether there was anything."""
        held, self.held = self.held, ()
        current = [(sender, message) for sender, message, until in held if self.node.now < until]
        for sender, message in current:
            self.receive(sender, message)
        return bool(current)

    # --- taking over from a living leader ---------------------------------------------------------

    def outranks(self, leader: NodeId, position: int) -> bool:
        """Whether I should lead in place of this leader, as far as rank goes."""
        return self.contends and self.node.settings.preempts and self.rank > self.rank_of(leader, position)

    def gives_way_to(self, claimant: NodeId, position: int) -> bool:
        """Whether I, the leader, should hand over to this claimant."""
        return (
            self.role is Role.LEADER
            and self.node.settings.preempts
            and self.rank_of(claimant, position) > self.rank
        )

    def take_over_from_lesser(self) -> None:
        """If I outrank the leader that I follow, ask it to hand over; it answers by a Resign that names me
        its heir. If it does not come to that, ask again later, and less and less often."""
        if self.leader in (None, self.me) or not self.outranks(self.leader, self.leader_position):
            return
        timing = self.node.timing
        wait = max(self.deterred_until, self.quiet_until) - self.node.now
        if wait <= 0 and self.may_try:
            self.send(self.leader, self.claim_for(self.promise.term + 1))
            wait = 2 * timing.lease * 2 ** min(self.takeovers, 6)
            self.takeovers += 1
            self.deterred_until = self.node.now + wait
        if wait < float("inf"):
            self.arm("takeover", max(wait, timing.patience), max(wait, timing.patience))

    # --- saying it --------------------------------------------------------------------------------

    def send(self, to: NodeId, message: ElectionMessage) -> None:
        """Say it, if there is a connection; what nobody hears costs nothing."""
        peer = self.node.peers.get(to)
        if to == self.me or (peer is not None and peer.connected):
            self.node.out.append(Send(to, message))

    def arm(self, purpose: str, low: float, high: float) -> None:
        self.node.out.append(Arm((purpose, self.name), low, high))

    def disarm(self, purpose: str) -> None:
        self.node.out.append(Disarm((purpose, self.name)))

    def changed(self) -> None:
        """Tell the local user, if what it can see has changed."""
        term = self.promise.term if self.leader is None else self.leader_term
        view = View(self.name, self.shown_role, self.leader, term, self.secured, self.giving_up is not None)
        if view != self.view:
            self.view = view
            self.node.out.append(Changed(view))

    def state(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self.fields)
