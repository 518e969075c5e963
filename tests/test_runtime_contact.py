"""Whom a node reaches: what its log and its status say of a quorum that is lost, and of a peer that stays away."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from electorate.core.model import Settings
from electorate.errors import UserError, misspelt
from electorate.leadership import LeadershipLost
from electorate.runtime import contact, hearsay, host
from electorate.runtime.config import Config
from electorate.runtime.host import Host
from electorate.runtime.names import Name
from tests.api_nodes import nodes
from tests.runtime_hosts import E, cluster, in_loop, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(contact, "PATIENCE", 0.2)
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture, by: str, words: str) -> int:
    return sum(
        record.name == f"electorate.{by}" and words in record.getMessage() for record in caplog.records
    )


@in_loop
async def test_a_quorum_that_is_lost_and_back_is_said_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        c = at.hosts["c"]
        await until(lambda: all(link.connected for link in c.links.values()))
        assert c.status()["no_quorum"] is None
        await at.stop("a")
        await at.stop("b")
        await until(lambda: said(caplog, "c", "I reach a and b no more: 1 of 3 voters, 2 needed"))
        assert re.fullmatch(r"no quorum since \d\d:\d\d:\d\d: a and b lost", c.status()["no_quorum"])
        await until(lambda: said(caplog, "c", "node a cannot be reached at"))
        assert c.status()["unreached"]["a"] == "the connection is refused"
        await at.start("a")
        await at.agreed()
        await until(lambda: said(caplog, "c", "I reach a quorum again: 2 of 3 voters, 2 needed"))
        await until(lambda: said(caplog, "c", "node a is reached again"))
        assert c.status()["no_quorum"] is None
        assert "a" not in c.status()["unreached"]
        assert set(c.status()["lost_since"]) == {"b"}
        for words in ("no more", "a quorum again", "node a cannot be reached"):
            assert said(caplog, "c", words) == 1


@in_loop
async def test_a_break_that_is_mended_at_once_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "PATIENCE", 3600.0)
    async with cluster(tmp_path) as at:
        await at.agreed()
        c = at.hosts["c"]
        await until(lambda: all(link.connected for link in c.links.values()))
        seen = len(at.events)
        for link in c.links.values():
            link.drop()
        lost = ("c", "peer", {"peer": "a", "state": "lost"})
        await until(lambda: lost in at.events[seen:] and all(link.connected for link in c.links.values()))
        assert (c.contact.since, c.contact.timer) == (None, None)
        assert not said(caplog, "c", "no more") and not said(caplog, "c", "again")


@in_loop
async def test_a_node_that_has_never_reached_a_quorum_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, absent="bc") as at:
        await until(lambda: said(caplog, "a", "I have not reached b and c: 1 of 3 voters, 2 needed"))
        status = at.hosts["a"].status()
        assert status["no_quorum"].endswith(": b and c not reached")
        assert (status["peers"], status["lost_since"]) == (dict.fromkeys("bc", "never reached"), {})
        await at.start("b")
        await at.agreed()
        assert at.hosts["a"].status()["peers"] == {"b": "connected", "c": "never reached"}
        before = time.time()
        await at.stop("b")
        await until(lambda: at.hosts["a"].status()["peers"]["b"] == "lost")
        assert before - 1 < at.hosts["a"].status()["lost_since"]["b"] < time.time() + 1


@in_loop
async def test_a_peer_whose_name_does_not_resolve_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(name: Name) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(Name, "addresses", unknown)
    async with cluster(tmp_path, "ab", absent="b") as at:
        why = "its name does not resolve (Name or service not known)"
        await until(
            lambda: said(caplog, "a", f"node b cannot be reached at 127.0.0.1:{at.ports['b']}: {why}")
        )
        assert at.hosts["a"].status()["unreached"] == {"b": why}


@in_loop
async def test_an_election_too_many_is_refused_to_who_contends(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a") as at:
        a = await at.agreed()
        a.node.settings = msgspec.structs.replace(a.node.settings, max_elections=2)
        a.contend("second")
        a.contend("second")
        with pytest.raises(ValueError, match="no room for an election 'third': node a holds 2 already"):
            a.contend("third")
        with pytest.raises(ValueError, match="has 1 to"):
            a.contend("")


@in_loop
async def test_who_only_watches_misses_the_voters_and_nobody_misses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A witness counts, an observer does not; either is told of what it reaches."""
    async with cluster(tmp_path, "abwo") as at:
        kinds = dict(zip("abwo", ("voter", "voter", "witness", "observer"), strict=True))
        for id in "abwo":
            await at.stop(id)
        at.settings["nodes"] = {
            id: {"address": f"127.0.0.1:{at.ports[id]}", "kind": kind} for id, kind in kinds.items()
        }
        for id in "abwo":
            await at.start(id, new_members=True)
        await at.agreed()
        await at.stop("o")
        await until(lambda: said(caplog, "a", "node o cannot be reached at"))
        assert at.hosts["a"].status()["no_quorum"] is None
        await at.start("o")
        await at.stop("a")
        await at.stop("b")
        for id, count in (("w", "1 of 3 voters, 2 needed"), ("o", "1 of 3 voters, 2 needed")):
            await until(lambda id=id, count=count: said(caplog, id, f"I reach a and b no more: {count}"))  # type: ignore[misc]
            assert at.hosts[id].status()["no_quorum"].endswith(": a and b lost")


@in_loop
async def test_who_answers_with_ever_other_words_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, absent="bc") as at:
        a = at.hosts["a"]
        await until(lambda: said(caplog, "a", "node b cannot be reached"))
        for number in range(100):
            a.contact.failed("b", f"it refuses me: {number}")
        assert said(caplog, "a", "node b cannot be reached") == hearsay.DIFFERENT
        assert a.status()["unreached"]["b"] == "it refuses me: 99"


@in_loop
async def test_a_node_whose_elections_have_no_room_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Settings(max_elections=1)
    monkeypatch.setattr(Config, "settings", property(lambda _: full))
    async with cluster(tmp_path, ids="a", absent="a") as at:
        with pytest.raises(UserError, match="no room for an election 'other': node a holds 1 already"):
            await at.start("a", contends=("main", "other"))
        at.hosts.clear()
        await at.start("a")
        await at.agreed()


@in_loop
async def test_no_command_is_for_an_election_that_has_no_room(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        async with make("a") as node:
            node.host.node.settings = msgspec.structs.replace(node.host.node.settings, max_elections=1)
            node.election("one").contend()
            with pytest.raises(ValueError, match="no room for an election 'two'"):
                node.election("two").freeze(1.0)
            with pytest.raises(ValueError, match="no room for an election 'two'"):
                node.election("two").position = 7
            with pytest.raises(ValueError, match="no room for an election 'two'"):
                node.election("two").contend()
        with pytest.raises(LeadershipLost, match="'one' is not won: its node stopped"):
            node.election("one").contend()
        with pytest.raises(RuntimeError, match="node a has been stopped"):
            await node.election("one").resign()


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("scheduller", "scheduler", True),
        ("shceduler", "scheduler", True),
        ("schedulers", "scheduler", True),
        ("shard-a", "shard-b", False),
        ("shard-9", "shard-10", False),
        ("eu-west-1", "eu-east-1", False),
        ("orders-eu", "orders-us", False),
        ("shard-12", "shard-21", False),
        ("main", "scheduler", False),
    ],
)
def test_a_misspelt_word_is_not_one_of_a_series(word: str, known: str, meant: bool) -> None:
    assert misspelt(word, ["else", known]) == (known if meant else None)
    assert misspelt(known, [word]) == (word if meant else None)


@in_loop
async def test_an_election_whose_name_is_misspelt_is_told_by_all_who_know_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, absent="abc", elections=("main", "reports")) as at:
        await at.start("a", contends=("scheduler", "shard-1", "repotrs"))
        assert said(
            caplog, "a", "an election 'repotrs', which is not in the cluster file; did you mean 'reports'?"
        )
        await at.start("b", contends=("scheduller", "shard-2"))
        await at.start("c")
        for id in "abc":
            await until(lambda id=id: said(caplog, id, "did you mean 'schedul"))  # type: ignore[misc]
        await at.agreed()
        assert not any(said(caplog, id, "did you mean 'shard") for id in "abc")
        assert said(caplog, "a", "did you mean 'reports'?") == 1
        at.hosts["a"].contend("reports")
        assert not said(caplog, "a", "did you mean 'repotrs'")


@in_loop
async def test_to_name_many_elections_by_a_program_costs_no_comparison(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "FEW", 3)
    async with cluster(tmp_path, ids="a") as at:
        a = await at.agreed()
        for name in ("scheduler", "worker", "third", "fourth", "scheduller"):
            a.contend(name)
        assert not said(caplog, "a", "did you mean")


@in_loop
async def test_the_library_asks_whether_another_election_was_meant(tmp_path: Path) -> None:
    with nodes(tmp_path, "a", elections=("scheduler",)) as make:
        async with make("a") as node:
            for name, says in (
                ("scheduller", "nobody does; did you mean 'scheduler'?"),
                ("xyzzy", "nobody does"),
            ):
                for wish in (node.election(name).transfer("a"), node.election(name).resign()):
                    with pytest.raises(ValueError, match=f"{re.escape(says)}$"):
                        await wish


@in_loop
async def test_status_tells_for_how_long_a_node_does_not_contend(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        leader = await at.agreed()
        follower = next(host for host in at.hosts.values() if host is not leader)

        def frozen(host: Host) -> float:
            [standing] = host.status()["elections"]
            return float(standing["frozen"])

        assert frozen(follower) == 0
        follower.freeze(E, 600.0)
        assert 0 < frozen(follower) <= 600
        follower.freeze(E, 0.0)
        assert frozen(follower) == 0
        with pytest.raises(ValueError, match="let it resign"):
            leader.freeze(E, 600.0)
        leader.freeze(E, 0.0)
        assert frozen(leader) == 0 and leader.is_leader(E)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"POST /transfer HTTP/1.1\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (bytes.fromhex("1603010200010001fc0303"), "TLS"),
    ],
    ids=["a browser", "curl -d", "HTTP/2", "https"],
)
@pytest.mark.parametrize("http", ["127.0.0.1:1", None], ids=["with HTTP", "without HTTP"])
@in_loop
async def test_who_speaks_another_language_to_a_node_is_told_what_is_spoken_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, words: bytes, told: str, http: str | None
) -> None:
    async with cluster(tmp_path, "a", absent="a") as at:
        node = {"address": f"127.0.0.1:{at.ports['a']}", **({"http": http} if http else {})}
        await at.start("a", at.config(nodes={"a": node}))
        reader, writer = await asyncio.open_connection("127.0.0.1", at.ports["a"])
        writer.write(words)
        with suppress(ConnectionError):
            answer = await reader.read()
            assert (b'{"error": "here nodes speak to each other;' in answer) is (told == "HTTP")
        writer.close()
        rest = (
            "node a does not speak TLS"
            if told == "TLS"
            else f"node a serves HTTP at {http}"
            if http
            else "is not set"
        )
        await until(
            lambda: said(caplog, "a", f"refusing a stranger: it speaks {told}: nodes.a.address is where")
        )
        assert said(caplog, "a", rest) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"), (bytes.fromhex("15030300020246"), "TLS")],
)
@in_loop
async def test_an_address_where_another_language_is_spoken_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes, told: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with (
        cluster(tmp_path, "ab", absent="b") as at,
        await asyncio.start_server(serve, "127.0.0.1", at.ports["b"]),
    ):
        why = f"it answers in {told}: nodes.b.address is where nodes speak to each other"
        await until(lambda: at.hosts["a"].status()["unreached"].get("b", "").startswith(why))
        address = f"127.0.0.1:{at.ports['b']}"
        await until(lambda: said(caplog, "a", f"node b cannot be reached at {address}: {why}"))
