"""Raft leader election (Ongaro & Ousterhout 2014; Ongaro's dissertation, chapters 3, 4 and 9).

A follower whose leader has fallen silent asks for votes. A voter grants one vote per term, to the first
who asks and whose data is at least as fresh as its own; a majority makes the leader.

    phase           asks              granted by a quorum    refused by so many that none is left
    precandidate    PreVote           requests votes         tries again later
    candidate       RequestVote       leads                  tries again later

PreVote (dissertation 9.6) raises no term and persists nothing, so a node that comes back from a
partition disturbs nobody; it is answered exactly as the vote itself would be. Departures from the paper:

- It elects only. There is no log; freshness is the position that the application sets. With
  `freshness = "prefer"` a staler claimant that has been refused once may insist, and is backed.
- Contenders try in the order of their rank instead of after a random time-out; `stagger = "random"` and
  `pre_vote = False` give the paper's own form.
- A leader that is transferring resigns first and names its heir; the Resign is the TimeoutNow.
"""

from __future__ import annotations

from electorate.core.elector import Elector
from electorate.core.model import Claim, ElectionMessage, NodeId, Reason, Refuse, Role


class PreVote(Claim, frozen=True):
    """Would you back me for this term?"""

    insist: bool


class RequestVote(Claim, frozen=True):
    """Back me for this term."""

    insist: bool


class Grant(ElectionMessage, frozen=True):
    """I would back you for this term, as things stand."""


class Raft(Elector):
    claim_type = RequestVote
    fields = (*Elector.fields, "asked", "refusals")

    asked = 0
    """The term that I ask about as a precandidate, or 0."""
    refusals = 0
    """How often fresher voters have refused me since there was last a leader."""

    def campaign(self) -> None:
        if not self.node.settings.pre_vote:
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

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case PreVote():
                self.on_pre_vote(sender, message)
            case Grant(term=term):
                self.on_grant(sender, term)
            case _:
                super().receive(sender, message)

    def on_pre_vote(self, sender: NodeId, question: PreVote) -> None:
        objection = self.objection(sender, question)
        if objection is None:
            self.send(sender, Grant(self.name, question.term))
        elif objection is Reason.LEADER_LIVES:
            self.hold(sender, question)
        elif objection not in (Reason.JUST_RESTARTED, Reason.INELIGIBLE, Reason.NOT_A_VOTER):
            self.send(sender, Refuse(self.name, question.term, self.promise.term, objection))
            self.refused(sender, objection)

    def on_grant(self, voter: NodeId, term: int) -> None:
        if voter not in self.node.membership.voters:
            return self.node.ignore("a Grant of one who does not vote")
        if self.asked and term == self.asked:
            self.backers |= {voter}
            self.count_grants()
        return None

    def count_grants(self) -> None:
        if self.node.membership.is_quorum(self.backers):
            self.asked = 0
            self.claim()

    def on_refuse(self, voter: NodeId, refusal: Refuse) -> None:
        self.refusals += refusal.reason is Reason.STALER
        if refusal.newest <= self.promise.term and self.asked and refusal.term == self.asked:
            self.count_refusal(voter)
        else:
            super().on_refuse(voter, refusal)

    def misgiving(self, claimant: NodeId, claim: Claim) -> Reason | None:
        """The up-to-date check (paper, section 5.4.1)."""
        if claim.position >= self.position:
            return None
        insists = isinstance(claim, PreVote | RequestVote) and claim.insist
        return None if insists and self.node.settings.freshness == "prefer" else Reason.STALER

    def refused(self, claimant: NodeId, objection: Reason) -> None:
        """A voter that is fresher than the claimant need not wait for its turn."""
        if objection is Reason.STALER and self.leader is None and self.role is Role.FOLLOWER:
            self.try_now()
        super().refused(claimant, objection)

    @property
    def insists(self) -> bool:
        return self.refusals > 0

    def claim_for(self, term: int) -> Claim:
        return RequestVote(self.name, term, self.position, self.insists)

    def settle(self, term: int) -> None:
        self.refusals = 0

    def abandon(self) -> None:
        self.asked = 0
        super().abandon()
