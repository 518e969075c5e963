"""One node: many elections over one set of links. This is what the simulator and the runtime drive.

Each method is one event; it takes the time on this node's clock and returns the effects, in the order in
which `Outbox` is to perform them. Nothing that a peer says can raise: what makes no sense is counted in
`ignored`, by reason, and changes nothing.

The node routes: beats and supports to the two sides of `Peer`, everything else to its election. It sends
one Beat per peer and interval for all the elections it leads, and none if it leads none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from electorate.core.bully import Bully
from electorate.core.elector import Elector
from electorate.core.liveness import Beats, Pair, Peer
from electorate.core.model import (
    MAX_TERM,
    NOBODY,
    Arm,
    Beat,
    Disarm,
    Effect,
    ElectionMessage,
    Kind,
    Membership,
    Message,
    NodeId,
    Promise,
    Recall,
    Recalled,
    Refuse,
    Send,
    Settings,
    Support,
    Term,
    Timer,
    View,
)
from electorate.core.raft import Raft
from electorate.core.ring import ChangRoberts, HirschbergSinclair, Ring
from electorate.core.zab import Zab

ALGORITHMS: Mapping[str, type[Elector]] = {
    "bully": Bully,
    "raft": Raft,
    "zab": Zab,
    "ring": Ring,
    "tanenbaum": Ring,
    "chang-roberts": ChangRoberts,
    "hirschberg-sinclair": HirschbergSinclair,
}

BEAT: Timer = ("beat", "")
RECALL: Timer = ("recall", "")
MAX_NAME = 200
"""The longest name of an election that a peer can make this node remember."""
MUCH = 500
"""Effects of one event."""


class Node:
    """The state machine of one node.

    `promises` is what its store holds, and `incarnation` a number that grows with every start of this
    node. With `rejoin`, the store was lost: the node backs nobody in any term that a quorum knows of.
    """

    def __init__(
        self,
        me: NodeId,
        membership: Membership,
        settings: Settings,
        *,
        incarnation: int = 1,
        promises: Mapping[str, Promise] | None = None,
        rejoin: bool = False,
    ) -> None:
        self.me = me
        self.membership = membership
        self.settings = settings
        self.timing = settings.timing
        self.kind = membership.by_id[me].kind
        self.incarnation = incarnation
        self.promises = dict(promises or {})
        self.now = 0.0
        self.started_at = 0.0
        self.out: list[Effect] = []
        self.ignored: Counter[str] = Counter()
        self.peers = {m.id: Peer(m.id, self.timing) for m in membership.members if m.id != me}
        self.reachable = {me} & set(membership.voters)
        """The voters to which there is a connection, and myself if I vote."""
        self.beats = Beats(incarnation, self.timing.lease)
        self.elections: dict[str, Elector] = {}
        self.leading: dict[str, Elector] = {}
        self.unsecured: dict[str, Elector] = {}
        """Of those that I lead, the ones that have not had their lease yet."""
        self.untold: dict[NodeId, dict[str, Elector]] = {peer: {} for peer in self.peers}
        """For each peer, the elections that I lead in which it has not answered Follow."""
        self.next_check = float("inf")
        """No lease of mine ends before then."""
        self.recalled: dict[NodeId, tuple[tuple[str, Term], ...]] | None = {} if rejoin else None
        """While rejoining: what the others know. No message about an election is taken meanwhile."""

    # --- events -----------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The process has started. A restarted node backs nobody for a lease from here on."""
        self.now = self.started_at = now
        for name in dict.fromkeys((*(self.settings.elections or ()), *self.promises)):
            self.election(name)
        if self.recalled is not None:
            self.out.append(Arm(RECALL, 0.0, 0.0))
        return self.effects()

    def receive(self, now: float, sender: NodeId, message: Message) -> list[Effect]:
        self.begin(now)
        kind = type(message)
        if kind is Support:
            self.on_support(sender, message)  # type: ignore[arg-type]
        elif kind is Beat:
            self.on_beat(sender, message)  # type: ignore[arg-type]
        elif sender not in self.peers and sender != self.me:
            self.ignore("a message from one who is no member")
        elif isinstance(message, ElectionMessage):
            self.on_election_message(sender, message)
        elif isinstance(message, Recall):
            self.out.append(Send(sender, Recalled(self.known_terms())))
        elif isinstance(message, Recalled):
            self.on_recalled(sender, message)
        else:
            self.ignore("not a message")
        return self.effects()

    def fire(self, now: float, timer: Timer) -> list[Effect]:
        self.begin(now)
        purpose, subject = timer
        if purpose == "silence":
            self.on_silence(subject)
        elif purpose == "beat":
            self.beat()
        elif purpose == "recall":
            self.ask_to_recall()
        elif subject in self.elections:
            self.elections[subject].fire(purpose)
        return self.effects()

    def connected(self, now: float, peer: NodeId, incarnation: int) -> list[Effect]:
        """Messages to the peer will arrive from now on. A new incarnation means that the last one died."""
        self.begin(now)
        if peer not in self.peers:
            self.ignore("a connection to one who is no member")
        elif self.acquaint(peer, incarnation):
            self.peers[peer].connected = True
            if self.membership.by_id[peer].kind is not Kind.OBSERVER:
                self.reachable.add(peer)
            for election in self.elections.values():
                election.peer_found(peer)
        else:
            self.ignore("a connection to an incarnation that is gone")
        return self.effects()

    def met(self, now: float, peer: NodeId, incarnation: int) -> list[Effect]:
        """The peer has greeted with an incarnation that the driver finds credible."""
        self.begin(now)
        self.acquaint(peer, incarnation)
        return self.effects()

    def lost(self, now: float, peer: NodeId, dead: bool) -> list[Effect]:
        """The connection to the peer broke; `dead` if it is proven that its process is gone."""
        self.begin(now)
        if peer in self.peers:
            self.peers[peer].connected = False
            self.reachable.discard(peer)
            for election in self.elections.values():
                election.peer_lost(peer)
            if dead:
                self.bury(peer)
        return self.effects()

    def stalled(self, now: float) -> list[Effect]:
        """The store has not finished a commit for too long: this node cannot promise, so it must not lead."""
        self.begin(now)
        for election in tuple(self.leading.values()):
            election.resign()
        return self.effects()

    # --- wishes of the local user -----------------------------------------------------------------

    def contend(self, now: float, name: str) -> list[Effect]:
        self.begin(now)
        if election := self.election(name):
            election.contend()
        return self.effects()

    def withdraw(self, now: float, name: str) -> list[Effect]:
        self.begin(now)
        if election := self.election(name):
            election.withdraw()
        return self.effects()

    def resign(self, now: float, name: str) -> list[Effect]:
        self.begin(now)
        if election := self.election(name):
            election.resign()
        return self.effects()

    def transfer(self, now: float, name: str, to: NodeId) -> list[Effect]:
        self.begin(now)
        if election := self.election(name):
            election.transfer(to)
        return self.effects()

    def set_position(self, now: float, name: str, position: int) -> list[Effect]:
        self.begin(now)
        if election := self.election(name):
            election.set_position(position)
        return self.effects()

    def occupy(self, now: float, name: str) -> list[Effect]:
        """Work of the user rests on this leadership from now on."""
        self.begin(now)
        if name in self.leading:
            self.leading[name].occupy()
        return self.effects()

    def vacate(self, now: float, name: str) -> list[Effect]:
        """That work has ended."""
        self.begin(now)
        if name in self.elections:
            self.elections[name].vacate()
        return self.effects()

    # --- questions, without effect ----------------------------------------------------------------

    def lease(self, name: str) -> float:
        """This node leads the election until then, on its clock; -inf if it does not."""
        election = self.leading.get(name)
        return election.lease if election else float("-inf")

    def is_leader(self, now: float, name: str) -> bool:
        """Whether this node provably leads the election at this instant."""
        return now < self.lease(name)

    def view(self, name: str) -> View | None:
        return self.elections[name].view if name in self.elections else None

    @property
    def gathered_at(self) -> float:
        """A node that has just started does not try before then, unless all the others are there."""
        return self.started_at + self.timing.patience

    @property
    def is_gathering(self) -> bool:
        return self.now < self.gathered_at

    @property
    def all_connected(self) -> bool:
        return len(self.reachable) == len(self.membership.voters)

    @property
    def has_much_to_say(self) -> bool:
        """This event concerns so many elections that the rest had better wait for a timer."""
        return len(self.out) >= MUCH

    # --- elections --------------------------------------------------------------------------------

    def election(self, name: str) -> Elector | None:
        """The election of that name, which comes into being when it is first spoken of."""
        found = self.elections.get(name)
        if found is None and self.may_hold(name):
            settings = self.settings
            algorithm = settings.ring if settings.algorithm == "ring" else settings.algorithm
            promise = self.promises.get(name) or Promise(name)
            found = self.elections[name] = ALGORITHMS[algorithm](self, name, promise)
        elif found is None:
            self.ignore("an unknown election")
        return found

    def may_hold(self, name: str) -> bool:
        closed = self.settings.elections
        if closed is not None:
            return name in closed
        return 0 < len(name) <= MAX_NAME and len(self.elections) < self.settings.max_elections

    def on_election_message(self, sender: NodeId, message: ElectionMessage) -> None:
        newest = message.newest if isinstance(message, Refuse) else message.term
        if not (0 <= message.term <= MAX_TERM and newest <= MAX_TERM):
            self.ignore("an absurd term")
        elif self.recalled is not None:
            self.ignore("a message before this node has rejoined")
        elif election := self.election(message.election):
            election.receive(sender, message)

    def begin(self, now: float) -> None:
        """An event begins. First of all, a leadership whose lease has ended ends for good: it must not come
        back to life when a late support or a new follower arrives."""
        self.now = now
        if now >= self.next_check:
            self.check_leases()

    def effects(self) -> list[Effect]:
        """What is to be done after this event; the next one begins anew."""
        out, self.out = self.out, []
        return out

    def ignore(self, reason: str) -> None:
        self.ignored[reason] += 1

    # --- tenure: the leader's side ----------------------------------------------------------------

    def began_leading(self, election: Elector) -> None:
        self.leading[election.name] = self.unsecured[election.name] = election
        if not self.beats.running:
            self.beats.running = True
            self.beat()
        for untold in self.untold.values():
            untold[election.name] = election
        self.examine(election, self.supported_until(election.followers))

    def ceased_leading(self, election: Elector) -> None:
        self.leading.pop(election.name, None)
        self.unsecured.pop(election.name, None)
        for untold in self.untold.values():
            untold.pop(election.name, None)
        if not self.leading:
            self.beats.running = False
            self.out.append(Disarm(BEAT))

    def followed(self, election: Elector, peer: NodeId) -> None:
        """The peer follows: it need not be told again, and its support may complete the lease."""
        self.untold[peer].pop(election.name, None)
        self.examine(election, self.supported_until(election.followers))

    def beat(self) -> None:
        """One beat to every peer, and Lead again to those who do not follow yet."""
        if not self.beats.running:
            return
        beat = Beat(self.beats.next(self.now))
        for id, peer in self.peers.items():
            if peer.connected:
                for election in self.untold[id].values():
                    election.announce_to(id)
                self.out.append(Send(id, beat))
        self.out.append(Arm(BEAT, self.timing.beat, self.timing.beat))

    def on_support(self, sender: NodeId, support: Support) -> None:
        peer = self.peers.get(sender)
        sent_at = self.beats.sent_at(support.seq)
        if peer is None or sent_at is None:
            return self.ignore("a support of no beat of mine")
        pair = (support.incarnation, support.epoch)
        if support.incarnation > peer.pair[0]:
            for election in self.leading.values():
                election.assure()
        if peer.support(sent_at, pair):
            for name, election in self.leading.items():
                if (sender, peer.pair) not in election.followers:
                    self.untold[sender][name] = election
            self.check_leases()
        elif self.unsecured:
            for election in tuple(self.unsecured.values()):
                self.examine(election, self.supported_until(election.followers))
        return None

    def supported_until(self, followers: frozenset[tuple[NodeId, Pair]]) -> float:
        """Until when, on my clock, a quorum of these followers and myself supports me; -inf if none does."""
        peers = self.peers
        support = {id: peers[id].supports_until for id, pair in followers if peers[id].pair == pair}
        if self.me in self.membership.voters:
            support[self.me] = float("inf")
        return self.membership.supported_until(support)

    def check_leases(self) -> None:
        """Examine every leadership. Those followed by the same voters share one lease, and from now on one
        object, which the next check knows at a glance."""
        shared: dict[frozenset[tuple[NodeId, Pair]], frozenset[tuple[NodeId, Pair]]] = {}
        for election in self.leading.values():
            election.followers = shared.setdefault(election.followers, election.followers)
        leases = {followers: self.supported_until(followers) for followers in shared}
        self.next_check = min(leases.values(), default=float("inf"))
        if self.next_check > self.now and not self.unsecured:
            return
        self.next_check = float("inf")
        for election in tuple(self.leading.values()):
            self.examine(election, leases[election.followers])

    def examine(self, election: Elector, lease: float) -> None:
        """Note that a leadership has its lease, or end it if the lease has ended."""
        lease = max(lease, election.assured)
        if lease > self.now:
            self.next_check = min(self.next_check, lease)
            if not election.secured:
                election.secured = True
                self.unsecured.pop(election.name, None)
                election.changed()
        elif election.secured:
            election.step_down()
            election.seek()

    # --- tenure: the voter's side -----------------------------------------------------------------

    def on_beat(self, sender: NodeId, beat: Beat) -> None:
        peer = self.peers.get(sender)
        if peer is None:
            return self.ignore("a beat of one who is no member")
        peer.promise(self.now)
        if peer.connected:
            self.out.append(Send(sender, Support(beat.seq, self.incarnation, peer.epoch)))
        return None

    def watch(self, leader: NodeId) -> Pair:
        """Follow this leader: miss it when it falls silent. Returns the pair my supports for it bear."""
        peer = self.peers[leader]
        peer.lapse(self.now)
        if not peer.watched:
            peer.watched = True
            self.out.append(Arm(("silence", leader), self.timing.lease, self.timing.lease))
        return (self.incarnation, peer.epoch)

    def on_silence(self, id: NodeId) -> None:
        peer = self.peers[id]
        if peer.promised is not None and self.now < peer.promised:
            left = peer.promised - self.now
            self.out.append(Arm(("silence", id), left, left))
        else:
            peer.release()
            self.tell_followers_of(peer)

    def acquaint(self, id: NodeId, incarnation: int) -> bool:
        """Note the incarnation that a peer has greeted with. Returns False for one that is gone."""
        peer = self.peers[id]
        if incarnation < peer.incarnation:
            return False
        if incarnation > peer.incarnation > 0:
            self.bury(id)
        peer.incarnation = incarnation
        return True

    def bury(self, id: NodeId) -> None:
        """The process is gone, and with it whatever I promised to it."""
        peer = self.peers[id]
        peer.release()
        self.tell_followers_of(peer)

    def tell_followers_of(self, peer: Peer) -> None:
        peer.watched = False
        self.out.append(Disarm(("silence", peer.id)))
        for election in self.elections.values():
            if election.leader == peer.id:
                election.leader_fell()

    # --- rejoining after the loss of the store ----------------------------------------------------

    def ask_to_recall(self) -> None:
        if self.recalled is not None:
            self.out.extend(Send(id, Recall()) for id, peer in self.peers.items() if peer.connected)
            self.out.append(Arm(RECALL, self.timing.patience, self.timing.patience))

    def known_terms(self) -> tuple[tuple[str, Term], ...]:
        return tuple((name, election.promise.term) for name, election in self.elections.items())

    def on_recalled(self, sender: NodeId, recalled: Recalled) -> None:
        """Once a quorum of the others has answered, back nobody up to the newest term that it knows."""
        if self.recalled is None:
            return self.ignore("a Recalled that I do not wait for")
        self.recalled[sender] = recalled.terms
        voters = [id for id in self.recalled if id in self.membership.voters]
        if not self.membership.is_quorum(voters):
            return None
        answers, self.recalled = self.recalled, None
        self.out.append(Disarm(RECALL))
        for terms in answers.values():
            for name, term in terms:
                election = self.election(name)
                if election and 0 <= term <= MAX_TERM and term >= election.promise.term:
                    election.keep(term, NOBODY)
                    election.quiet_until = self.now + self.timing.lease
        for election in self.elections.values():
            election.changed()
            if election.contends:
                election.seek()
        return None

    def state(self) -> tuple[object, ...]:
        """Everything that decides what this node does next, as one immutable value."""
        return (
            tuple(peer.state() for peer in self.peers.values()),
            (self.beats.seq, self.beats.sent, self.beats.running),
            tuple((name, election.state()) for name, election in self.elections.items()),
        )
