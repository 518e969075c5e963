"""One node: many elections over one set of links. This is what the simulator and the runtime drive.

Each method is one event; it takes the time on this node's clock and returns the effects, in the order in
which `Outbox` is to perform them. Nothing that a peer says can raise: what makes no sense is counted in
`ignored`, by reason, and changes nothing.

The node routes: beats and supports to the two sides of `Peer`, everything else to its election. It sends
one Beat per peer and interval for all the elections it leads, and none if it leads none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

from electorate.core.bully import Bully
from electorate.core.elector import Elector
from electorate.core.identity import Rejoin, Start
from electorate.core.liveness import Beats, Followers, Lease, Pair, Peer, Tenure
from electorate.core.model import (
    MAX_LEAP,
    MAX_STRIDE,
    MAX_TERM,
    NOBODY,
    OTHERS,
    Arm,
    Awaiting,
    Beat,
    Disarm,
    Disbelieved,
    Effect,
    ElectionMessage,
    Floor,
    Forget,
    Forgotten,
    Gone,
    Kind,
    Membership,
    Message,
    NodeId,
    Promise,
    Recall,
    Recalled,
    Refuse,
    Rejoined,
    Save,
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
FORGET: Timer = ("forget", "")
MAX_NAME = 200
"""The longest name of an election, in bytes of UTF-8."""
FIRST = Start()
MUCH = 500
"""Effects of one event; and so many elections at once are told to one peer, page by page."""
ABSURD = "a term that no quorum can have made"
LEAPS_EVERY = 60.0
"""Seconds."""
MAX_RECALLED = MAX_TERM >> 4
"""No later term is believed of whoever is asked to recall: it would bind for good who takes it."""
LONGEST_LEASE = 86_400.0
"""In seconds: of a longer one no peer is believed."""
PAGE = 1 << 16
"""About so many bytes are in one page of the terms that a node knows."""


def is_name(name: str) -> bool:
    """Whether an election may be called so."""
    return name.isprintable() and 0 < len(name.encode()) <= MAX_NAME


class Node:
    """The state machine of one node.

    `promises`, `gone` and `longest_lease` are what its store holds: its votes, whom it refuses until they
    rejoin, and for how long it may have promised its support, in seconds. `start` is this start of it, whose
    incarnation grows with every one. With `rejoin` it asks the others before it votes (see "rejoining"). It
    never forgets the elections that it `keeps`.
    """

    def __init__(
        self,
        me: NodeId,
        membership: Membership,
        settings: Settings,
        *,
        start: Start = FIRST,
        promises: Mapping[str, Promise] | None = None,
        gone: frozenset[NodeId] = frozenset(),
        longest_lease: float = 0.0,
        rejoin: Rejoin | None = None,
        keeps: Iterable[str] = (),
    ) -> None:
        self.me = me
        self.membership = membership
        self.settings = settings
        self.timing = settings.timing
        self.kind = membership.by_id[me].kind
        self.started = start
        self.promises = dict(promises or {})
        self.floor: Term = self.promises.pop(OTHERS, Promise(OTHERS)).term
        """No term up to this one can be claimed in an election that is not remembered."""
        self.keeps = frozenset((*keeps, *(settings.elections or ())))
        self.gone = gone
        self.longest_lease = max(longest_lease, self.timing.lease)
        self.now = 0.0
        self.started_at = 0.0
        self.quiet_until = 0.0
        """Before then, who may have promised its support in an earlier life votes for nobody."""
        self.out: list[Effect] = []
        self.ignored: Counter[str] = Counter()
        self.peers = {m.id: Peer(m.id, self.timing) for m in membership.members if m.id != me}
        self.reachable = {me} & set(membership.voters)
        """The voters to which there is a connection, and myself if I vote."""
        self.beats = Beats(start.incarnation, self.timing.lease)
        self.elections: dict[str, Elector] = {}
        self.brought: Counter[NodeId] = Counter()
        """How many elections are here because this node, or I, was the first to speak of them."""
        self.dormant: frozenset[str] = frozenset()
        """The elections that were idle when I last looked at them."""
        self.unseen: tuple[str, ...] = ()
        """At these I have still to look, this time."""
        self.looking = False
        """The timer for the next look is armed."""
        self.restless: dict[str, Elector] = {}
        """Those in which this event may have left nobody who is about to try."""
        self.leading: dict[str, Elector] = {}
        self.tenures: dict[str, Tenure] = {}
        """Of each that I lead, what other threads may read."""
        self.leases: dict[Followers, Lease] = {}
        """What those leaderships rest on."""
        self.unsecured: dict[str, Elector] = {}
        """Of those that I lead, the ones that have not had their lease yet."""
        self.untold: dict[NodeId, dict[str, Elector]] = {peer: {} for peer in self.peers}
        """For each peer, the elections that I lead in which it has not answered Follow."""
        self.moved: dict[NodeId, dict[str, Elector]] = {peer: {} for peer in self.peers}
        """For each leader that I follow, the elections in which it has to hear my Follow again: my position
        is another, or the connection."""
        self.next_check = float("inf")
        """No lease of mine ends before then."""
        self.rejoin = rejoin
        """Why I ask the others before I vote; None once they have answered."""
        self.lost_store = rejoin is not None and rejoin.lost
        """In no election do I know what an earlier life has promised."""
        self.answered: dict[NodeId, str | None] = {}
        """While rejoining: the election up to which each has told me its terms; None if it has told all."""
        self.awaited: tuple[NodeId, ...] | None = None
        """For whom I wait, as last said."""

    @property
    def incarnation(self) -> int:
        return self.started.incarnation

    # --- events -----------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The process has started. A restarted node backs nobody for a lease from here on."""
        self.now = self.started_at = now
        self.quiet_until = now + self.longest_lease
        for name in dict.fromkeys((*(self.settings.elections or ()), *self.promises)):
            self.hold(name, None)
        if self.lost_store:
            self.out.extend(Save(Gone(id, False)) for id in sorted(self.gone))
            self.gone = frozenset()
        if self.rejoin is not None:
            for id in sorted(self.rejoin.without):
                self.let_go(id)
            self.out.append(Arm(RECALL, 0.0, 0.0))
            self.look_whether_all_have_answered()
        return self.effects()

    def receive(self, now: float, sender: NodeId, message: Message) -> list[Effect]:
        self.begin(now)
        kind = type(message)
        if self.gone and sender in self.gone:
            self.ignore("a message from one who is gone for good")
        elif kind is Support:
            self.on_support(sender, message)  # type: ignore[arg-type]
        elif kind is Beat:
            self.on_beat(sender, message)  # type: ignore[arg-type]
        elif sender not in self.peers and sender != self.me:
            self.ignore("a message from one who is no member")
        elif isinstance(message, ElectionMessage):
            self.on_election_message(sender, message)
        elif isinstance(message, Recall):
            self.on_recall(sender, message)
        elif isinstance(message, Recalled):
            self.on_recalled(sender, message)
        elif isinstance(message, Floor):
            self.on_floor(sender, message.term)
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
            self.recall()
        elif purpose == "forget":
            self.forget_idle()
        elif subject in self.elections:
            self.elections[subject].fire(purpose)
        return self.effects()

    def connected(self, now: float, peer: NodeId, incarnation: int, rejoining: bool = False) -> list[Effect]:
        """Messages to the peer will arrive from now on. A new incarnation means that the last one died."""
        self.begin(now)
        if peer not in self.peers:
            self.ignore("a connection to one who is no member")
        elif self.acquaint(peer, incarnation, rejoining):
            self.peers[peer].connected = True
            if self.membership.by_id[peer].kind is not Kind.OBSERVER:
                self.reachable.add(peer)
            self.ask_to_recall(peer)
            if self.floor:
                self.out.append(Send(peer, Floor(self.floor)))
            for election in self.elections.values():
                election.peer_found(peer)
        else:
            self.ignore("a connection to an incarnation that is gone")
        return self.effects()

    def met(self, now: float, peer: NodeId, incarnation: int, rejoining: bool = False) -> list[Effect]:
        """The peer has greeted with an identity that is credible (`identity.judge`)."""
        self.begin(now)
        if peer not in self.peers:
            self.ignore("a greeting of one who is no member")
        else:
            self.acquaint(peer, incarnation, rejoining)
        return self.effects()

    def lost(self, now: float, peer: NodeId, dead: bool) -> list[Effect]:
        """The connection to the peer broke; `dead` if it is proven that its process is gone."""
        self.begin(now)
        if peer in self.peers:
            self.part_from(peer)
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

    def transfer(self, now: float, name: str, to: NodeId, force: bool = False) -> list[Effect]:
        """Hand over to this node, once its data is as fresh as mine (or by force), but within a lease."""
        self.begin(now)
        if election := self.election(name):
            election.transfer(to, force)
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
        tenure = self.tenures.get(name)
        return tenure.until if tenure else float("-inf")

    def is_leader(self, now: float, name: str) -> bool:
        """Whether this node provably leads the election at this instant. May be asked from any thread."""
        tenure = self.tenures.get(name)
        return tenure is not None and (now < tenure.lease.until or now < tenure.assured)

    def view(self, name: str) -> View | None:
        election = self.elections.get(name)
        return election.view if election else None

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
    def all_gathered(self) -> bool:
        """All are there before the wait for them is over."""
        return self.is_gathering and self.all_connected

    def may_lead(self, id: NodeId) -> bool:
        return id in self.membership.candidates and id not in self.gone

    def incarnation_of(self, id: NodeId) -> int:
        return self.incarnation if id == self.me else self.peers[id].incarnation

    @property
    def has_much_to_say(self) -> bool:
        """This event concerns so many elections that the rest had better wait for a timer."""
        return len(self.out) >= MUCH

    # --- elections --------------------------------------------------------------------------------

    def election(self, name: str, by: NodeId | None = None) -> Elector | None:
        """The election of that name, which comes into being when it is first spoken of, be it by another."""
        if name in self.dormant:
            self.dormant -= {name}
        found, by = self.elections.get(name), by or self.me
        if found is None and self.may_hold(name, by):
            found = self.hold(name, by)
        elif found is None:
            self.ignore("an unknown election")
            if by != self.me and self.settings.elections is None:
                self.out.append(
                    Disbelieved(by, "more elections than one member may bring, or no name of one")
                )
        return found

    def hold(self, name: str, by: NodeId | None) -> Elector:
        algorithm = self.settings.ring if self.settings.algorithm == "ring" else self.settings.algorithm
        election = self.elections[name] = ALGORITHMS[algorithm](self, name, self.promises.pop(name, None))
        if by is not None:
            election.brought_by = by
            self.brought[by] += 1
        if name not in self.keeps and not self.looking:
            self.look_later(self.settings.forget_after)
        return election

    def may_hold(self, name: str, by: NodeId) -> bool:
        """What others speak of leaves room for what my user wants, and one of them for the rest."""
        closed, room = self.settings.elections, self.settings.max_elections
        if closed is not None:
            return name in closed
        if not is_name(name):
            return False
        if by == self.me:
            return self.brought[by] < room
        return len(self.elections) < room and 2 * self.brought[by] < room

    def on_election_message(self, sender: NodeId, message: ElectionMessage) -> None:
        newest = message.newest if isinstance(message, Refuse) else message.term
        known = self.elections.get(message.election)
        mine = known.promise.term if known else self.floor
        if not (message.term >= 0 and self.is_credible(sender, max(message.term, newest), mine)):
            self.ignore(ABSURD)
        elif self.rejoin is not None:
            self.ignore("a message before this node has rejoined")
        elif election := self.election(message.election, sender):
            election.receive(sender, message)
            if known is None and election.is_blank and election.name not in self.keeps:
                self.drop(election)

    def is_credible(self, peer: NodeId, term: Term, mine: Term) -> bool:
        """Whether I may be so far behind. If it is far, each peer is believed once a minute: so none leads me
        to the last term, and who was cut off is not left behind for long."""
        if term <= mine + MAX_STRIDE and term <= MAX_TERM:
            return True
        far = peer in self.peers and term <= min(mine + MAX_LEAP, MAX_TERM)
        if not far or self.now < self.peers[peer].leaps_from:
            self.out.append(Disbelieved(peer, ABSURD))
            return False
        self.peers[peer].leaps_from = self.now + LEAPS_EVERY
        return True

    def begin(self, now: float) -> None:
        """An event begins. First of all, a leadership whose lease has ended ends for good: it must not come
        back to life when a late support or a new follower arrives."""
        self.now = now
        if now >= self.next_check:
            self.check_leases()

    def effects(self) -> list[Effect]:
        """What is to be done after this event; the next one begins anew."""
        while self.restless:
            _, election = self.restless.popitem()
            election.keep_trying()
        out, self.out = self.out, []
        return out

    def ignore(self, reason: str) -> None:
        self.ignored[reason] += 1

    # --- forgetting -------------------------------------------------------------------------------
    #
    # An election that nobody leads, and that nobody here wants to, need not be kept: what I may have voted in
    # it is covered by the floor, as if I had adopted that term in every election that I do not remember. Who
    # leads one of them in a term up to the floor is known and missed like any leader, but not supported: I do
    # not know whether I have followed a later one. The floors of all nodes are the same, as far as they can
    # talk: else new elections would begin with terms that others refuse.

    def look_later(self, seconds: float) -> None:
        self.looking = seconds > 0
        if self.looking:
            self.out.append(Arm(FORGET, seconds, seconds))

    def forget_idle(self) -> None:
        """Forget what was idle when I last looked, and has not been spoken of since; a part at a time."""
        names = self.unseen or tuple(name for name in self.elections if name not in self.keeps)
        part, self.unseen = names[:MUCH], names[MUCH:]
        known = [self.elections[name] for name in part if name in self.elections]
        idle = [election for election in known if election.is_idle]
        ripe = [election for election in idle if election.name in self.dormant]
        self.raise_floor(max((election.promise.term for election in ripe), default=0))
        for election in ripe:
            self.forget(election)
        self.dormant = self.dormant.difference(part) | {e.name for e in idle if e.name in self.elections}
        if self.unseen:
            self.look_later(self.timing.beat)
        else:
            self.look_later(self.settings.forget_after if self.elections.keys() - self.keeps else 0.0)

    def forget(self, election: Elector) -> None:
        self.drop(election)
        if not election.is_blank:
            self.out.append(Save(Forget(election.name)))
        self.out.append(Forgotten(election.name))

    def drop(self, election: Elector) -> None:
        del self.elections[election.name]
        self.restless.pop(election.name, None)
        for moved in self.moved.values():
            moved.pop(election.name, None)
        if election.brought_by is not None:
            self.brought[election.brought_by] -= 1

    def on_floor(self, sender: NodeId, term: Term) -> None:
        if self.is_credible(sender, term, self.floor):
            self.raise_floor(term)
        else:
            self.ignore(ABSURD)

    def raise_floor(self, term: Term) -> None:
        if term > self.floor:
            self.floor = term
            self.out.append(Save(Promise(OTHERS, term, NOBODY)))
            self.out.extend(Send(id, Floor(term)) for id, peer in self.peers.items() if peer.connected)

    # --- tenure: the leader's side ----------------------------------------------------------------

    def began_leading(self, election: Elector) -> None:
        self.leading[election.name] = self.unsecured[election.name] = election
        if not self.beats.running:
            self.beats.running = True
            self.beat()
        for untold in self.untold.values():
            untold[election.name] = election
        self.rests_on_followers(election)

    def ceased_leading(self, election: Elector) -> None:
        self.leading.pop(election.name, None)
        self.tenures.pop(election.name, None)
        self.unsecured.pop(election.name, None)
        for untold in self.untold.values():
            untold.pop(election.name, None)
        if not self.leading:
            self.beats.running = False
            self.out.append(Disarm(BEAT))

    def followed(self, election: Elector, peer: NodeId) -> None:
        """The peer follows: it need not be told again, and its support may complete the lease."""
        untold = self.untold[peer]
        if untold.pop(election.name, None) and untold and len(untold) % MUCH == 0:
            self.tell_leaderships(peer)
        self.rests_on_followers(election)

    def tell_leaderships(self, peer: NodeId) -> None:
        """Say Lead to a peer in a page of those elections in which it has not answered Follow. The next page
        comes with the next beat, or as soon as so many have been answered."""
        for election in tuple(islice(self.untold[peer].values(), MUCH)):
            self.say_lead(peer, election)

    def say_lead(self, peer: NodeId, election: Elector) -> None:
        election.announce_to(peer)
        if self.untold[peer].pop(election.name, None):
            self.untold[peer][election.name] = election  # after those that it has not heard of

    def rests_on_followers(self, election: Elector) -> None:
        """From now on this leadership rests on its present followers."""
        lease = self.leases.get(election.followers)
        if lease is None:
            lease = self.leases[election.followers] = Lease(election.followers)
            lease.until = self.supported_until(lease.followers)
        election.followers = lease.followers
        self.tenures[election.name] = Tenure(election.leader_term, election.assured, lease)
        self.examine(election)

    def beat(self) -> None:
        """One beat to every peer, and Lead again to those who do not follow yet."""
        if not self.beats.running:
            return
        beat = Beat(self.beats.next(self.now))
        for id, peer in self.peers.items():
            if peer.connected:
                self.tell_leaderships(id)
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
        fresh, until = peer.support(sent_at, pair), peer.supports_until
        for lease in self.leases.values():
            if fresh or lease.until < until:
                lease.until = self.supported_until(lease.followers)
        if fresh:
            for name, election in self.leading.items():
                if (sender, peer.pair) not in election.followers:
                    self.untold[sender][name] = election
            self.check_leases()
        if self.unsecured:
            for election in tuple(self.unsecured.values()):
                self.examine(election)
        return None

    def supported_until(self, followers: Followers) -> float:
        """Until when, on my clock, a quorum of these followers and myself supports me; -inf if none does."""
        peers = self.peers
        granted = {id: peers[id].granted for id, pair in followers if peers[id].pair == pair}
        if self.kind is not Kind.OBSERVER:
            granted[self.me] = float("inf")
        return self.membership.supported_until(granted) + self.timing.safe_lease

    def check_leases(self) -> None:
        """Examine every leadership, and forget the leases that none rests on any more."""
        self.leases = {tenure.lease.followers: tenure.lease for tenure in self.tenures.values()}
        self.next_check = float("inf")
        for election in tuple(self.leading.values()):
            self.examine(election)

    def examine(self, election: Elector) -> None:
        """Note that a leadership has its lease, or end it if the lease has ended."""
        lease = self.tenures[election.name].until
        if lease > self.now:
            self.next_check = min(self.next_check, lease)
            if not election.secured:
                election.secured = True
                self.unsecured.pop(election.name, None)
                election.changed()
        elif election.secured:
            election.step_down()

    # --- tenure: the voter's side -----------------------------------------------------------------

    def on_beat(self, sender: NodeId, beat: Beat) -> None:
        peer = self.peers.get(sender)
        if peer is None:
            return self.ignore("a beat of one who is no member")
        if self.rejoin is not None:
            return self.ignore("a beat before this node has rejoined")
        peer.promise(self.now)
        self.tell_following(sender)
        if peer.connected:
            self.out.append(Send(sender, Support(beat.seq, self.incarnation, peer.epoch)))
        return None

    def tell_following(self, leader: NodeId) -> None:
        """Say Follow in a page of those elections in which this leader does not know all yet."""
        for election in tuple(islice(self.moved[leader].values(), MUCH)):
            election.tell_position(leader)

    def watch(self, leader: NodeId) -> Pair:
        """Follow this leader: promise it my support for a lease, and miss it when it falls silent. Returns
        the pair that my supports for it bear."""
        peer = self.peers[leader]
        if not peer.stands(self.now):
            peer.promise(self.now)
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

    def acquaint(self, id: NodeId, incarnation: int, rejoining: bool) -> bool:
        """Note the incarnation that a peer has greeted with. Returns False for one that is gone."""
        peer = self.peers[id]
        if incarnation < peer.incarnation or (id in self.gone and not rejoining):
            return False
        if id in self.gone:
            self.gone -= {id}
            self.out.append(Save(Gone(id, False)))
        if incarnation > peer.incarnation > 0:
            self.bury(id)
            for election in self.elections.values():
                election.forget_backing(id)
        peer.incarnation, peer.rejoining = incarnation, rejoining
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

    # --- rejoining --------------------------------------------------------------------------------
    #
    # A lost store may have voted in any term, and promised its support to anybody. Every vote of it that
    # still counts is known to a claimant that lives, or to one of any voters that meet every quorum: such
    # voters must have answered, and every claimant that may come back; then I vote for nobody in the terms
    # named. Who rejoins as well has no claim to come back to. Who is gone for good is refused by all who
    # answer, so that it can win nothing with a vote that I have forgotten.

    def recall(self) -> None:
        for id in self.peers:
            self.ask_to_recall(id)
        if self.rejoin is not None:
            self.out.append(Arm(RECALL, self.timing.patience, self.timing.patience))

    def ask_to_recall(self, id: NodeId) -> None:
        if self.rejoin is None or id not in self.membership.voters:
            return
        after = self.answered.get(id, "")
        if self.peers[id].connected and after is not None:
            self.out.append(Send(id, Recall(self.started.number, after, tuple(sorted(self.rejoin.without)))))
        self.look_whether_all_have_answered()

    def on_recall(self, sender: NodeId, recall: Recall) -> None:
        if self.rejoin is not None and self.rejoin.lost:
            return self.ignore("a Recall while I do not know myself")
        for id in recall.without:
            if id in self.peers and id != sender and id not in self.gone:
                self.let_go(id)
        terms, size, more = [], 0, False
        for name in sorted(name for name in self.elections if name > recall.after):
            if size >= PAGE:
                more = True
                break
            terms.append((name, self.elections[name].promise.term))
            size += len(name.encode()) + 16
        page = Recalled(recall.number, recall.after, tuple(terms), more, self.longest_lease, self.floor)
        self.out.append(Send(sender, page))
        return None

    def let_go(self, id: NodeId) -> None:
        """This node is gone for good, by the word of an operator: if it comes back, it must rejoin first."""
        self.gone |= {id}
        self.out.append(Save(Gone(id, True)))
        self.part_from(id)

    def part_from(self, id: NodeId) -> None:
        self.peers[id].connected = False
        self.reachable.discard(id)
        for election in self.elections.values():
            election.peer_lost(id)

    def on_recalled(self, sender: NodeId, recalled: Recalled) -> None:
        if self.rejoin is None or recalled.number != self.started.number:
            return self.ignore("a Recalled that I do not wait for")
        if recalled.after != self.answered.get(sender, "") or sender not in self.membership.voters:
            return self.ignore("a page that I do not wait for")
        newest = max((recalled.floor, *(term for _, term in recalled.terms)))
        if newest > MAX_RECALLED:
            self.out.append(Disbelieved(sender, ABSURD))
            return self.ignore(ABSURD)
        self.raise_floor(recalled.floor)
        for name, term in recalled.terms:
            if term <= 0:
                continue
            if election := self.election(name):
                election.vote_for_nobody(term, self.rejoin.lost)
            else:
                self.raise_floor(term)
        if recalled.lease <= LONGEST_LEASE:
            self.longest_lease = max(self.longest_lease, recalled.lease)
        self.answered[sender] = recalled.terms[-1][0] if recalled.more and recalled.terms else None
        return self.ask_to_recall(sender)

    def look_whether_all_have_answered(self) -> None:
        if self.rejoin is None:
            return
        others = [id for id in self.membership.voters if id != self.me and id not in self.rejoin.without]
        answered = [id for id in others if self.answered.get(id, "") is None]
        awaited = [id for id in others if id not in answered and not self.peers[id].rejoining]
        enough = not awaited and self.membership.meets_every_quorum(answered)
        if enough:
            self.has_rejoined()
        elif tuple(awaited) != self.awaited:
            self.awaited = tuple(awaited)
            self.out.append(Awaiting(self.awaited))

    def has_rejoined(self) -> None:
        """Where I remember less than the floor, the others may have forgotten what I voted in."""
        if self.rejoin is not None and self.floor:
            for election in self.elections.values():
                election.vote_for_nobody(self.floor, self.rejoin.lost)
        self.rejoin, self.awaited = None, None
        self.quiet_until = self.now + self.longest_lease
        self.out.extend((Disarm(RECALL), Rejoined()))
        self.restless.update(self.elections)

    # --- as a value -------------------------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        """Everything that decides what this node does next, as one immutable value."""
        return (
            (self.started, self.started_at, self.quiet_until, self.longest_lease, self.next_check),
            (self.beats.seq, self.beats.sent, self.beats.running),
            (self.rejoin, self.lost_store, frozenset(self.answered.items()), self.awaited, self.gone),
            (self.floor, self.dormant, self.unseen, self.looking, frozenset(self.brought.items())),
            frozenset(self.reachable),
            frozenset(peer.state() for peer in self.peers.values()),
            frozenset((name, election.state()) for name, election in self.elections.items()),
            frozenset(self.unsecured),
            frozenset((peer, frozenset(names)) for peer, names in self.untold.items()),
            frozenset((peer, frozenset(names)) for peer, names in self.moved.items()),
        )
