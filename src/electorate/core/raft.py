"""Raft leader election (Ongaro & Ousterhout 2014; Ongaro's dissertation, chapters 3, 4 and 9).

A follower whose leader has fallen silent asks for votes. A voter grants one vote per term, to the first
who asks and whose data is at least as fresh as its own; a majority makes the leader.

    phase           asks              granted by a quorum    refused by so many that none is left
    precandidate    PreVote           requests votes         tries again later
    candidate       RequestVote       leads                  tries again later

PreVote (dissertation 9.6) raises no term and persists nothing, so a node that comes back from a
partition disturbs nobody; it is answered as the vote itself would be (but for a lease after a restart a
voter keeps the vote to answer it, and drops the question). Departures from the paper:

- It elects only. There is no log; freshness is the position that the application sets. With
  `freshness = "prefer"` a staler claimant that has been refused once may insist, and is backed.
- Voters stick to a living leader with and without PreVote, because its lease rests on them: a question that
  comes meanwhile is kept for a moment instead of being refused, and so is one to a leader that has a lease.
  Whose process is proven to be gone is no living leader; nobody waits for its silence then.
- A leader that hears of a newer term resigns only when no work rests on it, or its lease has ended.
- A claim that its voter has seen win is not backed again (paper, Figure 2: votedFor is the candidate); an
  older term is refused, where etcd is silent.
- Contenders try in the order of their rank instead of after a random time-out; `stagger = "random"` and
  `pre_vote = False` give the paper's own form.
- Only a voter that contends holds staleness against a claimant: one that would not lead itself could
  keep everybody from leading, for good.
- A leader that is transferring waits until its heir has caught up (a lease at most), then resigns and names
  it; the Resign is the TimeoutNow. By force it does not wait, and the heir insists.
"""

from __future__ import annotations

from electorate.core.elector import Elector
from electorate.core.model import Claim, NodeId, PreVote, Reason, Refuse, Role


class RequestVote(Claim, frozen=True):
    """Back me for this term."""

    insist: bool


class Raft(Elector):
    claim_type = RequestVote
    fields = (*Elector.fields, "refusals")

    refusals = 0
    """How often fresher voters have refused me since there was last a leader."""

    def campaign(self) -> None:
        self.canvass()

    def on_refuse(self, voter: NodeId, refusal: Refuse) -> None:
        self.refusals += refusal.reason is Reason.STALER
        super().on_refuse(voter, refusal)

    def misgiving(self, claimant: NodeId, claim: Claim) -> Reason | None:
        """The up-to-date check (paper, section 5.4.1), by those who would lead themselves."""
        insists = isinstance(claim, PreVote | RequestVote) and claim.insist
        stale = self.contends and self.is_staler(claim.position, self.position)
        return Reason.STALER if stale and not insists else None

    def is_staler(self, position: int, than: int) -> bool:
        return position < than

    def refused(self, claimant: NodeId, objection: Reason) -> None:
        """A voter that is fresher than the claimant need not wait for its turn, but for a wish; and, where it
        would raise its term by that, for the one whom others may have elected."""
        free = self.leader is None and self.role is Role.FOLLOWER and not self.is_deterred
        if objection is Reason.STALER and free and self.asks_first:
            self.try_now()

    @property
    def insists(self) -> bool:
        return self.forced or (self.refusals > 0 and self.node.settings.freshness == "prefer")

    def claim_for(self, term: int) -> Claim:
        return RequestVote(self.name, term, self.position, self.insists)

    def settle(self, term: int) -> None:
        self.refusals = 0
