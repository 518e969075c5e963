"""Strangers at the HTTP address: too many, too slow, too large, or nonsense."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import statistics
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from electorate.errors import UserError
from electorate.web import app, server
from electorate.web.pace import Unhurried, at_leisure
from electorate.web.rooms import Room
from tests.readers import lateness, readers
from tests.runtime_hosts import BOUND, Stranger, in_loop, stranger, until
from tests.web_nodes import WebCluster, web_cluster


@asynccontextmanager
async def alone(tmp_path: Path) -> AsyncIterator[WebCluster]:
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        yield cluster


async def said(caller: Stranger) -> bytes:
    """All that it says until it closes."""
    async with asyncio.timeout(BOUND):
        try:
            return await caller.reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("request_", [b"", b"GET /leader HTTP/1.1\r\nHo"])
@in_loop
async def test_who_is_too_slow_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    async with alone(tmp_path) as cluster, stranger(cluster.http["a"]) as caller:
        caller.say(request_)
        await said(caller)
        assert (await cluster.get("a", "/leader")).status_code == 200


@in_loop
async def test_a_stream_may_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as slow, however long it takes: it was asked for, and is being answered."""
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    async with (
        alone(tmp_path) as cluster,
        stranger(cluster.http["a"]) as caller,
        stranger(cluster.http["a"]) as idle,
    ):
        caller.say(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.reader.readuntil(b"\r\n\r\n")
        await said(idle)
        cluster.hosts["a"].resign("main")
        async with asyncio.timeout(BOUND):
            await caller.reader.readuntil(b'"role":"follower"')


READY = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
DESCRIBE = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def crowd(cluster: WebCluster, size: int, request: bytes) -> AsyncIterator[list[Stranger]]:
    """So many connections that say this, one after the other, each of which is taken."""
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(size):
            caller = await stack.enter_async_context(stranger(cluster.http["a"]))
            caller.say(request)
            callers.append(caller)
        yield callers


async def head(caller: Stranger) -> bytes:
    """The head of its next answer."""
    async with asyncio.timeout(BOUND):
        return await caller.reader.readuntil(b"\r\n\r\n")


@in_loop
async def test_for_one_too_many_the_one_that_has_been_idle_for_longest_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 5)
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    async with alone(tmp_path) as cluster, crowd(cluster, 5, READY) as callers:
        for caller in callers:
            await head(caller)
        callers[0].say(READY)
        await head(callers[0])
        async with stranger(cluster.http["a"]) as one_more:
            one_more.say(READY)
            assert (await head(one_more)).startswith(b"HTTP/1.1 200 ")
            await callers[1].closed()
            for caller in (callers[0], *callers[2:], one_more):
                caller.say(READY)
                assert b" 200 " in await head(caller), "the others, and who has just asked, may go on"


@in_loop
async def test_for_one_too_many_nobody_is_cut_off_who_is_being_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago it has asked."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    async with alone(tmp_path) as cluster, stranger(cluster.http["a"]) as reader:
        reader.say(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await head(reader)
        async with crowd(cluster, 2, READY) as idle:
            for caller in idle:
                await head(caller)
            async with stranger(cluster.http["a"]) as one_more:
                one_more.say(READY)
                await head(one_more)
            cluster.hosts["a"].resign("main")
            async with asyncio.timeout(BOUND):
                await reader.reader.readuntil(b'"role":"follower"')


@in_loop
async def test_idle_connections_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    async with alone(tmp_path) as cluster, crowd(cluster, server.CONNECTIONS + 10, b""):
        assert (await cluster.get("a", "/leader")).status_code == 200


@in_loop
async def test_readers_keep_nobody_else_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are connections read events, ask, or command by halves; some of them are refused."""
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    monkeypatch.setattr(server, "CONNECTIONS", 12)
    for kind in ("READERS", "QUESTIONS", "CHECKS", "COMMANDS"):
        monkeypatch.setattr(app, kind, 2)
    events = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    half = b"POST /resign HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    async with alone(tmp_path) as cluster, crowd(cluster, 12, events) as readers:
        answers = [await head(reader) for reader in readers]
        assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == 2
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert len(refused) == 10
        assert all(b"connection: close" in answer.lower() for answer in refused)
        async with crowd(cluster, 12, half):
            for path in ("/leader", "/health", "/ready"):
                assert (await cluster.get("a", path)).status_code == 200


def test_whoever_is_being_answered_leaves_room_for_probes() -> None:
    assert sum({room: room.places for room in app.rooms().values()}.values()) <= server.CONNECTIONS * 2 / 3
    assert app.rooms().keys().isdisjoint({"/leader", "/ready"})


@in_loop
async def test_a_place_is_taken_until_the_answer_is_sent() -> None:
    room = Room(1, "are here", 7)
    sent = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await sent.wait()
        await Response("well")(scope, receive, send)

    async def receive() -> Message:
        raise AssertionError

    async def ask() -> list[Message]:
        said: list[Message] = []

        async def send(message: Message) -> None:
            said.append(message)

        await room.admit(answer, {"type": "http"}, receive, send)
        return said

    first = asyncio.create_task(ask())
    await until(lambda: room.taken)
    head, body = await ask()
    assert head["status"] == 503
    assert (b"retry-after", b"7") in head["headers"]
    assert body["body"] == b'{"error":"1 others are here already"}'
    sent.set()
    assert (await first)[0]["status"] == 200
    assert (await ask())[0]["status"] == 200


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[server.Connection]:
    """The connections for which this node has waited, because they do not read."""
    found: list[server.Connection] = []
    pause = server.Connection.pause_writing

    def pause_writing(connection: server.Connection) -> None:
        found.append(connection)
        pause(connection)

    monkeypatch.setattr(server.Connection, "pause_writing", pause_writing)
    return found


@in_loop
async def test_who_does_not_read_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unread: list[server.Connection]
) -> None:
    """They ask again and again, and read no answer, until all buffers are full."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    async with alone(tmp_path) as cluster, AsyncExitStack() as stack:
        for number in range(3):
            mute = stack.enter_context(socket.socket())
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", cluster.http["a"]))
            mute.sendall(1000 * DESCRIBE)
            await until(lambda number=number: len(set(unread)) > number)  # type: ignore[misc]
        assert (await cluster.get("a", "/leader")).status_code == 200


@in_loop
async def test_a_reader_that_reads_on_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unread: list[server.Connection]
) -> None:
    """It lets its events lie unread until this node must wait for it, then reads them all."""
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    names = [f"{number:04}" + 190 * "x" for number in range(400)]
    async with web_cluster(tmp_path, "a", elections=names) as cluster:
        host = cluster.hosts["a"]
        await until(lambda: all(map(host.is_leader, names)))
        async with stranger(cluster.http["a"]) as caller:
            caller.say(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not unread:
                for name in names:
                    host.withdraw(name)
                    host.contend(name)
                await asyncio.sleep(0.01)
            connection = unread[0]

            async def read() -> None:
                while True:
                    await caller.reader.read(1 << 16)

            reading = asyncio.create_task(read())
            await until(lambda: not connection.unread)
            began = host.loop.time()
            await until(lambda: host.loop.time() > began + 2 * server.PATIENCE)
            assert connection in connection.connections
            reading.cancel()


@in_loop
async def test_readers_do_not_make_beats_late(tmp_path: Path) -> None:
    """Sixty read pages of a thousand elections from the node that leads them; whatever else the machine does,
    most beats leave within a tenth of the lease, and no leadership ends."""
    names = [f"e{number:03}" for number in range(1000)]
    async with web_cluster(tmp_path, "ab", elections=names) as cluster:
        hosts = cluster.hosts.values()
        await until(lambda: sum(host.is_leader(name) for host in hosts for name in names) == len(names))
        leader = max(hosts, key=lambda host: len(host.node.leading))
        terms = [leader.tenure(name) for name in names]
        late = lateness(leader)
        with readers(cluster.http[leader.id], 60) as answers:
            await until(lambda: len(late) >= 30)
        assert answers.count >= 20
        assert statistics.median(late) <= leader.config.timing.lease / 10
        assert [leader.tenure(name)[0] for name in names] == [term for term, _ in terms]


def test_a_loop_rests_as_long_as_it_works() -> None:
    worked = 0.0

    async def work() -> None:
        nonlocal worked
        began = time.thread_time()
        while worked < 0.2:
            sum(range(10_000))
            worked = time.thread_time() - began
            await asyncio.sleep(0)

    began = time.monotonic()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Unhurried())) as runner:
        runner.run(work())
    assert time.monotonic() - began > 1.8 * worked


def test_what_is_done_at_leisure_rests_as_long_as_it_works() -> None:
    class Closing(threading.Event):
        rested = 0.0

        def wait(self, timeout: float | None = None) -> bool:
            self.rested += timeout or 0.0
            return super().wait(timeout)

    closing, worked = Closing(), time.thread_time()
    numbers = [number for number in at_leisure(range(2000), closing) if sum(range(5000))]
    worked = time.thread_time() - worked
    assert numbers == list(range(2000))
    assert closing.rested > 0.8 * worked


@in_loop
async def test_a_connection_that_breaks_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends by a reset: before its answer has been sent, meanwhile, or after."""
    monkeypatch.setattr(server, "PATIENCE", 3600.0)
    async with alone(tmp_path) as cluster:
        address = ("127.0.0.1", cluster.http["a"])
        for number in range(200):
            with socket.create_connection(address) as breaks:
                breaks.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if number % 2:
                    breaks.sendall(READY)
                    await asyncio.to_thread(breaks.recv, 4096)
                else:
                    breaks.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await asyncio.sleep(0.0001 * number)
        await until(lambda: not left_over())


def left_over() -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, server.Connection)]


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET /leader HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + 20_000 * b"y",
        b"GET /" + 20_000 * b"y",
        b"POST /resign HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /resign HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /leader HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "large head", "long path", "negative length", "two lengths", "no host"],
)
@in_loop
async def test_nonsense_is_answered_by_400(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    async with alone(tmp_path) as cluster, stranger(cluster.http["a"]) as caller:
        caller.say(request_)
        assert (await said(caller)).startswith(b"HTTP/1.1 400 ")
        assert (await cluster.get("a", "/leader")).status_code == 200
    assert "Traceback" not in caplog.text


@in_loop
async def test_the_host_header_is_not_believed(tmp_path: Path) -> None:
    async with alone(tmp_path) as cluster:
        for path in ("/leader", "/leader/", "/openapi.json"):
            answer = await cluster.get("a", path, headers={"host": "evil.example"})
            assert "evil.example" not in answer.text + str(answer.headers)


@in_loop
async def test_what_is_in_answers_is_not_to_be_kept_or_guessed_at(tmp_path: Path) -> None:
    async with alone(tmp_path) as cluster:
        for path in ("/leader", "/nothing", "/metrics", "/openapi.json"):
            headers = (await cluster.get("a", path)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["date"].endswith("GMT")
            assert "server" not in headers


@in_loop
async def test_http_that_cannot_begin_keeps_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it imports late, in its thread, for instance."""
    monkeypatch.setattr(server, "application", fail)
    with pytest.raises(UserError, match=r"node a cannot serve HTTP: .*Too many open files"):
        async with web_cluster(tmp_path, "a"):
            """It does not come so far."""


def fail(*_: object) -> NoReturn:
    raise OSError(24, "Too many open files")


def fail_once(selector: Unhurried, timeout: float | None = None) -> list[Any]:
    """Whatever the loop of HTTP waits for."""
    Unhurried.select = select  # type: ignore[method-assign]
    fail()


select = Unhurried.select


@in_loop
async def test_http_that_has_failed_refuses_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        assert (await cluster.get("a", "/leader")).status_code in (200, 503)
        tried: list[object] = []

        def fail_again(api: object) -> NoReturn:
            tried.append(api)
            fail()

        with monkeypatch.context() as broken:
            broken.setattr(server, "application", fail_again)
            broken.setattr(Unhurried, "select", fail_once)
            with suppress(httpx.HTTPError):
                await cluster.get("a", "/leader")
            await until(lambda: "HTTP has failed" in caplog.text)
            await until(lambda: refuses(cluster.http["a"]))
            await until(lambda: len(tried) > 1)
            assert (await cluster.agreed()).id == "a", "the node itself goes on"
        await until(lambda: "HTTP is served again" in caplog.text)
        assert (await cluster.get("a", "/leader")).status_code == 200
        assert caplog.text.count("HTTP has failed") == 1


def refuses(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
