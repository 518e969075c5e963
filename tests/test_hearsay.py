"""What others say is escaped, cut and counted for each of them before anybody reads it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from electorate.cli import client
from electorate.core.identity import Start
from electorate.runtime.hearsay import AGAIN, DIFFERENT, SENTENCE, WORD, Hearsay, Room, heard
from electorate.runtime.host import Host
from electorate.runtime.link import A_STRANGER
from electorate.runtime.wire import GREETING_LIMIT, MAX_METADATA, Answered, Ask, Greeting, How, Refused, frame
from tests.runtime_hosts import cluster, in_loop, stranger, until

ELSEWHERE = "127.0.0.66"
"""An address of no member."""
EVIL = "\n2026-01-01 ERROR all is lost\x1b[2J\u202e"


def test_the_words_of_others_are_one_line_that_no_terminal_obeys() -> None:
    assert heard("plain, n\xe9v \u4e16") == "plain, n\xe9v \u4e16"
    assert heard(EVIL) == r"\n2026-01-01 ERROR all is lost\x1b[2J\u202e"
    assert heard("x" * WORD) == "x" * WORD
    assert heard("x" * (WORD + 1)) == "x" * WORD + "..."


def test_a_room_remembers_a_few_logs_each_once_and_has_place_again_with_time() -> None:
    room = Room(0.0)
    assert [room.hear("a", 0.0), room.hear("a", 0.0), room.hear("b", 0.0)] == [True, False, True]
    for number in range(100):
        room.hear(f"{number}", 0.0)
    assert len(room.counts) == DIFFERENT and room.others == 103 - DIFFERENT
    assert not room.hear("the truth", 1.0), "nothing more may be logged now"
    assert not room.hear("the truth", AGAIN - 1.0)
    assert room.hear("the truth", AGAIN + 1.0), "what goes on is logged when there is place again"
    assert not room.hear("the truth", 1000 * AGAIN)
    assert [room.hear(f"{number}", 1000 * AGAIN) for number in range(9)].count(True) == DIFFERENT


def test_nobody_fills_the_room_of_another() -> None:
    hearsay = Hearsay(lambda: 0.0)
    for number in range(1000):
        hearsay.hear(("refusing", A_STRANGER, "junk"), f"junk {number}")
        hearsay.hear(("refusing", "b", "cluster"), f"cluster {number}")
    assert hearsay.hear(("refusing", "b", "lost_store"), "lost")
    assert hearsay.hear(("refusing", "c", "cluster"), "another")
    counts = hearsay.counts()
    assert len(counts) == 2 * (DIFFERENT + 1) + 2
    assert counts["refusing a stranger: other complaints (junk)"] == 1000 - DIFFERENT


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("electorate.")]


def is_fit(host: Host) -> bool:
    """Whether all that it shows is short, and can be printed."""
    status = host.status()
    texts = [*status["ignored"], *status["unreached"].values()]
    return all(text.isprintable() and len(text) <= SENTENCE + WORD for text in texts)


@in_loop
async def test_strangers_write_no_lines_of_their_own_and_crowd_out_no_real_complaint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        a, port, met = at.hosts["a"], at.ports["a"], Start(7, 77)
        async with stranger(port) as member:
            await member.greet(at.greeting("b", "a", met))
        digests = {f"{EVIL}{n}": n for n in range(500)}
        for number in range(50):
            word = f"{EVIL}{number}"
            hostile: list[Greeting] = [
                at.greeting("b", "a", met, cluster=word + "x" * 3000),
                at.greeting("b", "a", met, to=word),
                at.greeting(word, "a", met),
                at.greeting("b", "a", met, safety=digests),
                at.greeting("b", "a", Start(6, 1000 + number)),
            ]
            async with stranger(port, ELSEWHERE) as caller:
                answer = await caller.greet(hostile[number % len(hostile)])
                assert isinstance(answer, Refused)
                assert answer.reason.isprintable() and len(answer.reason) <= SENTENCE
        assert is_fit(a)
        assert len(msgspec.json.encode(a.ignored())) < 20_000
        refused = "I have met incarnation 7 of node 'b', and this one does not know it"
        async with stranger(port) as lost:
            assert isinstance(await lost.greet(at.greeting("b", "a", Start(1, 1))), Refused)
        assert any(line.startswith(f"refusing b: {refused}") for line in lines(caplog))
        assert all(line.isprintable() for line in lines(caplog)), lines(caplog)
        assert all(what["peer"] != "b" for _, kind, what in at.events if "ERROR" in str(what.get("reason")))


@in_loop
async def test_the_longest_greeting_is_refused_in_words_that_arrive(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        for changes in ({"cluster": '"' * (GREETING_LIMIT - 400)}, {"rest": {"k" * 60_000: 1}}):
            async with stranger(at.ports["a"]) as caller:
                greeting = at.greeting("b", "a", Start(1, 1), **changes)
                assert len(frame(greeting)) <= GREETING_LIMIT + 4
                answer = await caller.greet(greeting)
                assert not isinstance(answer, Refused) or len(answer.reason) < SENTENCE
        assert all(len(key) < 3 * WORD for key in at.hosts["a"].differing()["b"])


@in_loop
async def test_whoever_answers_where_a_member_should_chooses_no_lines_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        link = at.hosts["a"].links["b"]
        for number in range(100):
            link.refused(Refused(f"{number}{EVIL}" + "x" * 10_000, None, ()))
            link.refused(Refused("", None, tuple(f"{EVIL}{n}" * 50 for n in range(1000))))
            assert link.failure
            at.hosts["a"].contact.failed("b", link.failure)
        assert is_fit(at.hosts["a"])
        assert all(line.isprintable() for line in lines(caplog))
        assert len(lines(caplog)) < 30


@in_loop
async def test_a_member_fills_no_log_either(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(tmp_path, ids="ab") as at:
        await at.agreed()
        a = at.hosts["a"]
        for number in range(100):
            a.compare("b", {f"{EVIL}{number}": 1})
        assert len([line for line in lines(caplog) if "differ" in line]) == DIFFERENT
        assert all(line.isprintable() for line in lines(caplog))
        assert a.links["b"].told({"k": "x" * MAX_METADATA}) == {}
        assert a.ignored()["ignoring b: its metadata is longer than it may be"] == 1
        assert a.links["b"].told({"k": EVIL}) == {"k": EVIL}, "a program reads it, not a terminal"


@in_loop
async def test_a_wish_of_a_member_for_an_absurd_election_is_answered_shortly(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab") as at:
        await at.agreed()
        a, b = at.hosts["a"], at.hosts["b"]
        number, future = 7, a.loop.create_future()
        a.handover.asked[number] = ("b", future)
        a.links["b"].write(Ask(number, EVIL + "x" * 500_000, "y" * 500_000, False, 0.0, 1.0))
        await until(future.done)
        assert future.result().how is How.REFUSED
        with pytest.raises(ValueError, match=r"node '\\n2026.*' is not in the cluster file") as error:
            b.check_member(EVIL)
        assert str(error.value).isprintable()


@in_loop
async def test_the_answer_of_a_leader_is_fit_to_be_shown(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab") as at:
        await at.agreed()
        a = at.hosts["a"]
        future = a.loop.create_future()
        a.handover.asked[7] = ("b", future)
        a.handover.on_answered("b", Answered(7, How.REFUSED, EVIL + "x" * 10_000, None, 0))
        assert future.result().why.isprintable() and len(future.result().why) <= SENTENCE + 3


def test_a_table_shows_names_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    row: dict[str, Any] = {"role": "leader", "leader": "a", "term": 1, "since": None, "changes": 0}
    client.show([{**row, "election": "[/red]", "lease_left": 0.0}])
    assert "[/red]" in capsys.readouterr().out
