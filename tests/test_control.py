"""The socket `control` in a node's data directory: what is asked there, by whom, and what strangers can do to it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from electorate.cli.plan import reserved_ports
from electorate.runtime import control as control_module
from electorate.runtime.control import CALLERS, LINE, address, control
from electorate.runtime.host import Host
from tests.api_nodes import nodes
from tests.runtime_hosts import Cluster, E, cluster, in_loop, until


class Asker:
    """One who has called a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, question: bytes | dict[str, Any]) -> Any:
        self.writer.write(question if isinstance(question, bytes) else json.dumps(question).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Any:
        line = await self.reader.readline()
        return json.loads(line) if line else None


@asynccontextmanager
async def caller(directory: Path) -> AsyncIterator[Asker]:
    with address(directory) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield Asker(reader, writer)
    finally:
        writer.close()


async def ask(directory: Path, question: bytes | dict[str, Any]) -> Any:
    async with caller(directory) as one:
        return await one.ask(question)


@asynccontextmanager
async def answering(directory: Path, ids: str = "abc", **settings: Any) -> AsyncIterator[Cluster]:
    """Hosts that can be asked."""
    async with cluster(directory, ids=ids, **settings) as at, AsyncExitStack() as around:
        for host in at.hosts.values():
            await around.enter_async_context(control(host))
        yield at


@in_loop
async def test_it_tells_what_the_node_knows(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        leader = await at.agreed()
        for id in at.hosts:
            status = await ask(tmp_path / id, {"ask": "status"})
            assert (status["node"], status["cluster"], status["algorithm"]) == (id, "demo", "raft")
            [election] = status["elections"]
            assert (election["election"], election["leader"]) == (E, leader.id)
            [again] = (await ask(tmp_path / id, {"ask": "elections"}))["elections"]
            for each in (election, again):
                assert (each.pop("lease_left") > 0) == (id == leader.id)
            assert again == election
            known = await ask(tmp_path / id, {"ask": "leader"})
            assert known["leader"] == leader.id
            assert known["address"] == f"127.0.0.1:{at.ports[leader.id]}"


@in_loop
async def test_a_lease_without_end_is_told_as_an_hour(tmp_path: Path) -> None:
    async with answering(tmp_path, "a") as at:
        await at.agreed()
        [election] = (await ask(tmp_path / "a", {"ask": "elections"}))["elections"]
        assert election["lease_left"] == 3600


@in_loop
async def test_a_leader_hands_over_when_it_is_told_to(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        first = await at.agreed()
        second, third = (id for id in at.hosts if id != first.id)
        answer = await ask(tmp_path / first.id, {"ask": "transfer", "to": second})
        assert (answer["leader"], answer["done"]) == (second, True)
        answer = await ask(tmp_path / second, {"ask": "resign", "election": E})
        assert answer["done"]
        assert answer["leader"] in (first.id, third)


@in_loop
async def test_who_will_ask_no_more_still_waits_for_its_answer(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        leader = await at.agreed()
        async with caller(tmp_path / leader.id) as one:
            one.writer.write(b'{"ask": "resign"}\n')
            one.writer.write_eof()
            assert (await one.answer())["done"]


@in_loop
async def test_what_cannot_be_done_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        leader = await at.agreed()
        follower = next(id for id in at.hosts if id != leader.id)
        for question, sentence in (
            ({"ask": "transfer"}, "say to whom"),
            ({"ask": "leader", "election": "nope"}, "there is no election 'nope' here; there is main"),
            ({"ask": "leader", "election": "mian"}, "there is no election 'mian' here; did you mean 'main'?"),
        ):
            answer = await ask(tmp_path / follower, question)
            assert answer == {"error": sentence, "refused": True}
        unknown = await ask(tmp_path / leader.id, {"ask": "transfer", "to": "z"})
        assert unknown["refused"]
        assert "'z'" in unknown["error"]
        assert (await ask(tmp_path / leader.id, {"ask": "transfer"}))["refused"]
        assert leader.is_leader(E)


@in_loop
async def test_who_watches_is_told_every_change(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        first = await at.agreed()
        heir = next(id for id in at.hosts if id != first.id)
        async with caller(tmp_path / first.id) as watcher:
            now = await watcher.ask({"ask": "watch"})
            assert (now["leader"], now["role"]) == (first.id, "leader")
            first.transfer(E, heir)
            while (change := await watcher.answer())["leader"] != heir:
                assert change["leader"] is None
            assert change["term"] > now["term"]


# --- strangers, and strange questions ---------------------------------------------------------------


@in_loop
async def test_nonsense_is_answered_and_changes_nothing(tmp_path: Path) -> None:
    async with answering(tmp_path, ids="a") as at:
        leader = await at.agreed()
        term = leader.view(E)
        for nonsense in (b"\n", b"\xff\n", b"[]\n", b'{"ask": "shutdown"}\n', b'{"ask": "status", "x": 1}\n'):
            answer = await ask(tmp_path / "a", nonsense)
            assert answer["error"]
            assert not answer["refused"]
        answer = await ask(tmp_path / "a", b"x" * (2 * LINE) + b"\n")
        assert answer["error"] == f"a question has {LINE} bytes at most, and ends with a line feed"
        assert leader.view(E) == term


@in_loop
async def test_who_calls_and_says_nothing_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "PATIENCE", 0.1)
    async with answering(tmp_path, ids="a") as at:
        await at.agreed()
        async with caller(tmp_path / "a") as silent:
            assert (await silent.answer())["error"] == "no question came within 0.1 seconds"


@in_loop
async def test_too_many_callers_are_told_to_try_again(tmp_path: Path) -> None:
    async with answering(tmp_path, ids="a") as at, AsyncExitStack() as calls:
        await at.agreed()
        for _ in range(CALLERS):
            watcher = await calls.enter_async_context(caller(tmp_path / "a"))
            assert (await watcher.ask({"ask": "watch"}))["leader"] == "a"
        assert "try again" in (await ask(tmp_path / "a", {"ask": "status"}))["error"]
        await calls.aclose()
        async with asyncio.timeout(10):
            while "error" in await ask(tmp_path / "a", {"ask": "status"}):
                pass


# --- the file ---------------------------------------------------------------------------------------


@in_loop
async def test_only_the_owner_can_reach_it(tmp_path: Path) -> None:
    async with answering(tmp_path, ids="a"):
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "a" / "control").stat().st_mode) == 0o600


@in_loop
async def test_it_goes_with_the_node_and_one_left_behind_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a" / "control"))
    async with answering(tmp_path, ids="a"):
        assert (await ask(tmp_path / "a", {"ask": "status"}))["node"] == "a"
    assert not (tmp_path / "a" / "control").exists()


@in_loop
async def test_a_node_that_goes_leaves_its_successor_s_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a") as at:
        host = at.hosts["a"]
        async with control(host):
            (tmp_path / "a" / "control").rename(tmp_path / "a" / "old")
            (tmp_path / "a" / "control").write_text("of another")
        assert (tmp_path / "a" / "control").exists()


@in_loop
async def test_the_path_may_be_longer_than_a_socket_s(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    async with answering(deep, ids="a"):
        assert (await ask(deep / "a", {"ask": "status"}))["node"] == "a"


# --- the library's nodes ----------------------------------------------------------------------------


@in_loop
async def test_a_node_of_the_library_answers_too_while_it_runs(tmp_path: Path) -> None:
    with nodes(tmp_path, ids="a") as make, reserved_ports(1) as [port]:
        async with make("a", http={"address": f"127.0.0.1:{port}"}) as node:
            election = node.election("main")
            async with election.leadership():
                assert (await ask(tmp_path / "a", {"ask": "leader"}))["leader"] == "a"
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                    assert (await client.get("/leader")).json()["leader"] == "a"
        assert not (tmp_path / "a" / "control").exists()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/leader")


@in_loop
async def test_a_host_that_was_asked_to_stop_answers_to_the_end(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        leader: Host = await at.agreed()
        stopping = asyncio.create_task(leader.stop())
        await until(lambda: not leader.is_leader(E))
        assert (await ask(tmp_path / leader.id, {"ask": "leader"}))["leader"] != leader.id
        await stopping


@in_loop
async def test_a_transfer_to_one_that_is_behind_is_refused_with_both_positions_but_by_force(
    tmp_path: Path,
) -> None:
    async with answering(tmp_path, timing={"beat": 0.1, "lease": 1.0}) as at:
        leader = await at.agreed()
        heir = next(id for id in at.hosts if id != leader.id)
        at.hosts[heir].set_position(E, 3)
        leader.set_position(E, 10)
        answer = await ask(tmp_path / leader.id, {"ask": "transfer", "to": heir})
        assert answer == {
            "error": f"node {heir} is behind: its position is 3, that of node {leader.id} 10",
            "refused": True,
        }
        assert leader.is_leader(E)
        answer = await ask(tmp_path / leader.id, {"ask": "transfer", "to": heir, "force": True})
        assert (answer["leader"], answer["done"]) == (heir, True)


@in_loop
async def test_a_transfer_waits_until_its_heir_has_caught_up(tmp_path: Path) -> None:
    async with answering(tmp_path) as at:
        leader = await at.agreed()
        heir = next(id for id in at.hosts if id != leader.id)
        leader.set_position(E, 10)
        asked = asyncio.create_task(ask(tmp_path / leader.id, {"ask": "transfer", "to": heir}))
        await until(lambda: (held := leader.node.leading.get(E)) and held.intended)
        at.hosts[heir].set_position(E, 10)
        answer = await asked
        assert (answer["leader"], answer["done"]) == (heir, True)


@in_loop
async def test_who_was_asked_what_and_what_came_of_it_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def audit(id: str) -> list[str]:
        lines = [line for line in caplog.records if line.name == f"electorate.{id}.audit"]
        assert all(line.client == f"process {os.getpid()} on this machine" for line in lines)  # type: ignore[attr-defined]
        return [f"{line.wish}: {line.outcome}" for line in lines]  # type: ignore[attr-defined]

    async with answering(tmp_path) as at:
        leader = await at.agreed()
        heir, other = (id for id in at.hosts if id != leader.id)
        for question in (
            {"ask": "freeze", "seconds": 60},
            {"ask": "freeze", "seconds": 0},
            {"ask": "freeze", "seconds": -1},
            {"ask": "transfer", "to": "z"},
            {"ask": "resign", "election": "mian", "seconds": 5},
            {"ask": "status"},
            {"ask": "leader"},
        ):
            await ask(tmp_path / other, question)
        assert audit(other) == [
            "freeze of 'main' for 60 s: done",
            "end of the freeze of 'main': done",
            "freeze of 'main' for -1 s: refused: -1 is not a number of seconds from 0 to 315360000",
            "transfer of 'main' to 'z': refused: node 'z' is not in the cluster file; it has a, b, c",
            "resignation from 'mian' for 5 s: refused: there is no election 'mian' here; did you mean 'main'?",
        ]
        leader.occupy(E)
        assert not (await ask(tmp_path / leader.id, {"ask": "transfer", "to": heir}))["done"]
        leader.vacate(E)
        await at.agreed(but=leader.id)
        assert audit(leader.id) == [f"transfer of 'main' to '{heir}': under way"]
