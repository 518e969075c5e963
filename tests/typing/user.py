"""A service as its author writes it. `tests/test_typing.py` lets mypy read it; it never runs."""

from __future__ import annotations

from typing import assert_type

import electorate.sync
from electorate import Election, Fence, Leadership, LeadershipLost, LeaderView, Loss, Node, connect


async def main() -> None:
    async with Node("a", "cluster.toml", metadata={"url": "http://a"}) as node:
        election = node.election("scheduler")
        assert_type(election.is_leader, bool)
        assert_type(election.leader, LeaderView | None)
        async with election.leadership(timeout=5.0, grace=0.5, on_overrun="exit") as lead:
            assert_type(lead, Leadership)
            assert_type(lead.term, int)
            assert_type(lead.remaining(), float)
            assert_type(await lead.lost, Loss)
            assert_type(await lead.to_thread(divmod, 7, 2), tuple[int, int])
            assert_type(await lead.run("backup", "--full", stop_timeout=3.0), int)
        async for view in election.watch():
            assert_type(view.id, str | None)
        assert_type(await election.transfer("b"), LeaderView)
        assert_type(await election.transfer("b", force=True, timeout=3.0), LeaderView)
        await election.resign(seconds=60)
        election.freeze(60)
        election.position = 7
        election.position = lsn

        @election.leader_only
        def tidy(days: int) -> str:
            return "done"

        assert_type(tidy(3), str | None)

        @election.leader_only
        async def report(to: str) -> int:
            return 3

        assert_type(await report("me"), int | None)
        assert_type(await election.run(work, on_error="restart"), str)
    async with connect("raft://a=10.0.0.1:7400/scheduler?id=a") as opened:
        assert_type(opened, Election)


def all_sorts_of_settings() -> None:
    Node("a", nodes="a=10.0.0.1:7400,b=10.0.0.2:7400", quorum="weighted", timing={"lease": 2.0}, preempt=True)
    Node("a", {"cluster": "demo"}, nodes={"a": {"address": "10.0.0.1:7400", "weight": 2}}, beat=0.2)
    Node("a", tls={"ca": "ca.pem", "cert": "a.pem", "key": "a.key"}, http_address=":8400", elections=["x"])


async def lsn() -> int:
    return 7


async def work(lead: Leadership) -> str:
    Fence().check(lead.term, "invoices")
    return "done"


def in_a_thread() -> None:
    try:
        with electorate.sync.Node("a", nodes={"a": "10.0.0.1:7400"}, lease=2.0) as node:
            election = node.election()
            election.position = lambda: 7
            with election.leadership() as lead:
                assert_type(lead.term, int)
                assert_type(lead.run("backup"), int)
                while not lead.lost.is_set():
                    lead.check()
            assert_type(election.run(lambda lead: lead.term, on_error="restart"), int)
            election.resign(seconds=60)
            for view in election.watch():
                assert_type(view, LeaderView)
    except LeadershipLost as lost:
        assert_type(lost.reason, Loss)
