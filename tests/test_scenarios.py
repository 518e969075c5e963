"""The scenarios that come with electorate: each tells the truth, and each guard is missed when it is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from electorate.core.elector import Elector
from electorate.core.liveness import Peer
from electorate.core.model import NodeId, Recall
from electorate.core.node import Node
from electorate.errors import UserError
from electorate.sim.scenario import EXPECTATIONS, VERBS, Play, load, shipped

HEAD = 'story = "A story."\nalgorithm = "raft"\nnodes = 3\n'


def written(tmp_path: Path, *steps: str, more: str = "") -> str:
    path = tmp_path / "story.toml"
    path.write_text(f"{HEAD}steps = [{', '.join(map(repr, steps))}]\n{more}")
    return str(path)


def failures(name: str) -> list[str]:
    play = Play(load(name), record=False)
    play.run()
    return play.failures


# --- what is shipped


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenario_goes_as_told(name: str) -> None:
    assert failures(name) == []


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenario_is_short_and_checks_its_point(name: str) -> None:
    scenario = load(name)
    assert scenario.story.endswith(".")
    assert 3 <= len(scenario.steps) <= 15
    assert any(" expect " in step for step in scenario.steps)


def test_all_algorithms_and_all_words_are_used() -> None:
    scenarios = [load(name) for name in shipped()]
    steps = [step.split()[1:] for scenario in scenarios for step in scenario.steps]
    assert {scenario.algorithm for scenario in scenarios} == {"bully", "ring", "raft", "zab"}
    assert {words[0] for words in steps} == set(VERBS)
    assert {words[1] for words in steps if words[0] == "expect"} == set(EXPECTATIONS)


@pytest.mark.parametrize("name", shipped())
def test_a_scenario_is_the_same_every_time(name: str) -> None:
    first, second = (Play(load(name)) for _ in range(2))
    assert first.run().entries == second.run().entries


# --- the guards: without them, two leaders


@pytest.mark.parametrize(
    ("name", "guarded", "guard", "absent"),
    [
        ("restart-within-a-lease", Elector, "is_amnesiac", lambda self: False),
        ("chained", Elector, "is_sticky", lambda self, claimant: False),
        ("support-epoch", Peer, "begin_stretch", lambda self: None),
        ("rejoined-is-quiet", Node, "has_rejoined", lambda self: rejoin_and_speak(self)),
    ],
    ids=["amnesia", "stickiness", "support epoch", "quiet after a rejoin"],
)
def test_without_the_guard_two_lead(
    name: str, guarded: type, guard: str, absent: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, guard, absent)
    assert any(failure.startswith("I2") for failure in failures(name))


def rejoin_and_speak(node: Node) -> None:
    rejoined(node)
    node.quiet_until = 0.0


rejoined = Node.has_rejoined


@pytest.mark.parametrize("name", ["two-lost-stores", "lost-store-of-a-backer"])
def test_who_rejoins_must_wait_for_every_other_voter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "look_whether_all_have_answered", a_quorum_is_enough)
    monkeypatch.setattr(Node, "on_recall", answer_always)
    assert any(failure.startswith("I1") for failure in failures(name))


def a_quorum_is_enough(node: Node) -> None:
    answered = [id for id in node.membership.voters if node.answered.get(id, "") is None]
    if node.rejoin and node.membership.is_quorum(answered):
        node.has_rejoined()


def answer_always(node: Node, sender: NodeId, recall: Recall) -> None:
    rejoin, node.rejoin = node.rejoin, None
    answer(node, sender, recall)
    node.rejoin = rejoin


answer = Node.on_recall


# --- an expectation that is not met is a failure


@pytest.mark.parametrize(
    ("expectation", "actual"),
    [
        ("leader a", "c held the lease"),
        ("leader none", "c held the lease"),
        ("leader not c", "c held the lease"),
        ("leaders 2", "1 held a lease"),
        ("term 9", "it was 1"),
        ("term at least 2", "it was 1"),
        ("term at most 0", "it was 1"),
        ("role c follower", "it was leader"),
        ("follows a b", "it follows c"),
        ("follows a nobody", "it follows c"),
        ("refuses a b", "it is welcome"),
        ("awaits a b", "it waits for nobody"),
        ("sent no RequestVote", "2 were sent"),
        ("sent 3 RequestVote", "2 were sent"),
        ("sent at most 1 RequestVote", "2 were sent"),
        ("sent at least 3 RequestVote", "2 were sent"),
        ("sent Notification", "0 were sent"),
    ],
)
def test_an_unmet_expectation_fails(tmp_path: Path, expectation: str, actual: str) -> None:
    name = written(tmp_path, f"1.0 expect {expectation}")
    assert failures(name) == [f"at 1.000 s: expected {expectation}, but {actual}"]


def test_leader_any_fails_where_nobody_leads(tmp_path: Path) -> None:
    name = written(tmp_path, "1.0 crash a b", "2.0 expect leader any", "2.0 restart a b")
    assert failures(name) == ["at 2.000 s: expected leader any, but nobody held the lease"]


def test_a_step_about_a_leader_fails_where_nobody_leads(tmp_path: Path) -> None:
    name = written(tmp_path, "0.0 expect term 1")
    assert "at 0.000 s: nobody leads main" in failures(name)


def test_a_node_that_runs_cannot_restart(tmp_path: Path) -> None:
    assert failures(written(tmp_path, "1.0 restart a")) == ["at 1.000 s: a cannot restart, it is running"]


def test_a_violation_that_was_announced_must_come(tmp_path: Path) -> None:
    name = written(tmp_path, "1.0 expect leader c", more='violates = ["I2"]\n')
    assert failures(name) == ["I2 should have been violated"]


def test_a_cluster_that_cannot_agree_again_fails(tmp_path: Path) -> None:
    assert any(failure.startswith("I5") for failure in failures(written(tmp_path, "1.0 split a | b | c")))


def test_nothing_is_demanded_of_a_cluster_without_a_quorum(tmp_path: Path) -> None:
    assert failures(written(tmp_path, "1.0 crash a b", "3.0 expect leader none")) == []


def test_nothing_is_demanded_of_a_cluster_that_nobody_wants_to_lead(tmp_path: Path) -> None:
    withdrawn = [f"1.0 withdraw {id}" for id in "abc"]
    assert failures(written(tmp_path, *withdrawn, "3.0 expect leader none")) == []


# --- mistakes of the one who writes a scenario: one sentence that names the thing


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ("1.0 explode a", "'explode' is not one of crash, restart"),
        ("1.0 expect wonders", "'wonders' is not one of leader, leaders"),
        ("1.0 expect", "'' is not one of leader, leaders"),
        ("soon crash a", "a step is a time in seconds, a verb and its words"),
        ("-1.0 heal", "a step is a time in seconds, a verb and its words"),
        ("1.0 clock a 0", "after 'clock' comes NODE RATE, of a, b, c"),
        ("1.0", "a step is a time in seconds, a verb and its words"),
        ("", "a step is a time in seconds, a verb and its words"),
        ("1.0 crash", "after 'crash' comes NODE..., of a, b, c"),
        ("1.0 crash z", "after 'crash' comes NODE..., of a, b, c"),
        ("1.0 slow a b", "after 'slow' comes NODE NODE SECONDS, of a, b, c"),
        ("1.0 heal a", "after 'heal' comes nothing, of a, b, c"),
        ("1.0 expect role a king", "after 'expect role' comes NODE ROLE, of a, b, c"),
        ("1.0 crash leader of shard-9", "there is no election 'shard-9'"),
    ],
)
def test_a_mistaken_step_is_explained(tmp_path: Path, step: str, complaint: str) -> None:
    assert complaint in complaint_about(written(tmp_path, step))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("stroy = 1\n", "unknown field `stroy`"),
        ('story = "again"\n', "Cannot overwrite a value"),
        ("elections = []\n", "there must be at least one node and one election"),
        ('quorum = "some"\n', "Invalid enum value 'some'"),
        ("settings = { stager = 1 }\n", "settings: 'stager' is not one of rank_by, stagger"),
        ('settings = { algorithm = "zab" }\n', "settings: 'algorithm' is not one of rank_by"),
        ("timing = { beat = 0.0 }\n", "timing: 'beat' must be more than 0 seconds"),
        ("timing = { leese = 1.0 }\n", "timing: 'leese' is not one of beat, lease"),
        ("weather = { rain = 1.0 }\n", "weather: 'rain' is not one of delay, loss"),
        ('contenders = ["z"]\n', "contenders: there is no node 'z'"),
    ],
)
def test_a_mistaken_file_is_explained(tmp_path: Path, more: str, complaint: str) -> None:
    path = tmp_path / "story.toml"
    path.write_text(f"{HEAD}{more}steps = []\n")
    assert complaint in complaint_about(str(path))


def test_a_mistaken_member_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "story.toml"
    path.write_text('story = "s"\nalgorithm = "raft"\nsteps = []\n[nodes.a]\nwait = 3\n')
    assert "nodes.a: 'wait' is not one of id, kind" in complaint_about(str(path))


def test_a_missing_file_is_explained() -> None:
    known = "`elect sim --scenario list` names all"
    assert f"scenario no-such-story: No such file or directory; {known}" in complaint_about("no-such-story")
    assert f"; did you mean 'leader-crash'? {known}" in complaint_about("leader-crush")


def complaint_about(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load(name)
    complaint = str(caught.value)
    assert "\n" not in complaint
    return complaint
