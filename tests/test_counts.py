"""In calm, the textbook forms send as many messages as theory says.

The figures are those of the literature; where this implementation saves or adds a message, the test says
which. Counted are the messages of the choice and of the claim, not the announcement (Lead, Follow) that
all algorithms share.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations
from math import ceil, log2

import pytest

from electorate.core.model import Member, Membership, Settings, Timing
from electorate.sim.faults import ids
from electorate.sim.network import Delay, Weather
from electorate.sim.world import Plan, World

CALM = Weather(delay=Delay("constant", 0.001))
PATIENT = Timing(beat=0.1, lease=1.0, patience=1.0, finalize_wait=0.2)


def world(settings: dict[str, object], priorities: list[int]) -> World:
    """Connected nodes with these priorities in the order of their ids; nobody contends yet."""
    members = tuple(Member(id, priority=p) for id, p in zip(ids(len(priorities)), priorities, strict=True))
    plan = Plan(
        membership=Membership(members),
        settings=Settings(timing=PATIENT, elections=("main",), **settings),  # type: ignore[arg-type]
        weather=CALM,
        contenders=(),
    )
    world = World(plan, 1)
    world.start()
    world.run(1.5)
    return world


def elect(world: World, *contenders: int, seconds: float = 3.0) -> Counter[str]:
    """Let these nodes (by number; all, if none is named) contend at once; count what is sent until agreed."""
    before = world.sent.copy()
    hosts = list(world.hosts.values())
    for host in [hosts[number] for number in contenders] or hosts:
        host.wish("contend", "main")
    deadline = world.now + seconds
    while not world.agreed_leader("main") and world.now < deadline:
        world.run(world.now + 0.0005)
    assert world.agreed_leader("main")
    assert world.violations == []
    return world.sent - before


def after_the_loss_of_the_top(world: World) -> Counter[str]:
    """The leader, which has the highest rank, hangs; count what the others send until they agree."""
    elect(world)
    world.run(world.now + 2.0)
    [top] = world.holders("main")
    world.hosts[top].pause()
    before = world.sent.copy()
    while world.agreed_leader("main") in (None, top):
        world.run(world.now + 0.0005)
    return world.sent - before


def everybody(n: int) -> list[int]:
    return list(range(n))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_bully_at_best_says_victory_to_the_survivors_alone(n: int) -> None:
    """n - 1 messages, or n - 2 if the dead top is known and skipped, as here."""
    world_ = world({"algorithm": "bully"}, everybody(n))
    elect(world_)
    world_.hosts[world_.holders("main")[0]].crash()
    before = world_.sent.copy()
    world_.run(world_.now + 0.1)
    sent = world_.sent - before
    assert (sent["Election"], sent["Alive"], sent["Victory"]) == (0, 0, n - 2)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_bully_at_worst_everybody_asks_everybody_above(n: int) -> None:
    """All n - 1 survivors start at once: n(n-1)/2 Election, less the n - 1 to the top that is known to be
    gone; (n-1)(n-2)/2 Alive; n - 2 Victory."""
    sent = after_the_loss_of_the_top(world({"algorithm": "bully", "stagger": "none"}, everybody(n)))
    assert sent["Election"] == n * (n - 1) // 2 - (n - 1)
    assert sent["Alive"] == (n - 1) * (n - 2) // 2
    assert sent["Victory"] == n - 1, "the hung top is told as well, as its connection still stands"


def chang_roberts(priorities: list[int]) -> int:
    settings: dict[str, object] = {"algorithm": "ring", "ring": "chang-roberts", "stagger": "none"}
    return elect(world(settings, priorities))["Token"]


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_chang_roberts_best_and_worst(n: int) -> None:
    assert chang_roberts(everybody(n)) == 2 * n - 1
    assert chang_roberts(everybody(n)[::-1]) == n * (n + 1) // 2


@pytest.mark.parametrize("n", [3, 4])
def test_chang_roberts_on_average(n: int) -> None:
    """Exactly n·H_n over all arrangements: 5.5 for three nodes, 8.33 for four."""
    counts = [chang_roberts(list(arrangement)) for arrangement in permutations(range(n))]
    harmonic = sum(Fraction(1, k) for k in range(1, n + 1))
    assert Fraction(sum(counts), len(counts)) == n * harmonic


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("order", ["ascending", "descending", "interleaved"])
def test_hirschberg_sinclair_keeps_its_bound(n: int, order: str) -> None:
    arrangements = {
        "ascending": everybody(n),
        "descending": everybody(n)[::-1],
        "interleaved": [i // 2 if i % 2 else n - 1 - i // 2 for i in range(n)],
    }
    settings: dict[str, object] = {"algorithm": "ring", "ring": "hirschberg-sinclair", "stagger": "none"}
    sent = elect(world(settings, arrangements[order]))
    assert 0 < sent["Probe"] + sent["Echo"] <= 8 * n * (1 + ceil(log2(n)))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_tanenbaum_ring_takes_two_rounds(n: int) -> None:
    """2n messages; one more tells the best rank that its claim is complete, if it was not the initiator."""
    best_starts = elect(world({"algorithm": "ring"}, everybody(n)), n - 1)
    assert (best_starts["Token"], best_starts["Coordinator"]) == (n, n)
    another_starts = elect_by_one_for_all(n)
    assert (another_starts["Token"], another_starts["Coordinator"]) == (n, n + 1)
    assert best_starts["Ack"] == 2 * n, "and every hop is acknowledged"


def elect_by_one_for_all(n: int) -> Counter[str]:
    """Everybody contends, but the lowest alone starts."""
    world_ = world({"algorithm": "ring"}, everybody(n))
    hosts = list(world_.hosts.values())
    for host in hosts[1:]:
        host.node.elections["main"].contends = True
    return elect(world_, 0)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_tanenbaum_ring_with_every_node_starting_at_once(n: int) -> None:
    sent = elect(world({"algorithm": "ring", "stagger": "none"}, everybody(n)))
    assert sent["Token"] == n * n
    assert sent["Token"] + sent["Coordinator"] <= 2 * n * n + n


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_raft_asks_each_voter_once(n: int) -> None:
    """2(n - 1) for the vote, and as many again for the PreVote; a candidate's own vote is its own affair."""
    paper: dict[str, object] = {"algorithm": "raft", "stagger": "random", "pre_vote": False}
    sent = elect(world(paper, everybody(n)), n - 1)
    assert (sent["RequestVote"], sent["Accept"], sent["PreVote"]) == (n - 1, n, 0)
    sent = elect(world({"algorithm": "raft"}, everybody(n)), n - 1)
    assert (sent["PreVote"], sent["Grant"]) == (n - 1, n - 1)
    assert (sent["RequestVote"], sent["Accept"]) == (n - 1, n)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_fast_leader_election_at_best_everybody_votes_once(n: int) -> None:
    """The best looks first and everybody adopts its vote: n(n - 1) notifications, then the discovery."""
    sent = elect(world({"algorithm": "zab"}, everybody(n)), n - 1)
    assert sent["Notification"] == n * (n - 1)
    assert (sent["FollowerInfo"], sent["LeaderInfo"], sent["Accept"]) == (n - 1, n - 1, n)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_fast_leader_election_at_worst_everybody_adopts_every_better_vote(n: int) -> None:
    sent = elect(world({"algorithm": "zab", "stagger": "none"}, everybody(n)))
    rounds = n * (n + 1) // 2
    assert n * (n - 1) <= sent["Notification"] <= rounds * (n - 1)


def test_zookeepers_finalize_wait_is_waited_out_when_a_voter_is_missing() -> None:
    """The textbook form does not use what the links know: it waits 200 ms for a vote that cannot come."""
    for stagger, shortest in (("none", 0.2), ("rank", 0.0)):
        world_ = world({"algorithm": "zab", "stagger": stagger}, everybody(3))
        world_.hosts["c"].crash()
        world_.run(world_.now + 0.1)
        asked = world_.now
        elect(world_)
        elected = world_.invariants.leases[-1][-1]
        assert shortest <= elected - asked < shortest + 0.05


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
def test_once_elected_only_the_leaders_links_carry_messages(algorithm: str) -> None:
    """I7: n - 1 beats and as many supports an interval, for ten elections as for one."""
    for elections in (("main",), tuple(f"shard-{number}" for number in range(10))):
        members = Membership(tuple(Member(id) for id in "abcde"))
        settings = Settings(algorithm=algorithm, elections=elections)  # type: ignore[arg-type]
        world_ = World(Plan(membership=members, settings=settings, weather=CALM, elections=elections), 1)
        world_.start()
        world_.run(3.0)
        before = world_.sent.copy()
        world_.run(4.0)
        assert world_.sent - before == Counter({"Beat": 40, "Support": 40})
