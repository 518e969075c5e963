"""What all four algorithms share: ask, claim, back, announce, follow, resign.

An algorithm chooses who tries next; this base decides who may lead. The safety argument is here, whole:

1. A voter backs at most one claimant per term, durably, before it says so (`back`).
2. A claimant leads once a quorum has backed it, itself included (`on_accept`), and two quorums share a
   voter: so a term has at most one leader, and leads it once.
3. A voter backs nobody while it supports another living leader (`is_sticky`), from its Follow on and as long
   as its promise lasts, nor for a lease after a restart in which it may have forgotten such support
   (`is_amnesiac`). A promise to a process that is proven to be gone binds nobody (`Node.bury`).
4. A leader counts on a quorum of supports only (`lease`), and resigns before it backs another
   (`step_down`): so when a quorum backs the next leader, the lease of the last one has ended.
5. While work rests on a leadership, it is not given away (`give_up`): it ends with its lease, or when the
   work has ended. So the work of one leader is over before the next leader is elected.

    role        waits for                   and then
    follower    its leader to fall silent   tries in its turn (`seek`)
    candidate   a quorum of Grants          claims, or loses the round and tries again
    candidate   a quorum of Accepts         leads, or loses the round and tries again
    leader      nothing                     steps down when its lease ends, or a newer term is heard of

Somebody always tries: whatever an event was, a contender that it leaves without a leader, and that does not
try nor is about to, seeks (`keep_trying`). And who cannot reach a quorum disturbs nobody: it does not raise
its term, because it asks before it claims (`canvass`; the ring's token and ZAB's votes ask as well).

A message with an older term is answered with the newer one; a newer term is adopted, which by itself
frees no voter from its support. A claim that comes while the support stands is held for a moment instead of
being refused: news of a leader's end travels on several links, and the claimant's word may overtake it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from electorate.core.model import (
    MAX_TERM,
    NO_SUPPORT,
    NOBODY,
    Accept,
    Arm,
    Changed,
    Claim,
    Disarm,
    ElectionMessage,
    Follow,
    Grant,
    Kind,
    Lapse,
    Lead,
    NodeId,
    PreVote,
    Promise,
    QuorumRule,
    Rank,
    Reason,
    Refuse,
    Resign,
    Role,
    Save,
    Send,
    Term,
    TransferLapsed,
    View,
)

if TYPE_CHECKING:
    from electorate.core.liveness import Followers
    from electorate.core.node import Node


class Elector:
    """One election on one node. Fields hold immutable values only, so that `state` is a copy."""

    claim_type: ClassVar[type[Claim]]

    fields: ClassVar[tuple[str, ...]] = (
        *("promise", "role", "leader", "leader_term", "leader_position", "departed", "contends", "position"),
        *(
            "asked",
            "asked_at",
            "claimed",
            "backers",
            "refusers",
            "forced",
            "heard",
            "followers",
            "contenders",
            "unready",
            "intended",
            "secured",
        ),
        *("assured", "occupied", "giving_up", "held", "waiting", "attempts", "takeovers"),
        *("deterred_until", "stands_back_until", "has_voted_before", "floor", "view"),
    )
    """What `state` consists of; an algorithm adds its own."""

    def __init__(self, node: Node, name: str, promise: Promise | None) -> None:
        self.node = node
        self.name = name
        self.floor: Term = 0 if promise else node.floor
        """What I did in terms up to this one, if anything, is forgotten."""
        self.promise = promise or self.unspoken
        self.brought_by: NodeId | None = None
        """Who spoke of it first, I or another, if it is not from the store."""
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.leader_term: Term = 0
        self.leader_position = 0
        self.departed: NodeId | None = None
        """The last leader, once it has resigned or fallen silent."""
        self.contends = False
        self.position = 0
        self.asked: Term = 0
        """The term that I would claim, and have asked about; or 0."""
        self.asked_at = 0.0
        """When I last asked anything of the others."""
        self.claimed: Term = 0
        """The term that I am claiming, or 0."""
        self.backers: frozenset[NodeId] = frozenset()
        self.refusers: frozenset[NodeId] = frozenset()
        self.forced = False
        """A user wants me to lead, though others may be fresher."""
        self.heard: Term = 0
        """The newest term that I have heard of while I led: it is adopted when the work has ended."""
        self.followers: Followers = frozenset()
        """The voters that follow me, each with the stretch of support that counts for it."""
        self.contenders: Mapping[NodeId, int] = MappingProxyType({})
        """Those of them that contend, and their positions as last heard: I can hand over to one."""
        self.unready: frozenset[NodeId] = frozenset()
        """Those that have just restarted, and cannot lead yet."""
        self.intended: tuple[NodeId, float, bool] | None = None
        """To whom I am to hand over as soon as it can lead, until when I want to, and whether by force."""
        self.secured = False
        """My leadership has had its lease; when that ends, so does the leadership."""
        self.assured = float("-inf")
        """The lease that a quorum had promised me when last a voter of it restarted. It is kept: who restarts
        backs nobody for a lease."""
        self.occupied = False
        """Work of the local user rests on my leadership."""
        self.giving_up: tuple[NodeId | None, bool, bool] | None = None
        """When that work has ended, I hand over: to whom, whether by a wish, and whether by force."""
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
        self.has_voted_before = promise is not None and promise.term > 0
        """In an earlier life I may have promised my support here."""
        self.view = View(name, self.shown_role, None, self.promise.term)

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
    def is_ready(self) -> bool:
        """If I want to lead, I could now."""
        return not (self.contends and self.is_amnesiac())

    @property
    def quiet_until(self) -> float:
        """Before then I back nobody: what an earlier life of mine promised is not in my store."""
        forgotten = self.has_voted_before or self.node.lost_store
        return self.node.quiet_until if forgotten else float("-inf")

    @property
    def is_idle(self) -> bool:
        """Nobody leads here that I know of, neither I nor my user want anything, and I have not promised
        anything before I restarted that may last."""
        at_rest = self.leader is None and self.role is Role.FOLLOWER and not (self.waiting or self.holds)
        return at_rest and not (self.contends or self.position or self.is_amnesiac())

    @property
    def holds(self) -> bool:
        """A question that was asked of me is still to be answered."""
        return any(self.node.now < until for _, _, until in self.held)

    @property
    def unspoken(self) -> Promise:
        """What I have promised if I remember nothing."""
        return Promise(self.name, self.floor, NOBODY if self.floor else None)

    @property
    def is_forgotten(self) -> bool:
        """I know nothing of it but that I may have voted in terms up to the floor."""
        return 0 < self.promise.term == self.floor

    @property
    def is_blank(self) -> bool:
        """There is nothing to be remembered of it."""
        return self.is_idle and self.promise == self.unspoken

    @property
    def is_deterred(self) -> bool:
        return self.node.now < self.deterred_until

    @property
    def heeds_a_wish(self) -> bool:
        """Whoever leads, or is about to, was elected by a wish: that holds until it ends of itself."""
        return self.deterred_until == float("inf")

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
        if not self.heeds_a_wish:
            self.deterred_until = float("-inf")
        self.node.restless[self.name] = self
        self.changed()
        if self.leader not in (None, self.me):
            self.say_follow(self.leader)
            self.take_over_from_lesser()

    def withdraw(self) -> None:
        """No longer want to lead."""
        self.contends = False
        self.disarm("campaign")
        self.waiting = False
        if self.role is Role.CANDIDATE:
            self.abandon()
            self.changed()
        elif self.leader not in (None, self.me):
            self.say_follow(self.leader)
        self.conclude()

    def resign(self) -> None:
        """Hand over to the best of those that contend, and stand back for a lease."""
        if self.role is not Role.LEADER:
            return self.node.ignore("only a leader can resign")
        self.end_transfer("overruled")
        self.giving_up = (None, True, False)
        return self.conclude()

    def transfer(self, heir: NodeId, force: bool = False) -> None:
        """End my leadership in favour of one that contends: when it says that it follows, with data as fresh
        as mine (or by force), but within a lease. A transfer to myself takes back what was wished before; to
        the same node again, it does not wait for longer."""
        if self.role is not Role.LEADER:
            return self.node.ignore("only a leader can transfer")
        if not self.may_inherit(heir):
            return self.node.ignore("the heir may not lead, or does not contend")
        if self.intended is None or self.intended[0] != heir:
            self.end_transfer("overruled")
            if self.giving_up is not None and self.giving_up[1]:
                self.giving_up = None if heir == self.me else (None, True, False)
        if heir == self.me:
            return self.changed()
        if self.intended is None:
            self.arm("transfer", self.node.timing.lease, self.node.timing.lease)
            self.intended = (heir, self.node.now + self.node.timing.lease, force)
        self.intended = (*self.intended[:2], force)
        return self.announce_to(heir)

    def may_inherit(self, node: NodeId) -> bool:
        """It contends, or has not told me yet whether it does."""
        if node == self.me:
            return self.contends
        follows = any(follower == node for follower, _ in self.followers)
        return node in self.contenders or (node in self.node.membership.candidates and not follows)

    def hand_over(self, follower: NodeId) -> None:
        """If this is the intended heir, and ready, end my leadership in its favour: it lives, for it has just
        said that it follows."""
        if self.intended is None or self.intended[0] != follower:
            return
        heir, until, force = self.intended
        ready = heir in self.able and self.node.peers[heir].connected
        if ready and (force or not self.is_behind(heir)) and self.node.now < until:
            self.give_up(heir, wished=True, force=force)

    def transfer_lapsed(self) -> None:
        """The heir has not become ready; if it has, only the work is waited for."""
        if self.intended is not None and self.awaits_heir:
            heir = self.intended[0]
            is_quiet = heir in self.contenders and not self.node.peers[heir].is_there(self.node.now)
            self.end_transfer("quiet" if is_quiet else "late")
            self.conclude()

    def end_transfer(self, why: Lapse) -> None:
        """What was wished is wished no longer: whoever has asked for it is to hear so."""
        if self.intended is not None:
            heir = self.intended[0]
            follows = heir in self.contenders
            behind = (self.contenders[heir], self.freshest) if follows and self.is_behind(heir) else None
            self.node.out.append(TransferLapsed(self.name, heir, behind, why))
            self.intended = None
            self.disarm("transfer")

    @property
    def awaits_heir(self) -> bool:
        """I am to hand over to one that is not ready yet."""
        return self.intended is not None and (self.giving_up is None or self.giving_up[0] != self.intended[0])

    def is_behind(self, heir: NodeId) -> bool:
        """Its data, as last heard of, is older than mine or that of another who would lead."""
        return self.is_staler(self.contenders[heir], self.freshest)

    @property
    def freshest(self) -> int:
        """The largest position of those who could lead now: mine, or that of one who follows me."""
        return max([self.position, *(self.contenders[id] for id in self.ready_heirs)])

    def is_staler(self, position: int, than: int) -> bool:
        """Whether a voter at one position objects to a claimant at the other: not in every algorithm."""
        return False

    @property
    def best_heir(self) -> NodeId | None:
        fresh = [heir for heir in self.ready_heirs if not self.is_behind(heir)]
        return max(fresh, key=lambda heir: self.rank_of(heir, self.contenders[heir]), default=None)

    @property
    def able(self) -> list[NodeId]:
        """The contenders that could lead."""
        return [heir for heir in self.contenders if heir not in self.unready]

    @property
    def ready_heirs(self) -> list[NodeId]:
        return [heir for heir in self.able if self.node.peers[heir].is_there(self.node.now)]

    def stand_back(self) -> None:
        """Let another lead: try again only when it has, or if nobody does."""
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
        self.conclude()

    @property
    def is_to_yield(self) -> bool:
        """I lead, but not for longer than I must."""
        return self.role is Role.LEADER and (self.giving_up is not None or not self.contends)

    def conclude(self) -> None:
        """Hand over, if that is wanted; but the user's work comes first, and an heir that is awaited."""
        if not self.is_to_yield or self.works or self.awaits_heir:
            return self.changed()
        heir, wished, force = self.giving_up or (None, False, False)
        if heir not in self.ready_heirs:
            if self.intended is not None and self.node.now < self.intended[1]:
                self.giving_up = (None, wished, False)
                return self.changed()
            return self.give_up(self.best_heir, wished)
        if force or not (wished and self.is_behind(heir)):
            return self.give_up(heir, wished, force)
        self.intended, self.giving_up = None, (None, wished, False)
        return self.transfer(heir)

    @property
    def works(self) -> bool:
        """Work rests on my leadership, as long as that lasts."""
        return self.occupied and self.node.now < self.lease

    def give_up(self, heir: NodeId | None = None, wished: bool = False, force: bool = False) -> None:
        """End my leadership in favour of the heir, but the user's work first. Who claims itself is ready."""
        if heir is not None and not wished:
            self.unready -= {heir}
        if self.works:
            if heir is not None or self.giving_up is None:
                self.giving_up = (heir, wished, force)
            return self.changed()
        self.step_down(heir, wished, force)
        self.adopt(self.heard)
        if wished and (self.contends or heir):
            self.stand_back()
        elif heir is not None and self.contends:
            self.wait_for_another()
        elif heir is not None:
            self.stands_back_until = self.node.now + self.node.timing.lease
        return None

    def set_position(self, position: int) -> None:
        """Tell how fresh this node's data is. A leader hears of it with its next beat."""
        self.position = position
        if self.leader in self.node.peers:
            self.node.moved[self.leader][self.name] = self
        self.take_over_from_lesser()

    # --- what happens on the links ----------------------------------------------------------------

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case PreVote():
                self.on_pre_vote(sender, message)
            case Grant(term=term):
                self.on_grant(sender, term)
            case Claim():
                self.consider(sender, message)
            case Accept():
                self.on_accept(sender, message)
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
                self.node.restless[self.name] = self
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
            case "transfer":
                self.transfer_lapsed()

    def peer_found(self, peer: NodeId) -> None:
        """A connection to the peer stands."""
        self.node.restless[self.name] = self
        if self.role is Role.LEADER and self.node.has_much_to_say:
            self.node.untold[peer][self.name] = self
        elif self.role is Role.LEADER:
            self.node.say_lead(peer, self)
        elif self.leader == peer and self.node.has_much_to_say:
            self.node.moved[peer][self.name] = self
        elif self.leader == peer:
            self.say_follow(peer)
        elif self.leader is None and self.role is Role.FOLLOWER and self.node.all_gathered:
            self.seek()

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to the peer broke: for an algorithm that waits for this peer alone."""

    # --- choosing: when to try --------------------------------------------------------------------

    def campaign(self) -> None:
        """Find out who should lead, and `claim` if it is me. Each algorithm has its own way."""
        raise NotImplementedError

    def keep_trying(self) -> None:
        """Somebody must always be about to try: if nobody leads, and I do not try already, I seek."""
        if self.leader is None and self.role is Role.FOLLOWER and not self.waiting:
            self.seek()

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
        if not self.contends or self.node.rejoin is not None:
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

    # --- asking: would a quorum back me? ------------------------------------------------------------

    def canvass(self) -> None:
        """Ask every voter whether it would back me, and claim once a quorum would. This raises no term and
        persists nothing: who cannot reach a quorum disturbs nobody when it comes back."""
        if not self.asks_first:
            return self.claim()
        question = PreVote(self.name, self.promise.term + 1, self.position, self.insists)
        if self.objection(self.me, question):
            return self.lose()
        self.role = Role.CANDIDATE
        self.asked = question.term
        self.backers, self.refusers = frozenset({self.me}), frozenset()
        self.changed()
        self.arm_answers()
        for voter in self.node.membership.voters:
            if voter != self.me:
                self.send(voter, question)
        return self.count_grants()

    @property
    def asks_first(self) -> bool:
        textbook = self.node.membership.rule is QuorumRule.TEXTBOOK
        return self.node.settings.pre_vote and not textbook

    @property
    def insists(self) -> bool:
        """Back me though your data is fresher: not in every algorithm."""
        return False

    def on_pre_vote(self, sender: NodeId, question: PreVote) -> None:
        objection = self.objection(sender, question)
        if objection is None:
            self.send(sender, Grant(self.name, question.term))
        elif objection is Reason.LEADER_LIVES:
            self.hold(sender, question)
        elif objection not in (Reason.JUST_RESTARTED, Reason.INELIGIBLE, Reason.NOT_A_VOTER):
            self.send(sender, Refuse(self.name, question.term, self.promise.term, objection))
            self.refused(sender, objection)

    @property
    def is_late(self) -> bool:
        """I asked so long ago that the answers tell who was there, and not who is: I have slept meanwhile."""
        return self.node.now >= self.asked_at + self.longest_wait

    @property
    def longest_wait(self) -> float:
        """An answer that is worth something comes within this time."""
        return 2 * self.node.timing.lease

    def on_grant(self, voter: NodeId, term: Term) -> None:
        if voter not in self.node.membership.voters:
            return self.node.ignore("a Grant of one who does not vote")
        if self.is_late:
            return self.node.ignore("an answer from before I slept")
        if self.asked and term == self.asked:
            self.backers |= {voter}
            self.count_grants()
        return None

    def count_grants(self) -> None:
        if self.node.membership.is_quorum(self.backers):
            self.asked = 0
            self.claim()

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
        self.send(self.me, Accept(self.name, term, self.node.incarnation))
        return self.arm_answers()

    def stand(self, term: Term) -> None:
        """Stop being what I was: I claim this term."""
        self.free_myself_for(self.me)
        self.role, self.asked, self.claimed = Role.CANDIDATE, 0, term
        self.backers = self.refusers = frozenset()

    def claim_for(self, term: Term) -> Claim:
        return self.claim_type(self.name, term, self.position)

    def arm_answers(self) -> None:
        self.asked_at = self.node.now
        timing = self.node.timing
        if self.node.settings.stagger == "random":
            self.arm("answers", timing.lease, 2 * timing.lease)
        else:
            patience = timing.patience * 2 ** min(self.attempts, 4)
            self.arm("answers", patience, patience)

    def consider(self, claimant: NodeId, claim: Claim) -> None:
        """Back the claimant if nothing stands against it."""
        objection = self.objection(claimant, claim)
        if objection is Reason.LEADER_LIVES and self.gives_way_to(claimant, claim):
            self.give_up(claimant)
            objection = self.objection(claimant, claim)
        if objection is None:
            self.back(claimant, claim.term)
            self.send(claimant, Accept(self.name, claim.term, self.node.incarnation))
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
        if not self.node.may_lead(claimant):
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
        """I refused this claim: for an algorithm in which that is a reason to try."""

    def back(self, claimant: NodeId, term: Term) -> None:
        self.free_myself_for(claimant)
        self.abandon()
        self.keep(term, claimant)
        self.changed()
        self.wait_for_another()

    def free_myself_for(self, claimant: NodeId) -> None:
        """Before I back anyone: if I lead, resign; if I follow one, it must not count on me here any more. My
        promise to it has run out, so my support from now on is another stretch; or it stands, and who claims
        is my leader itself, which has ended its leadership first."""
        if self.role is Role.LEADER:
            self.step_down()
        elif self.leader is not None:
            self.node.peers[self.leader].lapse(self.node.now)
        self.forget_leader()

    def keep(self, term: Term, backed: NodeId | None, epoch: Term | None = None) -> None:
        """Change my promise; the driver makes it durable before anything later leaves this node."""
        epoch = self.promise.epoch if epoch is None else epoch
        self.promise = Promise(self.name, term, backed, epoch)
        self.node.out.append(Save(self.promise))

    def adopt(self, term: Term) -> None:
        """Somebody has a newer term. My support for a leader of an older one goes on."""
        if term <= self.promise.term:
            return None
        if self.role is Role.LEADER:
            self.heard = max(self.heard, term)
            return self.give_up()
        self.keep(term, None)
        if self.role is Role.CANDIDATE:
            self.abandon()
        return self.changed()

    def vote_for_nobody(self, term: Term, lost: bool) -> None:
        """In this term, and before, I may have voted in a life that I do not remember."""
        if term > self.promise.term or (lost and term == self.promise.term):
            self.keep(term, NOBODY)
            self.changed()

    def on_accept(self, voter: NodeId, accept: Accept) -> None:
        if accept.term > self.promise.term or voter not in self.node.membership.voters:
            return self.node.ignore("an Accept of what I have never claimed")
        if not self.claimed or accept.term != self.claimed:
            return None
        if accept.incarnation != self.node.incarnation_of(voter):
            return self.node.ignore("an Accept of another life")
        self.backers |= {voter}
        if self.me in self.backers and self.node.membership.is_quorum(self.backers):
            self.win()
        return None

    def forget_backing(self, voter: NodeId) -> None:
        """Another life of this voter has begun, perhaps with another store."""
        self.backers -= {voter}

    def on_refuse(self, voter: NodeId, refusal: Refuse) -> None:
        if refusal.newest > self.promise.term:
            self.adopt(refusal.newest)
        elif self.role is Role.CANDIDATE and refusal.term in (self.asked, self.claimed) and refusal.term:
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
        self.forced = False
        self.attempts += 1
        self.node.restless[self.name] = self
        self.changed()

    def abandon(self) -> None:
        """Stop being a candidate."""
        self.asked = self.claimed = 0
        if self.role is Role.CANDIDATE:
            self.role = Role.FOLLOWER
            self.node.restless[self.name] = self
            self.disarm("answers")

    # --- leading ----------------------------------------------------------------------------------

    def win(self) -> None:
        term, self.claimed = self.claimed, 0
        self.disarm("answers")
        self.role = Role.LEADER
        self.leader, self.leader_term, self.leader_position = self.me, term, self.position
        self.unready = frozenset()
        self.followers, self.contenders, self.secured = frozenset(), {}, False
        self.assured = float("-inf")
        self.attempts, self.takeovers, self.held, self.intended = 0, 0, (), None
        self.occupied, self.giving_up, self.forced, self.heard = False, None, False, 0
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
        if pair < self.node.peers[voter].pair and follow.epoch != NO_SUPPORT:
            return self.node.ignore("a Follow of an older stretch of support")
        if voter in self.node.membership.voters:
            if follow.incarnation > self.node.peers[voter].pair[0]:
                self.assure()
            rest = frozenset(other for other in self.followers if other[0] != voter)
            self.followers = rest if follow.epoch == NO_SUPPORT else rest | {(voter, pair)}
            self.contenders = {id: at for id, at in self.contenders.items() if id != voter}
            self.unready = self.unready - {voter} if follow.ready else self.unready | {voter}
            if follow.contends and voter in self.node.membership.candidates:
                self.contenders = {**self.contenders, voter: follow.position}
        self.node.followed(self, voter)
        return self.hand_over(voter)

    @property
    def lease(self) -> float:
        """I lead until then, on my clock: so long a quorum supports me. -inf if none does."""
        return self.node.lease(self.name)

    def assure(self) -> None:
        """One of my supporters is about to count anew, in its next life: what the last one promised holds."""
        self.assured = self.lease
        self.node.tenures[self.name] = self.node.tenures[self.name]._replace(assured=self.assured)

    def step_down(self, heir: NodeId | None = None, wished: bool = False, force: bool = False) -> None:
        """End my leadership first, then say so: the voters are free from now on."""
        self.role = Role.FOLLOWER
        self.leader, self.departed = None, self.me
        self.unready = frozenset()
        self.followers, self.contenders, self.secured = frozenset(), {}, False
        if self.intended is not None and self.intended[0] == heir:
            self.intended = None
            self.disarm("transfer")
        self.end_transfer("ended")
        self.occupied, self.giving_up = False, None
        self.assured = float("-inf")
        self.node.ceased_leading(self)
        self.node.restless[self.name] = self
        self.disarm("tenure")
        for peer in self.node.peers:
            self.send(peer, Resign(self.name, self.leader_term, heir, wished, force))
        self.changed()

    # --- following --------------------------------------------------------------------------------

    def on_lead(self, sender: NodeId, lead: Lead) -> None:
        newest = self.leader_term if self.is_forgotten else self.promise.term
        if lead.term < newest:
            return self.send(sender, Refuse(self.name, lead.term, newest, Reason.OLD_TERM))
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
        if self.heeds_a_wish and self.leader not in (None, leader):
            self.deterred_until = float("-inf")
        if lead.term > self.promise.term:
            self.keep(lead.term, leader)
        if lead.term > self.promise.epoch:
            self.settle(lead.term)
        self.disarm("campaign")
        self.waiting, self.forced, self.attempts, self.held = False, False, 0, ()
        self.leader, self.leader_term, self.leader_position = leader, lead.term, lead.position
        self.say_follow(leader)
        self.changed()

    def say_follow(self, leader: NodeId) -> None:
        incarnation, epoch = self.node.watch(leader)
        if self.is_forgotten:
            epoch = NO_SUPPORT
        about = (self.name, self.leader_term, incarnation, epoch)
        self.send(leader, Follow(*about, self.contends, self.position, self.is_ready))
        if self.is_ready:
            self.node.moved[leader].pop(self.name, None)
        else:
            self.node.moved[leader][self.name] = self

    def tell_position(self, leader: NodeId) -> None:
        """It has changed since I said Follow, or I could not lead then; as soon as I can."""
        if self.leader != leader:
            del self.node.moved[leader][self.name]
        elif self.is_ready:
            self.say_follow(leader)

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
        elif self.heeds_a_wish:
            self.deterred_until = float("-inf")
        if resign.heir == self.me and self.contends and self.role is Role.FOLLOWER:
            self.inherit(resign)
        elif self.role is Role.FOLLOWER:
            self.seek() if resign.heir is None and not self.held else self.wait_for_another()
        return self.release_held()

    def inherit(self, resign: Resign) -> None:
        """The leader has ended its leadership in my favour: nobody needs to be asked first."""
        self.stands_back_until = float("-inf")
        self.adopt(resign.term)
        self.disarm("campaign")
        self.waiting, self.forced = False, resign.force
        self.claim()

    def leader_fell(self) -> None:
        """The leader has been silent for a lease, or its process is gone."""
        self.deterred_until = float("-inf")
        self.forget_leader()
        self.changed()
        if self.held and self.role is Role.FOLLOWER:
            self.wait_for_another()
        self.release_held()

    def forget_leader(self) -> None:
        if self.leader is not None:
            self.stands_back_until = float("-inf")
            self.departed, self.leader = self.leader, None
            self.node.restless[self.name] = self

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

    def release_held(self) -> None:
        """I am free: answer what I have held."""
        held, self.held = self.held, ()
        for sender, message, until in held:
            if self.node.now < until:
                self.receive(sender, message)

    # --- taking over from a living leader ---------------------------------------------------------

    def outranks(self, leader: NodeId, position: int) -> bool:
        """Whether I should lead in place of this leader: I am better, and its data is not fresher."""
        better = self.rank > self.rank_of(leader, position) and not self.is_staler(self.position, position)
        return self.contends and self.node.settings.preempts and better

    def gives_way_to(self, claimant: NodeId, claim: Claim) -> bool:
        """Whether I, the leader, should hand over to this claimant: it is better, and can be elected."""
        return (
            self.role is Role.LEADER
            and self.node.settings.preempts
            and self.intended is None
            and self.rank_of(claimant, claim.position) > self.rank
            and self.misgiving(claimant, claim) is None
            and not self.is_staler(claim.position, self.freshest)
        )

    def take_over_from_lesser(self) -> None:
        """If I outrank the leader that I follow, ask it to hand over; it answers by a Resign that names me
        its heir. If it does not come to that, ask again later, and less and less often."""
        if self.leader in (None, self.me) or not self.outranks(self.leader, self.leader_position):
            return
        timing = self.node.timing
        wait = max(self.deterred_until, self.stands_back_until, self.quiet_until) - self.node.now
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
        view = View(self.name, self.shown_role, self.leader, term, self.secured, self.is_to_yield)
        if view != self.view:
            self.view = view
            self.node.out.append(Changed(view))

    def state(self) -> tuple[object, ...]:
        return tuple(frozen(getattr(self, field)) for field in self.fields)


def frozen(value: object) -> object:
    return frozenset(value.items()) if isinstance(value, Mapping) else value
