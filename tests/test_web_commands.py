"""Commands over HTTP: for whom they work, for whom not, and that each is written down."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from electorate.errors import UserError
from electorate.runtime.host import Host
from electorate.web import app, commands, server, serving
from tests.runtime_hosts import BOUND, E, in_loop, stranger, until
from tests.web_nodes import WebCluster, web_cluster

TOKEN = "correct horse battery staple"


@asynccontextmanager
async def commanded(tmp_path: Path, ids: str = "abc", **settings: Any) -> AsyncIterator[WebCluster]:
    """A cluster that takes commands, with a leader."""
    write_token(tmp_path, TOKEN)
    async with web_cluster(tmp_path, ids, http={"token_file": "token"}, **settings) as cluster:
        await cluster.agreed()
        yield cluster


def write_token(directory: Path, token: str) -> None:
    path = directory / "token"
    path.touch(0o600)
    path.write_text(token + "\n")


async def post(
    cluster: WebCluster,
    id: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    **wish: str | bool | float,
) -> httpx.Response:
    """Send a command, with the token unless the headers say otherwise."""
    authorization = {"authorization": f"Bearer {TOKEN}", **(headers or {})}
    return await cluster.clients[id].post(path, json=wish, headers=authorization)


def leader_and_other(cluster: WebCluster) -> tuple[Host, str]:
    leader = cluster.leader()
    assert leader
    return leader, min(cluster.hosts.keys() - {leader.id})


@in_loop
async def test_transfer(tmp_path: Path) -> None:
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        answer = await post(cluster, leader.id, "/transfer", election=E, to=heir)
        assert (answer.status_code, answer.json()["leader"]) == (200, heir)
        await until(lambda: cluster.hosts[heir].is_leader(E))


@in_loop
async def test_a_transfer_to_one_that_is_behind_is_refused_with_both_positions_but_by_force(
    tmp_path: Path,
) -> None:
    async with commanded(tmp_path, timing={"beat": 0.1, "lease": 1.0}) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.set_position(E, 10)
        answer = await post(cluster, leader.id, "/transfer", election=E, to=heir)
        assert answer.status_code == 409
        assert answer.json() == {
            "error": f"node {heir} is behind: its position is 0, that of node {leader.id} 10"
        }
        answer = await post(cluster, leader.id, "/transfer", election=E, to=heir, force=True)
        assert (answer.status_code, answer.json()["leader"]) == (200, heir)


@in_loop
async def test_resign(tmp_path: Path) -> None:
    async with commanded(tmp_path) as cluster:
        leader, _ = leader_and_other(cluster)
        term = leader.tenure(E)[0]
        answer = await post(cluster, leader.id, "/resign", election=E)
        assert answer.status_code == 200
        assert answer.json()["leader"] != leader.id
        assert answer.json()["term"] > term


@in_loop
async def test_a_resignation_after_which_the_same_one_leads_is_not_done(tmp_path: Path) -> None:
    async with commanded(tmp_path, "a") as cluster:
        term = cluster.hosts["a"].tenure(E)[0]
        answer = await post(cluster, "a", "/resign", election=E)
        assert answer.status_code == 202
        assert (answer.json()["leader"], answer.json()["term"]) == ("a", term + 1)


@in_loop
async def test_a_node_does_not_contend_for_a_while(tmp_path: Path) -> None:
    async with commanded(tmp_path) as cluster:
        leader, other = leader_and_other(cluster)
        answer = await post(cluster, leader.id, "/freeze", election=E, seconds=60)
        assert (answer.status_code, answer.json()["error"]) == (
            409,
            f"node {leader.id} leads 'main': let it resign for so many seconds",
        )
        answer = await post(cluster, other, "/freeze", election=E, seconds=60)
        assert (answer.status_code, answer.json()["leader"]) == (200, leader.id)
        await until(lambda: other not in leader.node.leading[E].contenders)
        answer = await post(cluster, leader.id, "/resign", election=E, seconds=60)
        assert answer.status_code == 200
        [third] = set(cluster.hosts) - {leader.id, other}
        assert answer.json()["leader"] == third
        assert all(0 < cluster.hosts[id].wishes.frozen_for(E) < 61 for id in (leader.id, other))
        answer = await post(cluster, other, "/freeze", election=E, seconds=0)
        assert answer.status_code == 200 and not cluster.hosts[other].wishes.frozen_for(E)
        for nonsense in (-1, 1e12, "long"):
            answer = await post(cluster, other, "/freeze", election=E, seconds=nonsense)
            assert answer.status_code == 400


@in_loop
async def test_while_work_rests_on_it_the_transfer_is_under_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(commands, "ANSWER", 0.2)
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.occupy(E)
        answer = await post(cluster, leader.id, "/transfer", election=E, to=heir)
        assert (answer.status_code, answer.json()["leader"]) == (202, leader.id)
        [asked] = (record.getMessage() for record in caplog.records if record.name.endswith(".audit"))
        assert asked.endswith(f"asked for transfer of 'main' to '{heir}': under way")
        leader.vacate(E)
        await until(lambda: cluster.hosts[heir].is_leader(E))


@in_loop
async def test_a_node_that_does_not_lead_passes_it_on(tmp_path: Path) -> None:
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        [third] = cluster.hosts.keys() - {leader.id, heir}
        await until(lambda: heir in leader.node.leading[E].contenders)
        answer = await post(cluster, third, "/transfer", election=E, to=heir)
        assert (answer.status_code, answer.json()["leader"]) == (200, heir)
        await until(lambda: len(cluster.hosts[heir].node.leading[E].contenders) == 2)
        answer = await post(cluster, third, "/resign", election=E, seconds=60)
        assert answer.status_code == 200 and answer.json()["leader"] in (leader.id, third)
        assert cluster.hosts[heir].wishes.frozen_for(E) > 0


@in_loop
async def test_what_the_leader_refuses_is_told_by_the_node_that_was_asked(tmp_path: Path) -> None:
    async with commanded(tmp_path, timing={"beat": 0.1, "lease": 0.5}) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.set_position(E, 10)
        answer = await post(cluster, heir, "/transfer", election=E, to=heir)
        assert answer.status_code == 409
        assert answer.json() == {
            "error": f"node {heir} is behind: its position is 0, that of node {leader.id} 10"
        }
        leader.occupy(E)
        answer = await post(cluster, heir, "/transfer", election=E, to=heir, force=True)
        assert (answer.status_code, answer.json()["leader"]) == (202, leader.id)
        leader.vacate(E)


@in_loop
async def test_where_nobody_leads_nobody_can_be_asked(tmp_path: Path) -> None:
    write_token(tmp_path, TOKEN)
    async with web_cluster(tmp_path, absent="bc", http={"token_file": "token"}) as cluster:
        for path, wish in (("/transfer", {"to": "a"}), ("/resign", {})):
            answer = await post(cluster, "a", path, None, **wish, election=E)
            assert answer.status_code == 409
            assert answer.json() == {"error": "node a does not lead 'main': nobody does"}


WISH = b'{"election": "main"}'
JSON = {"content-type": "application/json"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "error"),
    [
        (JSON, WISH, 401, "the token is missing or wrong"),
        ({**JSON, "authorization": "Bearer wrong"}, WISH, 401, "the token is missing or wrong"),
        ({**JSON, "authorization": f"Basic {TOKEN}"}, WISH, 401, "the token is missing or wrong"),
        ({**JSON, "authorization": "Bearer \xff"}, WISH, 401, "the token is missing or wrong"),
        ({**JSON, "authorization": "Bearer"}, WISH, 401, "the token is missing or wrong"),
        ({**BEARER, "content-type": "text/plain"}, WISH, 415, "send it as Content-Type: application/json"),
        (
            {**BEARER, "content-type": "application/x-www-form-urlencoded"},
            b"election=main",
            415,
            "send it as Content-Type: application/json",
        ),
        (BEARER, WISH, 415, "send it as Content-Type: application/json"),
        ({**JSON, **BEARER, "origin": "https://evil.example"}, WISH, 403, "a page of another site may not"),
        ({**JSON, **BEARER, "origin": "null"}, WISH, 403, "a page of another site may not"),
        ({**JSON, **BEARER}, b"{", 400, "not what Resign needs"),
        ({**JSON, **BEARER}, b'{"election": 7}', 400, "not what Resign needs"),
        ({**JSON, **BEARER}, b'{"election": ""}', 400, "not what Resign needs"),
        ({**JSON, **BEARER}, b'{"election": "main", "to": "b"}', 400, "not what Resign needs"),
        ({**JSON, **BEARER}, b'{"election": "\xff"}', 400, "not what Resign needs"),
        ({**JSON, **BEARER}, b'{"election": "nope"}', 404, "there is no election 'nope' here"),
        ({**JSON, **BEARER}, b" " * 20_000, 413, "a command has at most 16384 bytes"),
    ],
)
@in_loop
async def test_what_is_refused_changes_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    body: bytes,
    status: int,
    error: str,
) -> None:
    caplog.set_level(logging.INFO, "electorate.a.audit")
    async with commanded(tmp_path, "a") as cluster:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        term = cluster.hosts["a"].tenure(E)[0]
        answer = await cluster.clients["a"].post("/resign", content=body, headers=raw)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(error)
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert cluster.hosts["a"].tenure(E)[0] == term, "it leads as it did"
    [line] = [record for record in caplog.records if record.name == "electorate.a.audit"]
    assert f"refused, {status}: " in line.getMessage()
    assert error in line.getMessage()
    assert TOKEN not in line.getMessage()


@in_loop
async def test_who_may_not_command_is_written_down_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "electorate.a.audit")
    async with commanded(tmp_path, "a") as cluster:
        for _ in range(5):
            wrong = {"authorization": "Bearer wrong"}
            assert (await post(cluster, "a", "/resign", wrong, election=E)).status_code == 401
            other = {"origin": "http://elsewhere"}
            assert (await post(cluster, "a", "/resign", other, election=E)).status_code == 403
        metrics = (await cluster.get("a", "/metrics")).text
    lines = [record.getMessage() for record in caplog.records if record.name == "electorate.a.audit"]
    assert [line.partition(": ")[2][:12] for line in lines] == ["refused, 401", "refused, 403"]
    assert 'electorate_refusals_total{reason="token"} 5.0' in metrics
    assert 'electorate_refusals_total{reason="command"} 5.0' in metrics


@in_loop
async def test_who_tries_tokens_all_day_fills_no_log_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "electorate.a.audit")
    async with commanded(tmp_path, "a") as cluster:

        async def guess() -> None:
            wrong = {"authorization": "Bearer wrong"}
            assert (await post(cluster, "a", "/resign", wrong, election=E)).status_code == 401

        for _ in range(100):
            await guess()
        assert len(caplog.messages) == 1
        assert 'reason="token"} 100.0' in (await cluster.get("a", "/metrics")).text
        assert TOKEN not in caplog.text and "Bearer" not in caplog.text


@in_loop
async def test_a_page_of_the_node_itself_may_command(tmp_path: Path) -> None:
    async with commanded(tmp_path, "a") as cluster:
        for host in (f"127.0.0.1:{cluster.http['a']}", f"localhost:{cluster.http['a']}"):
            for scheme in ("http", "https"):
                own = {"origin": f"{scheme}://{host}", "host": host}
                assert (await post(cluster, "a", "/resign", own, election=E)).status_code == 202
                await cluster.agreed()
            for origin in (f"http://{host}0", "http://localhost", "https://[::1]:1"):
                other = {"origin": origin, "host": host}
                assert (await post(cluster, "a", "/resign", other, election=E)).status_code == 403


@in_loop
async def test_an_heir_that_cannot_be_is_explained(tmp_path: Path) -> None:
    async with commanded(tmp_path, "a") as cluster:
        answer = await post(cluster, "a", "/transfer", election=E, to="z")
        assert answer.status_code == 409
        assert answer.json() == {"error": "node 'z' is not in the cluster file; it has a"}


@in_loop
async def test_without_a_token_file_there_are_no_commands(tmp_path: Path) -> None:
    async with web_cluster(tmp_path, "a") as cluster:
        await cluster.agreed()
        answer = await post(cluster, "a", "/resign", election=E)
        assert answer.status_code == 404
        assert "http.token_file" in answer.json()["error"]


@in_loop
async def test_a_changed_token_counts_at_once(tmp_path: Path) -> None:
    async with commanded(tmp_path, "a") as cluster:
        write_token(tmp_path, "another")
        assert (await post(cluster, "a", "/resign", election=E)).status_code == 401
        newer = {"authorization": "Bearer another"}
        assert (await post(cluster, "a", "/resign", newer, election=E)).status_code == 202


@in_loop
async def test_a_token_file_that_becomes_unfit_is_refused_and_told_to_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with commanded(tmp_path, "a") as cluster:
        (tmp_path / "token").chmod(0o644)
        answer = await post(cluster, "a", "/resign", election=E)
        assert answer.status_code == 503
        assert str(tmp_path) not in answer.text
        assert f"token file {tmp_path}/token is open to everybody" in caplog.text


@in_loop
async def test_an_unfit_token_file_is_found_at_the_start(tmp_path: Path) -> None:
    write_token(tmp_path, "")
    async with web_cluster(tmp_path, "a", absent="a", http={"token_file": "token"}) as cluster:
        host = await cluster.start("a")
        with pytest.raises(UserError, match="holds no token"):
            async with serving(host):
                pass


@in_loop
async def test_who_wished_what_and_what_came_of_it_is_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        forged = {"x-forwarded-for": "203.0.113.7"}
        await post(cluster, leader.id, "/transfer", forged, election=E, to=heir)
        await post(cluster, leader.id, "/transfer", election="x\nINFO forged line", to=heir)
    done, refused = (record for record in caplog.records if record.name.endswith(".audit"))
    assert done.getMessage().startswith("127.0.0.1:")
    assert done.getMessage().endswith(f"asked for transfer of 'main' to '{heir}': done")
    assert done.wish == f"transfer of 'main' to '{heir}'"  # type: ignore[attr-defined]
    assert done.outcome == "done"  # type: ignore[attr-defined]
    assert "\n" not in refused.getMessage()


@in_loop
async def test_a_node_that_stops_answers_what_it_was_asked(tmp_path: Path) -> None:
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.occupy(E)
        asked = asyncio.create_task(post(cluster, leader.id, "/transfer", election=E, to=heir))
        await until(lambda: (view := leader.view(E)) and view.yielding)
        await cluster.served.pop(leader.id).aclose()
        assert (await asked).status_code == 202
        leader.vacate(E)


@in_loop
async def test_a_node_that_hangs_says_so_and_does_not_obey_later(tmp_path: Path) -> None:
    async with commanded(tmp_path, "a", timing={"beat": 0.05, "lease": 0.2}) as cluster:
        host = cluster.hosts["a"]
        term = host.tenure(E)[0]
        answered = threading.Event()

        def ask() -> httpx.Response:
            try:
                url = f"http://127.0.0.1:{cluster.http['a']}/resign"
                return httpx.post(url, json={"election": E}, headers=BEARER, timeout=BOUND)
            finally:
                answered.set()

        asking = host.loop.run_in_executor(None, ask)
        assert answered.wait(BOUND), "until then, nothing else happens in this loop"
        answer = await asking
        assert answer.status_code == 503
        assert answer.json() == {"error": "the loop of this node does not turn: nothing was done"}
        for _ in range(10):
            await asyncio.sleep(0)
        assert host.tenure(E)[0] == term


@in_loop
async def test_no_more_than_so_many_commands_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "COMMANDS", 1)
    async with commanded(tmp_path, timing={"beat": 0.1, "lease": 20.0}) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.occupy(E)
        first = asyncio.create_task(post(cluster, leader.id, "/transfer", election=E, to=heir))
        await until(lambda: (view := leader.view(E)) and view.yielding)
        second = await post(cluster, leader.id, "/resign", election=E)
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert second.json() == {"error": "1 others are commanding already"}
        leader.vacate(E)
        assert (await first).status_code == 200


def written(path: str, body: str) -> bytes:
    """A command, as it is sent."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@in_loop
async def test_a_command_may_not_take_long_to_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    async with commanded(tmp_path, "a") as cluster, stranger(cluster.http["a"]) as caller:
        caller.say(written("/resign", '{"election": "main"}')[:-1])
        await caller.closed()


@in_loop
async def test_a_command_may_take_long_to_carry_out_but_what_follows_may_not_take_long_to_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    monkeypatch.setattr(commands, "ANSWER", 0.3)
    async with commanded(tmp_path) as cluster:
        leader, heir = leader_and_other(cluster)
        leader.occupy(E)
        async with stranger(cluster.http[leader.id]) as caller, asyncio.timeout(BOUND):
            caller.say(written("/transfer", f'{{"election": "main", "to": "{heir}"}}') + b"GET /lea")
            assert (await caller.reader.readline()) == b"HTTP/1.1 202 Accepted\r\n"
            await caller.closed()
        leader.vacate(E)
