"""The stream of events: how things stand first, then every change, and nothing twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from electorate.web import app, events, server
from tests.runtime_hosts import BOUND, E, in_loop, until
from tests.web_nodes import WebCluster, web_cluster


class Event(NamedTuple):
    """One block of a stream."""

    id: int
    data: dict[str, Any]


class Reader:
    """Reads a stream, as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self.lines = response.aiter_lines()

    async def block(self) -> list[str]:
        """The lines up to the next empty one; none at the end of the stream."""
        lines: list[str] = []
        async with asyncio.timeout(BOUND):
            async for line in self.lines:
                if not line:
                    return lines
                lines.append(line)
        return []

    async def next(self) -> Event:
        fields = dict(line.partition(": ")[::2] for line in await self.block())
        assert fields, "the stream has ended"
        return Event(int(fields["id"]), msgspec.json.decode(fields["data"]))

    async def standing(self, elections: int = 1) -> tuple[int, dict[str, dict[str, Any]]]:
        """How so many elections stand, by their names; and the number of the last."""
        events = [await self.next() for _ in range(elections)]
        return events[-1].id, {event.data["election"]: event.data for event in events}

    async def end(self) -> None:
        while await self.block():
            pass


@asynccontextmanager
async def reading(
    cluster: WebCluster, id: str, last: int | str | None = None, path: str = "/events"
) -> AsyncIterator[Reader]:
    headers = {} if last is None else {"last-event-id": str(last)}
    async with cluster.clients[id].stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


@in_loop
async def test_first_how_things_stand_then_every_change(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        heir = min(cluster.hosts.keys() - {leader.id})
        watcher = max(cluster.hosts.keys() - {leader.id})
        async with reading(cluster, watcher) as reader:
            number, views = await reader.standing()
            assert views[E]["leader"] == leader.id
            assert views[E]["term"] == leader.tenure(E)[0]
            seen = len(cluster.events)
            leader.transfer(E, heir)
            event = Event(number, {})
            told = []
            while event.data.get("leader") != heir:
                event = await reader.next()
                number += 1
                assert event.id == number
                told.append(event.data)
            changes = [what for id, kind, what in cluster.events[seen:] if (id, kind) == (watcher, "view")]
            assert told == changes[: len(told)]


@in_loop
async def test_who_was_away_hears_what_it_missed_and_no_more(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", timing={"beat": 0.05, "lease": 0.2}) as cluster:
        host = await cluster.agreed()
        async with reading(cluster, "a") as reader:
            left, _ = await reader.standing()
        seen = len(cluster.events)
        for _ in range(3):
            host.resign(E)
            await cluster.agreed()
        missed = [what for _, kind, what in cluster.events[seen:] if kind == "view"]
        assert len(missed) >= 6
        async with reading(cluster, "a", left) as reader:
            told = [await reader.next() for _ in missed]
            assert told == [Event(left + 1 + number, what) for number, what in enumerate(missed)]


@pytest.mark.parametrize("last", [0, 2**33, 10**18])
@in_loop
async def test_who_cannot_resume_is_told_how_things_stand(tmp_path: Path, last: int) -> None:
    """An earlier life of the node, one of another node, and one that is not yet."""
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        async with reading(cluster, "a", last) as reader:
            _, views = await reader.standing()
            assert views[E]["leader"] == "a"


@in_loop
async def test_numbers_grow_from_one_life_of_the_node_to_the_next(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", timing={"beat": 0.05, "lease": 0.2}) as cluster:
        host = await cluster.agreed()
        for _ in range(3):
            host.resign(E)
            await cluster.agreed()
        async with reading(cluster, "a") as reader:
            before, _ = await reader.standing()
        await cluster.stop("a")
        await cluster.serve(await cluster.start("a"))
        await cluster.agreed()
        async with reading(cluster, "a", before) as reader:
            after, views = await reader.standing()
            assert after > before
            assert views[E]["leader"] == "a"


@in_loop
async def test_more_changes_than_are_kept_are_told_as_how_things_stand(tmp_path: Path) -> None:
    names = [f"e{number:03}" for number in range(2 * events.KEPT)]
    async with web_cluster(tmp_path, "ab", absent="b", elections=names) as cluster:
        host = cluster.hosts["a"]
        async with reading(cluster, "a") as reader:
            place, views = await reader.standing(len(names))
            assert views.keys() == set(names)
            await cluster.serve(await cluster.start("b"))
            await until(lambda: all(host.leader(name) for name in names))
            newest: dict[str, dict[str, Any]] = {}
            while len(newest) < len(names) or any(view["leader"] is None for view in newest.values()):
                event = await reader.next()
                assert event.id > place
                place = event.id
                newest[event.data["election"]] = event.data


@in_loop
async def test_one_election_of_many(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", elections=["one", "two"]) as cluster:
        host = cluster.hosts["a"]
        await until(lambda: host.is_leader("one") and host.is_leader("two"))
        async with reading(cluster, "a", path="/events?election=two") as reader:
            _, views = await reader.standing()
            assert views.keys() == {"two"}
            host.resign("one")
            host.resign("two")
            assert (await reader.next()).data["election"] == "two"


@in_loop
async def test_silence_is_broken_by_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.01)
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        async with reading(cluster, "a") as reader:
            await reader.standing()
            assert await reader.block() == [":"]


@in_loop
async def test_a_stream_ends_with_its_node(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        async with reading(cluster, leader.id) as reader:
            await reader.standing()
            await cluster.stop(leader.id)
            event = await reader.next()
            assert event.data["role"] == "follower", "its last change is that it leads no longer"
            await reader.end()


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "²"])
@in_loop
async def test_what_is_no_number_is_refused(tmp_path: Path, last: str) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        answer = await cluster.get("a", "/events", headers={"last-event-id": last.encode()})
        assert answer.status_code == 400


@in_loop
async def test_too_many_readers_are_refused_and_room_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "READERS", 2)
    async with web_cluster(tmp_path, "a") as cluster:
        async with reading(cluster, "a") as one, reading(cluster, "a") as two:
            await asyncio.gather(one.standing(), two.standing())
            answer = await cluster.get("a", "/events")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        async with asyncio.timeout(BOUND):
            while True:
                async with cluster.clients["a"].stream("GET", "/events") as response:
                    if response.status_code == 200:
                        break


@in_loop
async def test_who_does_not_read_is_cut_off_and_nobody_else_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one reader, which fills all buffers; once it is cut off there is room again."""
    monkeypatch.setattr(server, "PATIENCE", 1.0)
    monkeypatch.setattr(app, "READERS", 1)
    names = [f"{number:04}" + 190 * "x" for number in range(400)]
    async with web_cluster(tmp_path, "a", elections=names) as cluster:
        host = cluster.hosts["a"]
        await until(lambda: all(map(host.is_leader, names)))
        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", cluster.http["a"]))
            mute.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert mute.recv(1), "it has its place"
            statuses = set()
            async with asyncio.timeout(BOUND):
                while 200 not in statuses:
                    for name in names:
                        host.withdraw(name)
                        host.contend(name)
                    async with cluster.clients["a"].stream("GET", "/events") as response:
                        statuses.add(response.status_code)
            assert statuses == {503, 200}
