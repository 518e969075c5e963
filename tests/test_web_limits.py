"""Strangers at the HTTP address: too many, too slow, too large, or nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from electorate.web import server
from tests.runtime_hosts import BOUND, Stranger, in_loop, stranger
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
    monkeypatch.setattr(server, "REQUEST", 0.2)
    async with alone(tmp_path) as cluster, stranger(cluster.http["a"]) as caller:
        caller.say(request_)
        await said(caller)
        assert (await cluster.get("a", "/leader")).status_code == 200


@in_loop
async def test_a_stream_may_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as slow, however long it takes: it was asked for, and is being answered."""
    monkeypatch.setattr(server, "REQUEST", 0.1)
    async with (
        alone(tmp_path) as cluster,
        stranger(cluster.http["a"]) as caller,
        stranger(cluster.http["a"]) as idle,
    ):
        caller.say(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        await caller.reader.readuntil(b"\r\n\r\n")
        await said(idle)
        cluster.hosts["a"].resign("main")
        async with asyncio.timeout(BOUND):
            await caller.reader.readuntil(b'"role":"follower"')


@in_loop
async def test_one_too_many_is_cut_off_and_room_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 5)
    async with alone(tmp_path) as cluster:
        async with AsyncExitStack() as stack:
            for _ in range(5):
                caller = await stack.enter_async_context(stranger(cluster.http["a"]))
                caller.say(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
                await caller.reader.readuntil(b"\r\n\r\n")
            async with stranger(cluster.http["a"]) as one_more:
                one_more.say(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
                assert await said(one_more) == b""
        async with asyncio.timeout(BOUND):
            answer = b""
            while not answer.startswith(b"HTTP/1.1 200"):
                async with stranger(cluster.http["a"]) as caller:
                    caller.say(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    answer = await said(caller)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET /leader HTTP/1.1\r\nHost: a\r\n" + b"X: " + 20_000 * b"y",
        b"GET /" + 20_000 * b"y",
        b"POST /resign HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /resign HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
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
