"""Bully leader election (Garcia-Molina 1982, in the textbook's three messages): the highest rank leads.

A node that misses its leader, or has just recovered, sends Election to those above it. What silence means
depends on who hears it:

    phase       waits for               silence means              and so it
    follower    its leader's beats      the leader is gone         campaigns
    electing    an Alive from above     nobody above me lives      asks who would accept: PreVote to all
    asking      a quorum of Grants      I am cut off               campaigns, later; else Victory to all
    deferring   a Victory from above    my better has died too     campaigns
    claiming    a quorum of Accepts     I am cut off               campaigns, later

A Victory from above is backed, one from below refused, and whoever refuses it competes. A recovered highest
node takes over from a living leader: the leader that receives its Victory resigns first, which frees the
voters. Departures from the original:

- These are the textbooks' messages. Garcia-Molina's node asks one after the other and is only answered: the
  election is not handed over to the one asked. There is no Halt (votes bind instead), no Reorganization and
  Ready (there is no task to tell), no poll of all by the coordinator; and a claim goes to those above, too.
- Who was leader and has fallen silent is not asked again, though its connection stands; it may vote.
- A Victory is a claim: it needs a quorum of Accepts (`quorum = "textbook"`: nobody's, split brain included),
  and before it is said a quorum must have granted it (`pre_vote = False`, or the textbook quorum: it is said
  at once). Else whoever was cut off would come back with a newer term, and end a leadership that is well.
- Those above me to whom there is no connection are not waited for.
- With `rank_by = "position"` the freshest data is the highest rank. Who is above is then not known
  beforehand, so Election goes to all, and those above answer.
"""

from __future__ import annotations

from electorate.core.elector import Elector
from electorate.core.model import Claim, ElectionMessage, NodeId, Reason, Refuse, Role, Term


class Election(ElectionMessage, frozen=True):
    """Is anybody above this rank alive?"""

    position: int


class Alive(ElectionMessage, frozen=True):
    """I am, and I will see to it."""


class Victory(Claim, frozen=True):
    """Nobody above me is alive: accept me as the leader of this term."""


class Bully(Elector):
    claim_type = Victory
    fields = (*Elector.fields, "awaited", "deferring", "outranked_by")

    awaited: frozenset[NodeId] = frozenset()
    """Those above me from whom I wait for an Alive."""
    deferring = False
    """Somebody above me is alive; its Victory should come."""
    outranked_by: frozenset[NodeId] = frozenset()
    """Who has refused me as above me, since there was last a leader: by its position, which I cannot know."""

    def campaign(self) -> None:
        self.role = Role.CANDIDATE
        self.deferring = False
        above = self.possibly_above()
        self.awaited = frozenset(above)
        self.changed()
        if not above:
            return self.canvass()
        for peer in above:
            self.send(peer, Election(self.name, self.promise.term, self.position))
        return self.arm("answers", self.node.timing.patience, self.node.timing.patience)

    def possibly_above(self) -> list[NodeId]:
        """Who may outrank me: the static rank tells, unless positions come first, or it has told me so."""
        known = self.node.settings.rank_by != "position"
        mine = self.rank_of(self.me)
        return [
            peer.id
            for peer in self.node.peers.values()
            if peer.connected
            and peer.id != self.departed
            and peer.id in self.node.membership.candidates
            and not (known and self.rank_of(peer.id) < mine and peer.id not in self.outranked_by)
        ]

    def receive(self, sender: NodeId, message: ElectionMessage) -> None:
        match message:
            case Election():
                self.on_election(sender, message)
            case Alive():
                self.on_alive(sender)
            case _:
                super().receive(sender, message)

    def on_election(self, sender: NodeId, election: Election) -> None:
        """Who asks misses the leader. If I do not, I ask that one: its Resign may have been lost."""
        if self.role is Role.LEADER:
            return self.announce_to(sender)
        if sender not in self.node.membership.candidates:
            return self.node.ignore("an Election from one who may not lead")
        if not self.outbids(sender, election.position):
            return None
        self.send(sender, Alive(self.name, self.promise.term))
        if self.leader is not None:
            self.say_follow(self.leader)
        return self.compete()

    def compete(self) -> None:
        """Somebody below me is trying: hold my own election, unless I am at it or have a leader."""
        if self.leader is None and self.role is Role.FOLLOWER:
            self.try_now()

    def on_alive(self, sender: NodeId) -> None:
        if self.role is not Role.CANDIDATE or self.claimed:
            return self.node.ignore("an Alive that I do not wait for")
        self.deferring, self.awaited, self.asked = True, frozenset(), 0
        low, _ = self.turn()
        patience = 2 * self.node.timing.patience + low
        return self.arm("answers", patience, patience)

    def fire(self, purpose: str) -> None:
        if purpose == "answers" and self.role is Role.CANDIDATE and not (self.asked or self.claimed):
            self.campaign() if self.deferring else self.canvass()
        else:
            super().fire(purpose)

    def peer_lost(self, peer: NodeId) -> None:
        """It will not answer any more."""
        if peer in self.awaited:
            self.awaited -= {peer}
            if not self.awaited and self.role is Role.CANDIDATE and not self.claimed:
                self.canvass()

    def misgiving(self, claimant: NodeId, claim: Claim) -> Reason | None:
        return Reason.OUTRANKED if self.outbids(claimant, claim.position) else None

    def on_refuse(self, voter: NodeId, refusal: Refuse) -> None:
        if refusal.reason is Reason.OUTRANKED:
            self.outranked_by |= {voter}
        super().on_refuse(voter, refusal)

    def settle(self, term: Term) -> None:
        self.outranked_by = frozenset()

    def outbids(self, node: NodeId, position: int) -> bool:
        """I am above it, and neither stand back nor let somebody's wish be done."""
        return self.available and not self.is_deterred and self.rank > self.rank_of(node, position)

    def refused(self, claimant: NodeId, objection: Reason) -> None:
        if objection is Reason.OUTRANKED:
            self.compete()

    def abandon(self) -> None:
        self.deferring, self.awaited = False, frozenset()
        super().abandon()
