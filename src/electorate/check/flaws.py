"""Guards taken away one by one, to show what each is for. Nothing here runs outside the laboratory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from electorate.check import machine
from electorate.core.elector import Elector
from electorate.core.identity import Identity, Start, Verdict
from electorate.core.liveness import Peer
from electorate.core.model import (
    NOBODY,
    Accept,
    Arm,
    Membership,
    NodeId,
    Resign,
    Save,
    Send,
    Support,
    Term,
    Timing,
)
from electorate.core.node import Node
from electorate.core.outbox import Outbox
from electorate.core.ring import Coordinator, Ring, Token
from electorate.core.zab import Zab
from electorate.errors import UserError

Patch = tuple[Any, str, Callable[[Any], Any]]
"""In this class or module, this becomes what the function makes of it."""


def never_saved(perform: Callable[..., Any]) -> Callable[..., Any]:
    """Votes are not written down."""

    def forgetful(self: Outbox, effects: list[Any]) -> None:
        perform(self, [effect for effect in effects if not isinstance(effect, Save)])

    return forgetful


def said_before_saved(perform: Callable[..., Any]) -> Callable[..., Any]:
    """Votes are sent while they are still on their way to the disk."""

    def hasty(self: Outbox, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.host.transmit(effect.to, effect.message)
        perform(self, [effect for effect in effects if not isinstance(effect, Send)])

    return hasty


def counted_from_receipt(on_support: Callable[..., Any]) -> Callable[..., Any]:
    """The leader counts its lease from when the answer came, not from when it sent the beat."""

    def late(self: Node, sender: NodeId, support: Support) -> None:
        self.beats.sent = tuple((n, self.now if n == support.seq else at) for n, at in self.beats.sent)
        on_support(self, sender, support)

    return late


def kept_going(on_round: Callable[..., Any]) -> Callable[..., Any]:
    """A token whose initiator is gone is passed on like any other."""

    def patient(self: Ring, sender: NodeId, message: Any) -> None:
        if isinstance(message, Token) and message.initiator != self.me and self.me in message.visited:
            self.on_token(message)
        else:
            on_round(self, sender, message)

    return patient


def counted_whatever_the_round(on_looking_vote: Callable[..., Any]) -> Callable[..., Any]:
    """A vote of an earlier round counts in this one."""

    def forgiving(self: Zab, sender: NodeId, round: int, vote: Any) -> None:
        on_looking_vote(self, sender, max(round, self.round), vote)

    return forgiving


def enough_with_half(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, nodes: 2 * len(nodes) >= len(self.voters)


def without_drift(_: Any) -> Any:
    return property(lambda self: self.lease)


def half_a_lease(promise: Callable[..., Any]) -> Callable[..., Any]:
    """A voter promises less than the leader counts on."""

    def stingy(self: Peer, now: float) -> None:
        promise(self, now)
        self.promised = now + self.timing.lease / 2

    return stingy


def only_forgets(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, claimant: self.forget_leader()


def only_says_so(step_down: Callable[..., Any]) -> Callable[..., Any]:
    """Who hands over goes on leading."""

    def clinging(
        self: Elector, heir: NodeId | None = None, wished: bool = False, force: bool = False
    ) -> None:
        if heir is None:
            step_down(self)
        else:
            for peer in self.node.peers:
                self.send(peer, Resign(self.name, self.leader_term, heir, wished, force))

    return clinging


def indulgent(examine: Callable[..., Any]) -> Callable[..., Any]:
    """A lease that has ended may come back."""

    def forgiving(self: Node, election: Elector) -> None:
        if self.tenures[election.name].until > self.now:
            examine(self, election)

    return forgiving


def believed_dead(lost: Callable[..., Any]) -> Callable[..., Any]:
    """Every broken connection is taken for a death."""
    return lambda self, now, peer, dead: lost(self, now, peer, True)


def in_any_stretch(_: Callable[..., Any]) -> Callable[..., Any]:
    """A leader counts on who has left it, as long as supports come."""

    def trusting(self: Node, followers: Any) -> float:
        granted = {id: self.peers[id].granted for id, _ in followers}
        lasting = self.membership.supported_until(granted | {self.me: float("inf")})
        return lasting + self.timing.safe_lease

    return trusting


def promised_by_beats(watch: Callable[..., Any]) -> Callable[..., Any]:
    """A voter promises when the first beat comes, and not when it says Follow."""

    def late(self: Node, leader: NodeId) -> Any:
        stood = self.peers[leader].promised
        pair = watch(self, leader)
        self.peers[leader].promised = stood
        return pair

    return late


def counts_itself(_: Callable[..., Any]) -> Callable[..., Any]:
    """A node that rejoins is content with a quorum of answers, its own included."""

    def content(self: Node) -> None:
        answered = [id for id in self.membership.voters if self.answered.get(id, "") is None]
        if self.rejoin and self.membership.is_quorum([self.me, *answered]):
            self.has_rejoined()

    return content


def waits_for_enough(_: Callable[..., Any]) -> Callable[..., Any]:
    """A node that rejoins does not wait for those that still might know."""

    def hasty(self: Node) -> None:
        answered = [id for id in self.membership.voters if self.answered.get(id, "") is None]
        if self.rejoin and self.membership.meets_every_quorum(answered):
            self.has_rejoined()

    return hasty


def trusts_its_copy(_: Callable[..., Any]) -> Callable[..., Any]:
    """A node that rejoins with a copy of its store has voted, in its term, for whom the copy says."""

    def trusting(self: Elector, term: Term, lost: bool) -> None:
        if term > self.promise.term:
            self.keep(term, NOBODY)
            self.changed()

    return trusting


def sees_only_numbers_grow(_: Callable[..., Any]) -> Callable[..., Any]:
    """A store is believed once it has started more often than the one that is known."""

    def credulous(known: Start | None, gone: bool, identity: Identity) -> Verdict:
        older = known is not None and identity.start.incarnation < known.incarnation
        return Verdict.LOST if older else Verdict.WELCOME

    return credulous


def votes_once_it_knows(_: Any) -> Any:
    """Who has lost its store is quiet only where its new one says that it has voted."""
    return property(lambda self: self.node.quiet_until if self.has_voted_before else float("-inf"))


def claims_unasked(_: Any) -> Any:
    return property(lambda self: False)


def always(_: Any) -> Any:
    return property(lambda self: True)


def proclaims_alone(_: Callable[..., Any]) -> Callable[..., Any]:
    """A token that has hardly been anywhere is as good as any."""
    return lambda self, best, term, visited: self.send_round(best, term)


def discovers_alone(_: Callable[..., Any]) -> Callable[..., Any]:
    """Who is elected claims an epoch before anybody has told it that it follows."""
    return lambda self: self.claim() if self.decided == self.me else None


def forgets_quietly(_: Callable[..., Any]) -> Callable[..., Any]:
    """Whoever loses its leader does not look whether it should try."""

    def quiet(self: Elector) -> None:
        self.departed, self.leader = self.leader or self.departed, None

    return quiet


def any_accept(_: Callable[..., Any]) -> Callable[..., Any]:
    """An Accept of an earlier claim counts for this one."""

    def generous(self: Elector, voter: NodeId, accept: Accept) -> None:
        self.backers |= {voter}
        if self.claimed and self.node.membership.is_quorum(self.backers):
            self.win()

    return generous


def any_round(_: Callable[..., Any]) -> Callable[..., Any]:
    """A Coordinator of an earlier round counts for this one."""

    def generous(self: Ring, claim: Coordinator) -> None:
        self.backers |= {voter for voter, _ in claim.backers}
        if self.claimed and self.node.membership.is_quorum(self.backers):
            self.win()

    return generous


def one_at_a_time(_: Callable[..., Any]) -> Callable[..., Any]:
    """Of several elections that an event leaves without a leader, one is looked after."""

    def brief(self: Node) -> list[Any]:
        if self.restless:
            self.restless.popitem()[1].keep_trying()
        self.restless.clear()
        out, self.out = self.out, []
        return out

    return brief


def unmissed(watch: Callable[..., Any]) -> Callable[..., Any]:
    """A voter that follows does not listen for the silence of its leader."""

    def deaf(self: Node, leader: NodeId) -> Any:
        said = len(self.out)
        pair = watch(self, leader)
        self.out[said:] = [effect for effect in self.out[said:] if not isinstance(effect, Arm)]
        return pair

    return deaf


def nothing(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def never(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


FLAWS: dict[str, tuple[Patch, ...]] = {
    "votes-not-saved": ((Outbox, "perform", never_saved),),
    "said-before-saved": ((Outbox, "perform", said_before_saved),),
    "two-votes-a-term": ((Elector, "has_backed_another", never),),
    "any-accept-counts": ((Elector, "on_accept", any_accept),),
    "any-round-counts": ((Ring, "collect", any_round),),
    "half-is-enough": ((Membership, "is_quorum", enough_with_half),),
    "no-stickiness": ((Elector, "is_sticky", never),),
    "no-amnesia-guard": ((Elector, "is_amnesiac", never),),
    "lease-from-receipt": ((Node, "on_support", counted_from_receipt),),
    "no-drift": ((Timing, "safe_lease", without_drift),),
    "short-promise": ((Peer, "promise", half_a_lease),),
    "promise-from-beat": ((Node, "watch", promised_by_beats),),
    "no-support-epoch": ((Peer, "begin_stretch", nothing),),
    "any-stretch-counts": ((Node, "supported_until", in_any_stretch),),
    "leads-while-it-backs": ((Elector, "free_myself_for", only_forgets),),
    "leads-while-it-hands-over": ((Elector, "step_down", only_says_so),),
    "leases-come-back": ((Node, "examine", indulgent),),
    "any-break-is-death": ((Node, "lost", believed_dead),),
    "rejoins-by-itself": ((Node, "look_whether_all_have_answered", counts_itself),),
    "rejoins-too-soon": ((Node, "look_whether_all_have_answered", waits_for_enough),),
    "rejoins-as-copied": ((Elector, "vote_for_nobody", trusts_its_copy),),
    "rejoins-aloud": ((Elector, "quiet_until", votes_once_it_knows),),
    "any-newer-store": ((machine, "judge", sees_only_numbers_grow),),
    "claims-unasked": ((Elector, "asks_first", claims_unasked),),
    "proclaims-alone": ((Ring, "proclaim", proclaims_alone),),
    "elects-itself": ((Zab, "has_quorum", always), (Zab, "discover", discovers_alone)),
    "stops-trying": ((Elector, "keep_trying", nothing),),
    "tries-in-one-only": ((Node, "effects", one_at_a_time),),
    "leader-unmourned": ((Elector, "forget_leader", forgets_quietly),),
    "leader-unmissed": ((Node, "watch", unmissed),),
    "token-never-purged": ((Ring, "on_round", kept_going),),
    "stale-votes-count": ((Zab, "on_looking_vote", counted_whatever_the_round),),
}
"""The guards, each with where it stands: one that is kept in two places is taken away in both."""


@contextmanager
def flawed(name: str) -> Iterator[None]:
    """For a while, all nodes lack this guard. Raises `UserError`."""
    if name and name not in FLAWS:
        raise UserError(f"there is no flaw '{name}'; there are {', '.join(FLAWS)}")
    patches = FLAWS.get(name, ())
    sound = [vars(where)[what] for where, what, _ in patches]
    for (where, what, spoil), guard in zip(patches, sound, strict=True):
        setattr(where, what, spoil(guard))
    try:
        yield
    finally:
        for (where, what, _), guard in zip(patches, sound, strict=True):
            setattr(where, what, guard)
