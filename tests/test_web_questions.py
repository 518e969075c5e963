"""What a node answers over HTTP: who leads, how it is, what it knows."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from electorate import Node, __version__
from electorate.errors import UserError
from electorate.web import health, serving, token
from electorate.web.app import Api, routed
from electorate.web.commands import Commands
from electorate.web.events import Events
from tests.runtime_hosts import BOUND, E, blocked, in_loop, until
from tests.web_nodes import WebCluster, web_cluster


@in_loop
async def test_the_leader_alone_says_so_and_all_name_it(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        named = {
            "election": E,
            "leader": leader.id,
            "address": leader.config.nodes[leader.id].address,
            "term": leader.tenure(E)[0],
            "metadata": {"url": f"https://{leader.id}.example"},
        }
        for id in cluster.hosts:
            for path in ("/leader", "/leader?election=main"):
                answer = await cluster.get(id, path)
                assert answer.status_code == (200 if id == leader.id else 503)
                assert answer.json() == named
                assert answer.headers["cache-control"] == "no-store"


@in_loop
async def test_the_answer_follows_the_leadership(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        first = await cluster.agreed()
        await cluster.stop(first.id)
        second = await cluster.agreed()
        assert await cluster.status_of("/leader") == {
            id: 200 if id == second.id else 503 for id in cluster.hosts
        }


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@in_loop
async def test_a_load_balancer_may_ask_by_other_methods(tmp_path: Path, method: str) -> None:
    async with web_cluster(tmp_path) as cluster:
        leader = await cluster.agreed()
        for id, client in cluster.clients.items():
            answer = await client.request(method, "/leader")
            assert answer.status_code == (200 if id == leader.id else 503)
            assert (answer.content == b"") == (method == "HEAD")


@in_loop
async def test_without_a_lease_nobody_says_that_it_leads(tmp_path: Path) -> None:
    """The followers hang: the leader's lease runs out, long before it could hear of another leader."""
    async with web_cluster(tmp_path, timing={"beat": 0.05, "lease": 0.5}) as cluster:
        leader = await cluster.agreed()
        for id in cluster.hosts.keys() - {leader.id}:
            for incoming in cluster.hosts[id].incoming.values():
                assert incoming.transport
                assert incoming.transport
                incoming.transport.pause_reading()
        await until(lambda: not leader.is_leader(E))
        assert (await cluster.get(leader.id, "/leader")).status_code == 503


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/leader?election=nope", 404, "there is no election 'nope' here; there is main"),
        ("/events?election=nope", 404, "there is no election 'nope' here; there is main"),
        ("/events?election=mian", 404, "there is no election 'mian' here; did you mean 'main'?"),
        ("/nothing", 404, "Not Found"),
        ("/leader/", 404, "Not Found"),
        ("/transfer", 405, "Method Not Allowed"),
        ("/elections?limit=1001", 400, "limit is a number from 0 to 1000"),
        ("/elections?limit=-1", 400, "limit is a number from 0 to 1000"),
        ("/elections?limit=²", 400, "limit is a number from 0 to 1000"),
        ("/metrics?series=many", 400, "series is a number from 0 to 50000"),
    ],
)
@in_loop
async def test_what_cannot_be_answered_is_explained(
    tmp_path: Path, path: str, status: int, error: str
) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        answer = await cluster.get("a", path)
        assert (answer.status_code, answer.json()) == (status, {"error": error})


@in_loop
async def test_a_node_alone_of_three_is_well_but_not_ready(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, absent="bc") as cluster:
        assert (await cluster.get("a", "/health")).json() == {"ok": True, "reason": None}
        answer = await cluster.get("a", "/ready")
        assert answer.status_code == 503
        assert answer.json() == {"ok": False, "reason": "it knows no leader, and cannot reach a quorum"}
        await cluster.serve(await cluster.start("b"))
        await cluster.agreed()
        assert await cluster.status_of("/ready") == {"a": 200, "b": 200}


@in_loop
async def test_a_store_that_cannot_write_is_no_health(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        a = cluster.hosts["a"]
        await a.on_disk(a.store.database.execute, "PRAGMA query_only=ON")
        answer = await cluster.get("a", "/health")
        assert answer.status_code == 503
        assert "cannot be written" in answer.json()["reason"]
        await a.on_disk(a.store.database.execute, "PRAGMA query_only=OFF")


@in_loop
async def test_a_store_that_fails_is_told_everywhere_and_since_when(tmp_path: Path) -> None:
    gauge = "electorate_store_failing_since_timestamp_seconds"
    async with web_cluster(tmp_path, "a") as cluster:
        a, began = await cluster.agreed(), time.time()
        assert f"{gauge} 0.0" in (await cluster.get("a", "/metrics")).text
        with blocked(tmp_path / "a"):
            a.contend("another")
            await until(lambda: a.trouble)
            for path in ("/health", "/ready"):
                answer = await cluster.get("a", path)
                assert answer.status_code == 503
                told = answer.json()["reason"]
                assert re.search(
                    r"^since \d\d:\d\d:\d\d, data directory .*/a cannot be written \(.*\): mend", told
                )
            assert (await cluster.get("a", "/status")).json()["no_store"] == told
            [line] = [
                line
                for line in (await cluster.get("a", "/metrics")).text.splitlines()
                if line.startswith(f"{gauge} ")
            ]
            assert began <= float(line.split()[1]) <= time.time()
        await until(lambda: not a.trouble)
        assert await cluster.status_of("/ready") == await cluster.status_of("/health") == {"a": 200}
        assert (await cluster.get("a", "/status")).json()["no_store"] is None
        assert f"{gauge} 0.0" in (await cluster.get("a", "/metrics")).text


@in_loop
async def test_a_store_that_hangs_is_no_health_and_is_not_asked_again_meanwhile(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", timing={"beat": 0.05, "lease": 0.3}) as cluster:
        host = await cluster.agreed()
        other = sqlite3.connect(host.store.directory / "electorate.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(*(cluster.get("a", "/health") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert "has taken no write for" in answers[0].json()["reason"]
        assert host.disk.jobs.qsize() < 2, "all twenty waited for one commit"
        other.execute("COMMIT")
        other.close()
        await until(lambda: host.disk.jobs.empty())
        async with asyncio.timeout(30):
            while (await cluster.get("a", "/health")).status_code != 200:
                pass


@in_loop
async def test_health_writes_at_most_once_a_second(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        host = cluster.hosts["a"]
        await cluster.agreed()
        before = host.store.database.total_changes
        began = host.loop.time()
        for _ in range(50):
            assert (await cluster.get("a", "/health")).status_code == 200
        writes = (host.store.database.total_changes - before) / 2
        assert 1 <= writes <= 1 + (host.loop.time() - began)


@in_loop
async def test_health_is_proved_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH", 0.0)
    async with web_cluster(tmp_path, "a") as cluster:
        host = await cluster.agreed()
        for _ in range(3):
            before = host.store.database.total_changes
            assert (await cluster.get("a", "/health")).status_code == 200
            assert host.store.database.total_changes > before
        await host.on_disk(host.store.database.execute, "PRAGMA query_only=ON")
        assert (await cluster.get("a", "/health")).status_code == 503
        await host.on_disk(host.store.database.execute, "PRAGMA query_only=OFF")


@pytest.mark.parametrize("path", ["/health", "/ready"])
@in_loop
async def test_a_node_that_stops_says_so(tmp_path: Path, path: str) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        host = await cluster.agreed()
        host.stopping = True
        try:
            answer = await cluster.get("a", path)
        finally:
            host.stopping = False
        assert (answer.status_code, answer.json()) == (503, {"ok": False, "reason": "it is stopping"})


@pytest.mark.parametrize(("path", "reason"), [("/health", "the disk is gone"), ("/ready", "it is stopping")])
@in_loop
async def test_a_node_that_has_failed_says_so(tmp_path: Path, path: str, reason: str) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        host = await cluster.agreed()
        host.fail("the disk is gone")
        answer = await cluster.get("a", path)
        assert (answer.status_code, answer.json()) == (503, {"ok": False, "reason": reason})


async def while_it_hangs(cluster: WebCluster, asked: Callable[[str], httpx.Response]) -> httpx.Response:
    """The answer that node a gives while its loop does not turn: until then, it does nothing else."""
    answered = threading.Event()

    def ask() -> httpx.Response:
        try:
            return asked(f"http://127.0.0.1:{cluster.http['a']}")
        finally:
            answered.set()

    asking = asyncio.get_running_loop().run_in_executor(None, ask)
    assert answered.wait(BOUND)
    return await asking


@in_loop
async def test_a_node_that_hangs_answers_as_long_as_its_lease_lasts(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "ab", timing={"beat": 0.1, "lease": 0.5}) as cluster:
        leader = await cluster.agreed()
        await cluster.get("a", "/leader")

        def ask_until_it_leads_no_longer(url: str) -> httpx.Response:
            deadline = time.monotonic() + BOUND
            url = url.replace(str(cluster.http["a"]), str(cluster.http[leader.id]))
            with httpx.Client() as client:
                while (answer := client.get(f"{url}/leader")).status_code == 200:
                    assert answer.json()["leader"] == leader.id
                    assert time.monotonic() < deadline
                return answer

        answer = await while_it_hangs(cluster, ask_until_it_leads_no_longer)
        assert answer.status_code == 503, "a lease ends though nothing in the node sees to it"


@in_loop
async def test_a_node_that_hangs_is_not_well(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a", timing={"beat": 0.05, "lease": 0.3}) as cluster:
        await cluster.agreed()
        answer = await while_it_hangs(cluster, lambda url: httpx.get(f"{url}/health", timeout=BOUND))
        assert answer.status_code == 503
        assert answer.json()["reason"].startswith("its loop has not turned for ")
        async with asyncio.timeout(BOUND):
            while (await cluster.get("a", "/health")).status_code != 200:
                pass


@in_loop
async def test_status_and_elections(tmp_path: Path) -> None:
    names = [f"e{number:03}" for number in range(250)]
    async with web_cluster(tmp_path, "ab", elections=names) as cluster:
        await until(lambda: all(host.leader(name) for host in cluster.hosts.values() for name in names))
        status = (await cluster.get("a", "/status")).json()
        assert status["version"] == __version__
        assert (status["cluster"], status["algorithm"], status["node"]) == ("demo", "raft", "a")
        assert (status["kind"], status["peers"]) == ("voter", {"b": "connected"})
        assert (len(status["elections"]), status["total"]) == (100, 250)

        found: list[str] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            query = {"after": page["next"], "limit": "90"}
            page = (await cluster.get("a", "/elections", params=query)).json()
            found += [standing["election"] for standing in page["elections"]]
        assert found == names
        nothing = (await cluster.get("a", "/elections?limit=0")).json()
        assert nothing == {"elections": [], "total": 250, "next": None}


@in_loop
async def test_the_description_is_valid_and_has_every_route(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        host = cluster.hosts["a"]
        document = (await cluster.get("a", "/openapi.json")).json()
        validate(document)
        api = Api(host, Events(host, host.loop), Commands(host))
        routes = {
            (route.path, method)  # type: ignore[attr-defined]
            for route in routed(api).routes
            for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
        }
        api.events.leave()
        assert routes == {
            (path, method.upper()) for path, methods in document["paths"].items() for method in methods
        }


@in_loop
async def test_answers_are_what_the_description_says(tmp_path: Path) -> None:
    async with web_cluster(tmp_path) as cluster:
        await cluster.agreed()
        document = (await cluster.get("a", "/openapi.json")).json()
        for path, methods in document["paths"].items():
            if "get" not in methods or path == "/events":
                continue
            for id in cluster.hosts:
                answer = await cluster.get(id, path)
                kind = answer.headers["content-type"].partition(";")[0]
                schema = methods["get"]["responses"][str(answer.status_code)]["content"][kind].get("schema")
                if schema:
                    jsonschema.validate(answer.json(), {**schema, "components": document["components"]})


@in_loop
async def test_an_address_in_use_is_one_sentence(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, absent="abc") as cluster:
        port = cluster.http["a"]
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            host = await cluster.start("a")
            with pytest.raises(
                UserError, match=f"node a cannot serve HTTP on 127.0.0.1:{port}: .*nodes.a.http"
            ):
                async with serving(host):
                    pass


@in_loop
async def test_without_an_address_nothing_is_served(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, absent="abc") as cluster:
        nodes = {"a": {"address": f"127.0.0.1:{cluster.ports['a']}"}}
        host = await cluster.start("a", cluster.config(nodes=nodes))
        async with serving(host):
            assert host.sockets == set()


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (None, 0, "cannot be read: No such file or directory; make it, or leave token_file out"),
        (b"", 0o600, "holds no token"),
        (b" \n", 0o600, "holds no token"),
        (b"x" * 5000, 0o600, "holds no token"),
        (b"secret\nsecret\n", 0o600, "holds several lines: leave the token in it, alone, in one line"),
        (b"secret\r\nsecret", 0o600, "holds several lines"),
        (b"secret\0secret", 0o600, "holds what is not text"),
        (b"secret", 0o604, "open to everybody: chmod 600"),
        (b"secret", 0o602, "open to everybody: chmod 600"),
    ],
)
def test_an_unfit_token_file_is_one_sentence(
    tmp_path: Path, content: bytes | None, mode: int, error: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(UserError, match=error) as raised:
        token.read(path)
    assert "secret" not in str(raised.value)


def test_a_token_is_what_the_file_says_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"secret\n")
    path.chmod(0o400)
    assert token.read(path) == b"secret"


@in_loop
async def test_what_it_listens_on_is_let_go_of_by_a_forked_child(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        host = cluster.hosts["a"]
        [listener] = host.sockets
        assert listener.getsockname() == ("127.0.0.1", cluster.http["a"])
        assert listener.fileno() in host.descriptors()


@in_loop
async def test_http_is_served_on_all_that_its_name_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> list[Any]:
        numbers = ["127.0.0.2", "::1"] if host == "web.example" else [host]
        return [found for number in numbers for found in truly(number, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with Node("a", nodes={"a": "127.0.0.1:0"}, http_address="web.example:0", data=tmp_path) as node:
        _, port = node.config.http_address("a") or ("", 0)
        for number in ("127.0.0.2", "::1"):
            reader, writer = await asyncio.open_connection(number, port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    for number in ("127.0.0.2", "::1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((number, port))


@in_loop
async def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "electorate.web.server", raising=False)
    async with web_cluster(tmp_path, absent="abc") as cluster:
        host = await cluster.start("a")
        with pytest.raises(UserError, match=r"uvicorn.*pip install .*'uvicorn>="):
            async with serving(host):
                pass
