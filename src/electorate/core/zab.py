"""ZAB: ZooKeeper's fast leader election and the discovery that follows it (Junqueira, Reed & Serafini 2011;
the election as ZooKeeper's servers run it).

A looking node tells all voters its vote, at first for itself, and adopts any better one it hears of: the
order is (peer epoch, zxid, id), so the freshest data wins. A quorum of equal votes that nobody disturbs
for `finalize_wait` decides.

    state       hears                           and so it
    looking     a vote of a newer round         joins that round, with the better of it and its own first vote
                a vote of an older round        tells the sender where the election is
                a better vote in its round      adopts it and tells everybody
                enough equal votes              leads, or follows whom they name
                a quorum that has a leader      follows that one, without an election
    leading     FollowerInfo from a quorum      claims the epoch after the newest one accepted: LeaderInfo
    leading,    Notification of a looking       answers with its settled vote
    following   node

LeaderInfo is the claim and Accept its AckEpoch; a voter does not back a leader whose data is older than
its own. zxid is the position that the application sets; the peer epoch is that of the last leader
followed. Departures from ZooKeeper:

- Priority decides between equal zxids before the id does. Observers say nothing and learn from the leader's
  Lead. With `stagger = "rank"` nodes begin to look in the order of their rank.
- Nobody waits any longer once every voter agrees (with `stagger = "rank"`: every one that can be reached);
  ZooKeeper did so up to 3.3. During the wait a lesser vote takes its sender's agreement back; there it is
  discarded. A vote that is sent again bears the newest zxid of its sender.
- Who has no leader and does not look is taken along by a vote of a newer round. Who does not want to lead,
  and hears of nobody who does, looks no longer: there all servers want to.
- Settled votes of any round count together with looking ones of my own; there the two are counted apart, and
  a settled vote of my round replaces a looking one. A vote for one who may not lead is ignored, with its
  round; there only for one who does not vote.
- The follower refuses a staler leader, where ZooKeeper's leader drops a fresher follower. Only a voter that
  contends does, and a user's force overrides it. An epoch that was accepted before is acknowledged again,
  to the same leader; there the answer is -1, to anybody, and does not count.
- The peer epoch becomes that of the leader with its Lead, and no data is brought up to date before. Who is
  behind counts as one of the new epoch: the freshest data wins among those alone that followed last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from electorate.core.elector import Elector
from electorate.core.model import Claim, ElectionMessage, NodeId, Reason, Role, Term


class State(StrEnum):
    LOOKING = "looking"
    FOLLOWING = "following"
    LEADING = "leading"


class Vote(NamedTuple):
    """For whom, and why: its epoch and data as the voter knows them."""

    peer_epoch: Term
    zxid: int
    priority: int
    leader: NodeId


NO_VOTE = Vote(-1, -1, 0, "")
"""Of a voter that does not want to lead."""


MAX_ROUND = 2**62
"""Nobody gets so far by himself; whoever is led there stays there, and can still be elected."""
PERSEVERANCE = 6
"""So often the wait for news is doubled; then, who does not want to lead looks no longer."""


class Notification(ElectionMessage, frozen=True):
    """My vote in this round. `term` is the newest epoch that I have accepted."""

    leader: NodeId
    zxid: int
    peer_epoch: Term
    round: int
    state: State


class FollowerInfo(ElectionMessage, frozen=True):
    """I follow you: `term` is the newest epoch that I have accepted."""


class LeaderInfo(Claim, frozen=True):
    """The new epoch, proposed by one whose own last epoch was `peer_epoch`; by a user's force, it insists."""

    peer_epoch: Term
    insist: bool = False


class Zab(Elector):
    claim_type = LeaderInfo
    fields = (*Elector.fields, "round", "proposal", "votes", "agreeing", "settled", "decided", "learners")

    round = 0
    """ZooKeeper's logical clock: kept in memory only."""
    proposal = NO_VOTE
    votes: Mapping[NodeId, Vote] = MappingProxyType({})
    """What the others vote in my round."""
    agreeing: frozenset[NodeId] = frozenset()
    """Who votes as I do, myself included."""
    settled: Mapping[NodeId, tuple[Vote, State]] = MappingProxyType({})
    """The votes of those that have a leader, whatever their round."""
    decided: NodeId | None = None
    """Whom the votes have elected, until it leads or gives up."""
    learners: frozenset[tuple[NodeId, Term]] = frozenset()
    """Who has sent me FollowerInfo, and the newest epoch it has accepted."""

    # --- looking ----------------------------------------------------------------------------------

    def campaign(self) -> None:
        self.look(min(self.round + 1, MAX_ROUND))

    def look(self, round: int, heard: Vote = NO_VOTE) -> None:
        """Begin to vote: for myself, or for a better one that I have heard of."""
        self.role = Role.CANDIDATE
        self.decided, self.learners, self.settled = None, frozenset(), {}
        self.changed()
        self.begin_round(round, max(heard, self.first_vote))
        self.arm_resend()
        self.tally()

    @property
    def looking(self) -> bool:
        return self.role is Role.CANDIDATE and self.decided is None and not self.claimed

    @property
    def first_vote(self) -> Vote:
        return self.vote_for(self.me, self.position, self.promise.epoch) if self.available else NO_VOTE

    def vote_for(self, leader: NodeId, zxid: int, peer_epoch: Term) -> Vote:
        member = self.node.membership.by_id.get(leader)
        return Vote(peer_epoch, zxid, member.priority if member else 0, leader)

    def begin_round(self, round: int, vote: Vote) -> None:
        self.round, self.votes = round, {}
        self.propose(vote)

    def propose(self, vote: Vote) -> None:
        """Make this my vote, and tell everybody."""
        self.proposal = vote
        self.agreeing = frozenset({self.me, *(node for node, theirs in self.votes.items() if theirs == vote)})
        self.tell_all()

    def tell_all(self) -> None:
        for voter in self.node.membership.voters:
            if voter != self.me:
                self.tell(voter)

    def tell(self, peer: NodeId) -> None:
        vote = self.current_vote
        self.send(
            peer,
            Notification(
                self.name,
                self.promise.term,
                vote.leader,
                vote.zxid,
                vote.peer_epoch,
                self.round,
                self.state_shown,
            ),
        )

    @property
    def current_vote(self) -> Vote:
        if self.leader is None:
            return self.proposal
        return self.vote_for(self.leader, self.leader_position, self.promise.epoch)

    @property
    def state_shown(self) -> State:
        if self.me in (self.leader, self.decided):
            return State.LEADING
        return State.LOOKING if self.leader is None and self.decided is None else State.FOLLOWING

    def contend(self) -> None:
        super().contend()
        if self.looking and self.first_vote > self.proposal:
            self.attempts = 0
            self.propose(self.first_vote)
            self.arm_resend()
            self.tally()

    # --- what the others vote ---------------------------------------------------------------------

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case Notification():
                self.on_notification(sender, message)
            case FollowerInfo(term=accepted):
                self.on_follower_info(sender, accepted)
            case _:
                super().receive(sender, message)

    def on_notification(self, sender: NodeId, notification: Notification) -> None:
        membership = self.node.membership
        vote = self.vote_for(notification.leader, notification.zxid, notification.peer_epoch)
        if sender not in membership.voters or self.me not in membership.voters:
            return self.node.ignore("a vote of, or to, one who does not vote")
        if vote != NO_VOTE and vote.leader not in membership.candidates:
            return self.node.ignore("a vote for one who may not lead")
        if notification.round > MAX_ROUND:
            return self.node.ignore("an absurd round")
        if vote.leader == self.me and not self.contends:
            vote = NO_VOTE
        if notification.state is not State.LOOKING:
            return self.on_settled_vote(sender, notification, vote) if self.looking else None
        if self.role is Role.FOLLOWER and self.leader is None:
            if max(vote, self.first_vote) == NO_VOTE:
                return self.node.ignore("a vote for nobody")
            if notification.round > self.round:
                self.look(notification.round, vote)
            else:
                self.campaign()
        if self.looking:
            return self.on_looking_vote(sender, notification.round, vote)
        if self.leader not in (None, self.me):
            self.hold(sender, notification)
        return self.tell(sender)

    def on_looking_vote(self, sender: NodeId, round: int, vote: Vote) -> None:
        if round < self.round:
            return self.tell(sender)
        if round > self.round:
            self.begin_round(round, max(vote, self.first_vote))
        elif vote > self.proposal:
            self.propose(vote)
        if self.votes.get(sender) != vote:
            self.attempts = 0
            self.arm_resend()
        self.votes = {**self.votes, sender: vote}
        if vote == self.proposal:
            self.agreeing |= {sender}
        else:
            self.agreeing -= {sender}
        return self.tally()

    def tally(self) -> None:
        """A quorum that agrees decides: at once if there is nobody else to hear, else after a quiet wait."""
        if not self.has_quorum:
            self.disarm("finalize")
        elif self.agreeing.issuperset(self.electorate):
            self.decide(self.proposal.leader)
        else:
            self.arm("finalize", self.node.timing.finalize_wait, self.node.timing.finalize_wait)

    @property
    def has_quorum(self) -> bool:
        return self.proposal != NO_VOTE and self.node.membership.is_quorum(self.agreeing)

    @property
    def electorate(self) -> Collection[NodeId]:
        """The voters whose vote may still come."""
        by_rank = self.node.settings.stagger == "rank"
        return self.node.reachable if by_rank else self.node.membership.voters

    def on_settled_vote(self, sender: NodeId, notification: Notification, vote: Vote) -> None:
        """The sender has a leader: if a quorum has, and that leader says so too, it is mine as well."""
        self.settled = {**self.settled, sender: (vote, notification.state)}
        backing = {
            node
            for node, (theirs, _) in self.settled.items()
            if (theirs.leader, theirs.peer_epoch) == (vote.leader, vote.peer_epoch)
        }
        if notification.round == self.round:
            backing.update(node for node, theirs in self.votes.items() if theirs == vote)
            backing.update({self.me} if self.proposal == vote else ())
        if self.node.membership.is_quorum(backing) and self.confirms(vote.leader, notification.round):
            self.round = notification.round
            self.decide(vote.leader)

    def confirms(self, leader: NodeId, round: int) -> bool:
        """A quorum may still follow one that has gone: it counts only if the named one says it leads, and
        followers of an earlier round do not make me their leader."""
        if leader == self.me:
            return round == self.round
        return leader in self.settled and self.settled[leader][1] is State.LEADING

    # --- decided: discovery -----------------------------------------------------------------------

    def decide(self, leader: NodeId) -> None:
        self.decided = leader
        self.disarm("finalize")
        self.arm("answers", 2 * self.node.timing.patience, 2 * self.node.timing.patience)
        if leader == self.me:
            self.discover()
        else:
            self.send(leader, FollowerInfo(self.name, self.promise.term))

    def on_follower_info(self, sender: NodeId, accepted: Term) -> None:
        if self.role is Role.LEADER:
            self.announce_to(sender)
        elif self.role is Role.CANDIDATE and not self.claimed and sender in self.node.membership.voters:
            self.learners |= {(sender, accepted)}
            self.discover()
        else:
            self.node.ignore("a FollowerInfo that I do not wait for")

    def discover(self) -> None:
        """Once a quorum has told me its newest epochs, claim the next one."""
        learners = {self.me, *(node for node, _ in self.learners)}
        if self.decided == self.me and self.node.membership.is_quorum(learners):
            self.claim(newest=max((accepted for _, accepted in self.learners), default=0))

    def claim_for(self, term: Term) -> LeaderInfo:
        return LeaderInfo(self.name, term, self.position, self.promise.epoch, self.forced)

    def stand(self, term: Term) -> None:
        """Whoever claims holds itself for elected, be it by votes or as an heir."""
        super().stand(term)
        self.decided = self.me
        self.proposal = self.vote_for(self.me, self.position, self.promise.epoch)

    def misgiving(self, claimant: NodeId, claim: Claim) -> Reason | None:
        """My data is fresher than the leader's: it was not elected by the likes of me. (If I do not contend,
        nobody would be elected by that.)"""
        if isinstance(claim, LeaderInfo) and self.contends and not claim.insist:
            fresher = (self.promise.epoch, self.position) > (claim.peer_epoch, claim.position)
            return Reason.STALER if fresher else None
        return None

    def is_staler(self, position: int, than: int) -> bool:
        return position < than

    def settle(self, term: Term) -> None:
        """ZooKeeper's currentEpoch: kept before NEWLEADER is acknowledged."""
        self.keep(self.promise.term, self.promise.backed, epoch=term)

    # --- waiting ----------------------------------------------------------------------------------

    def arm_resend(self) -> None:
        wait = self.node.timing.patience * 2 ** min(self.attempts, PERSEVERANCE)
        self.arm("answers", wait, wait)

    def fire(self, purpose: str) -> None:
        match purpose:
            case "finalize":
                if self.looking and self.has_quorum:
                    self.decide(self.proposal.leader)
            case "answers" if self.looking and self.is_hopeless:
                self.lose()
            case "answers" if self.looking:
                self.attempts += 1
                self.learners = frozenset()
                self.propose(max(self.proposal, self.first_vote))
                self.arm_resend()
                self.tally()
            case _:
                super().fire(purpose)

    @property
    def is_hopeless(self) -> bool:
        """I do not want to lead, and hear of nobody who does: whoever does, will take me along."""
        return not self.contends and (self.proposal == NO_VOTE or self.attempts > PERSEVERANCE)

    def peer_found(self, peer: NodeId) -> None:
        if self.looking and peer in self.node.membership.voters:
            self.tell(peer)
        super().peer_found(peer)

    def peer_lost(self, peer: NodeId) -> None:
        """Its vote need not be waited for."""
        if self.looking and self.has_quorum and self.agreeing.issuperset(self.electorate):
            self.decide(self.proposal.leader)

    def abandon(self) -> None:
        if self.role is Role.CANDIDATE:
            self.disarm("finalize")
        self.decided, self.learners = None, frozenset()
        super().abandon()
