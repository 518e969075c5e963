"""What `/health` and `/ready` rest on, what the audit says, and how a stream is paced: on a host of the test's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from electorate.core.model import Member, Membership, Role, View
from electorate.web import app, events, health, metrics
from electorate.web.answers import Leader, Resign
from electorate.web.app import Api
from electorate.web.commands import Commands
from electorate.web.events import CHUNK, Events
from tests.runtime_hosts import until


class Host:
    id = "a"

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopping = False
        self.failed: asyncio.Future[str] = self.loop.create_future()
        self.waiting: str | None = None
        self.no_store: str | None = None
        self.config = SimpleNamespace(timing=SimpleNamespace(lease=0.2), http=None, elections=("main",))
        self.node = SimpleNamespace(
            incarnation=1,
            elections={},
            membership=Membership(tuple(Member(id) for id in "abc")),
            reachable={"a"},
        )
        self.store = SimpleNamespace(prove=None)
        self.disk = SimpleNamespace(submit=self.submit)
        self.proofs: list[Future[None]] = []
        self.observers: dict[Any, Any] = {}

    def knows(self, election: str) -> bool:
        return election in self.config.elections

    def submit(self, call: object) -> Future[None]:
        self.proofs.append(Future())
        return self.proofs[-1]

    def observe(self, observer: object, *kinds: str) -> None:
        self.observers[observer] = kinds

    def unobserve(self, observer: object) -> None:
        del self.observers[observer]


def staged(test: Callable[[Api, Host], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def bounded() -> None:
            host = Host()
            events = Events(cast(Any, host), host.loop)
            async with asyncio.timeout(30):
                await test(Api(cast(Any, host), events, Commands(cast(Any, host))), host)

        asyncio.run(bounded())

    return run


async def asked(api: Api) -> str | None:
    """What `/health` complains of; the store has answered by then, if it does."""
    return await api.health_of_node.illness()


async def proof(host: Host, number: int) -> Future[None]:
    """What the store is asked to prove, once it is."""
    await until(lambda: len(host.proofs) > number)
    return host.proofs[number]


def grow_old(api: Api) -> None:
    proof = api.health_of_node.proof
    assert proof
    proof.asked -= 2 * health.FRESH


@staged
async def test_the_store_must_prove_itself_again_and_again(api: Api, host: Host) -> None:
    asking = asyncio.create_task(asked(api))
    (await proof(host, 0)).set_result(None)
    assert await asking is None
    assert await asked(api) is None
    assert len(host.proofs) == 1, "what was proved a moment ago holds"
    grow_old(api)
    asking = asyncio.create_task(asked(api))
    (await proof(host, 1)).set_exception(OSError(28, "No space left on device"))
    complaint = await asking
    assert complaint and "cannot be written" in complaint
    grow_old(api)
    asking = asyncio.create_task(asked(api))
    (await proof(host, 2)).set_result(None)
    assert await asking is None, "it has recovered"


@staged
async def test_a_store_that_takes_longer_than_a_lease_is_no_health(api: Api, host: Host) -> None:
    complaint = await asked(api)
    assert complaint and "has taken no write" in complaint
    assert len(host.proofs) == 1
    assert await asked(api) is not None and len(host.proofs) == 1, "nor is it asked more of meanwhile"
    host.proofs[0].set_result(None)
    await asyncio.sleep(0)
    assert await asked(api) is None


@staged
async def test_who_is_stopping_or_has_failed_is_neither_well_nor_ready(api: Api, host: Host) -> None:
    host.node.reachable = {"a", "b"}
    assert api.absence() is None
    host.stopping = True
    assert await asked(api) == api.absence() == "it is stopping"
    host.stopping = False
    host.failed.set_result("its disk is gone")
    assert await asked(api) == "its disk is gone"
    assert api.absence() is not None
    assert host.proofs == []


@staged
async def test_who_waits_for_others_is_not_ready_and_says_why(api: Api, host: Host) -> None:
    host.node.reachable = {"a", "b"}
    host.waiting = "it waits for b"
    assert api.absence() == "it waits for b"


@staged
async def test_ready_is_who_knows_a_leader_or_can_elect_one(api: Api, host: Host) -> None:
    assert api.absence() == "it knows no leader, and cannot reach a quorum"
    host.node.elections = {"main": SimpleNamespace(view=View("main", Role.FOLLOWER, "b", 1))}
    assert api.absence() is None
    host.node.elections = {"main": SimpleNamespace(view=View("main", Role.FOLLOWER, None, 1))}
    assert api.absence() is not None
    host.node.reachable = {"a", "c"}
    assert api.absence() is None


@pytest.mark.parametrize(("done", "outcome"), [(True, "done"), (False, "under way")])
def test_the_audit_says_what_has_come_of_a_command(
    done: bool, outcome: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "electorate.a.audit")

    @staged
    async def test(api: Api, host: Host) -> None:
        async def wish(request: object, form: object) -> Resign:
            return Resign("main")

        async def obey(wish: Resign) -> tuple[bool, Leader]:
            return done, Leader("main", "b", "", 2, {})

        async def there() -> bool:
            return False

        monkeypatch.setattr(api, "check_sender", lambda request: None)
        monkeypatch.setattr(app, "read", wish)
        url = SimpleNamespace(path="/transfer")
        request = SimpleNamespace(client=None, url=url, is_disconnected=there)
        answer = await api.command(cast(Any, request), Resign, obey)
        assert answer.status_code == (200 if done else 202)

    test()
    [record] = caplog.records
    assert record.outcome == outcome  # type: ignore[attr-defined]


@staged
async def test_scrapes_are_taken_one_after_the_other(api: Api, host: Host) -> None:
    at_once, most = 0, 0

    def exposition(*arguments: object) -> metrics.Exposition:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        at_once -= 1
        return metrics.Exposition(b"", "text/plain")

    before, metrics.exposition = metrics.exposition, cast(Any, exposition)
    host.config.settings = SimpleNamespace(max_elections=10)
    request = SimpleNamespace(query_params={}, headers={})
    try:
        await asyncio.gather(*(api.metrics(cast(Any, request)) for _ in range(5)))
    finally:
        metrics.exposition = before
    assert most == 1


@staged
async def test_who_reads_is_told_at_most_once_in_a_while_and_then_all(api: Api, host: Host) -> None:
    said: list[bytes] = []
    at: list[float] = []

    async def read() -> None:
        async for text in api.events.stream(None, None):
            said.append(text)
            at.append(host.loop.time())

    def told() -> int:
        return b"".join(said).count(b"event: view")

    view = {"election": "main", "leader": "a"}
    reading = asyncio.create_task(read())
    for _ in range(10):
        api.events.observe("view", view)
        await asyncio.sleep(events.PACE / 20)
    await until(lambda: told() >= 10)
    assert len(said) >= 2
    assert told() == 10, "none is missing, none is told twice"
    assert all(later - earlier >= 0.99 * events.PACE for earlier, later in pairwise(at))
    api.events.close()
    await reading


@staged
async def test_many_changes_are_written_in_pieces(api: Api, host: Host) -> None:
    for number in range(3 * CHUNK):
        api.events.observe("view", {"election": f"e{number}"})
    api.events.close()
    pieces = [piece.count(b"event: view") async for piece in api.events.stream(None, None)]
    assert pieces == [CHUNK, CHUNK, CHUNK]
