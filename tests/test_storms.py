"""Storms find what they are there for: seeds that broke the code before, and rules that are taken away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from electorate.core.elector import Elector
from electorate.core.identity import Identity, Start, Verdict
from electorate.core.model import Claim, NodeId, PreVote, Reason
from electorate.core.raft import Raft, RequestVote
from electorate.core.ring import Ring
from electorate.sim.run import Outcome, storm, summary
from electorate.sim.shapes import Wanted
from electorate.sim.world import Host

FOUND = {
    "raft": (1, 12, 34),
    "bully": (1, 8, 41, 1777),
    "zab": (8, 21, 35, 156),
    "tanenbaum": (1, 3, 47),
    "chang-roberts": (2, 4, 52),
    "hirschberg-sinclair": (8, 11, 14),
}
"""What they broke: I9 (questions held whose asker had died), I10 (nodes that were cut off and claimed), I5 (suspects
that came back, witnesses that knew most, lost stores, votes for the dead, duels of those whose positions nobody
knew)."""


def outcome(algorithm: str, seed: int) -> Outcome:
    return summary(storm(Wanted(algorithm=algorithm).plan(seed), seed, "hostile", 20.0))


@pytest.mark.parametrize(("algorithm", "seed"), [(a, seed) for a, seeds in FOUND.items() for seed in seeds])
def test_a_seed_that_broke_something_once_breaks_nothing(algorithm: str, seed: int) -> None:
    assert outcome(algorithm, seed).violations == []


def broken(algorithm: str, seeds: int = 40) -> Iterator[set[str]]:
    for seed in range(seeds):
        yield {violation.split()[0] for violation in outcome(algorithm, seed).violations}


@pytest.mark.parametrize("algorithm", ["bully", "raft", "zab", "tanenbaum"])
def test_if_nobody_kept_trying_storms_would_find_it(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elector, "keep_trying", lambda self: None)
    assert any("I9" in found for found in broken(algorithm, 3))


@pytest.mark.parametrize(
    ("algorithm", "rule", "taken_away"),
    [
        ("bully", "asks_first", property(lambda self: False)),
        ("tanenbaum", "proclaim", lambda self, best, term, visited: self.send_round(best, term)),
        ("chang-roberts", "proclaim", lambda self, best, term, visited: self.send_round(best, term)),
    ],
)
def test_if_who_is_cut_off_claimed_storms_would_find_it(
    algorithm: str, rule: str, taken_away: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ring if rule == "proclaim" else Elector, rule, taken_away)
    assert any("I10" in found for found in broken(algorithm, 6))


def test_if_a_rejoined_node_voted_where_it_may_have_voted_storms_would_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Elector, "vote_for_nobody", lambda self, term, lost: None)
    assert any(found & {"I1", "I2", "I3"} for found in broken("raft"))


def test_if_a_lost_store_were_welcome_storms_would_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(known: Start | None, gone: bool, identity: Identity, observer: bool) -> Verdict:
        return Verdict.WELCOME

    monkeypatch.setattr("electorate.sim.world.judge", judge)
    algorithms = ("bully", "raft")  # about one run in fifty
    assert any(found & {"I1", "I2", "I3"} for algorithm in algorithms for found in broken(algorithm, 120))


def test_if_a_refusal_were_believed_where_a_death_must_be_attested_storms_would_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def believe(self: Host, peer: NodeId) -> None:
        if peer in self.reached and not self.world.links[peer, self.id].session:
            self.is_gone(peer, self.reached[peer])

    monkeypatch.setattr(Host, "hear_refusal", believe)
    assert any("I2" in found for found in broken("raft", 6))


def test_if_one_that_may_not_lead_objected_to_stale_data_storms_would_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def misgiving(self: Raft, claimant: NodeId, claim: Claim) -> Reason | None:
        insists = isinstance(claim, PreVote | RequestVote) and claim.insist
        return Reason.STALER if claim.position < self.position and not insists else None

    monkeypatch.setattr(Raft, "misgiving", misgiving)
    assert any("I5" in found for found in broken("raft", 200))  # about one run in 35
