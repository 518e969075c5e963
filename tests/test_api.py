"""The public API: what a service author does with it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from electorate import LeadershipLost, Loss, Node, UserError, connect
from electorate.engines.embedded import EmbeddedElection
from tests.api_nodes import LEASE, Log, cluster, nodes, program, told_overrun
from tests.runtime_hosts import in_loop, until


@in_loop
async def test_leading_is_waited_for_proved_and_known_to_all(tmp_path: Path) -> None:
    async with cluster(tmp_path, metadata={"url": "http://here"}) as of:
        assert not of["b"].is_leader
        async with of["b"].leadership() as lead:
            assert of["b"].is_leader
            assert 0 < lead.remaining() <= LEASE
            lead.check()
            await until(lambda: all(e.leader and e.leader.id == "b" for e in of.values()))
            seen = of["a"].leader
            assert seen and seen.term == lead.term and seen.role == "follower"
            assert seen.metadata == {"url": "http://here"}
            assert seen.address == of["b"].node.config.nodes["b"].address
            assert not of["a"].is_leader
        assert not of["b"].is_leader
        assert lead.remaining() == 0
        with pytest.raises(LeadershipLost):
            lead.check()


@in_loop
async def test_leaving_hands_over_to_one_who_waits(tmp_path: Path) -> None:
    log, terms = Log(), list[int]()

    async def serve(election: EmbeddedElection) -> None:
        async with election.leadership() as lead:
            with log.work(election.node.id):
                terms.append(lead.term)
                await asyncio.sleep(0.05)

    async with cluster(tmp_path) as of:
        await asyncio.gather(*(serve(election) for election in of.values()))
    assert sorted(span[2] for span in log.spans) == ["a", "b", "c"]
    assert terms == sorted(set(terms)), "the fencing token grows"
    assert log.overlaps() == []


async def dawdle(log: Log, election: EmbeddedElection, reasons: list[Loss]) -> None:
    """Lead until the leadership is lost, and take a while to end."""
    with pytest.raises(LeadershipLost) as lost:
        async with election.leadership():
            with log.work(election.node.id):
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.2)
    reasons.append(lost.value.reason)


@in_loop
async def test_work_ends_before_the_heir_of_a_transfer_begins(tmp_path: Path) -> None:
    log, reasons = Log(), list[Loss]()
    async with cluster(tmp_path) as of:
        first = asyncio.create_task(dawdle(log, of["a"], reasons))
        await until(lambda: of["a"].is_leader and log.spans)
        second = asyncio.create_task(dawdle(log, of["b"], reasons))
        await until(lambda: of["b"].contends)
        view = await of["a"].transfer("b")
        assert view.id == "b"
        await until(lambda: len(log.spans) == 2)
        await of["b"].resign()
        await asyncio.gather(first, second)
    assert reasons == [Loss.RESIGNED, Loss.RESIGNED]
    assert [span[2] for span in log.spans] == ["a", "b"]
    assert log.overlaps() == []


@in_loop
async def test_work_ends_before_a_better_node_takes_over(tmp_path: Path) -> None:
    log, reasons = Log(), list[Loss]()
    async with cluster(tmp_path, algorithm="bully") as of:
        first = asyncio.create_task(dawdle(log, of["a"], reasons))
        await until(lambda: log.spans)
        async with of["c"].leadership():
            with log.work("c"):
                await first
    assert reasons == [Loss.DEPOSED]
    assert [span[2] for span in log.spans] == ["a", "c"]
    assert log.overlaps() == []


@in_loop
async def test_work_is_cancelled_before_the_lease_can_end(tmp_path: Path) -> None:
    with nodes(tmp_path) as make:
        async with make("a") as node:
            election = node.election()
            others = AsyncExitStack()
            for id in "bc":
                await others.enter_async_context(make(id))
            with pytest.raises(LeadershipLost) as lost:
                async with election.leadership(grace=0.4) as lead:
                    await others.aclose()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        assert election.is_leader
                        assert 0 < lead.remaining() <= 0.4
            assert lost.value.reason is Loss.EXPIRED
            assert lost.value.term == lead.term
            assert "not renewed in time" in str(lost.value)


@in_loop
async def test_a_loop_leads_again_and_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        terms = list[int]()
        while len(terms) < 3:
            try:
                async with of["a"].leadership() as lead:
                    terms.append(lead.term)
                    of["a"].node.host.resign("main")
                    await asyncio.Event().wait()
            except LeadershipLost:
                pass
        assert terms == [1, 2, 3]


@in_loop
async def test_a_leadership_is_of_one_term(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        async with of["a"].leadership() as first:
            pass
        async with of["a"].leadership() as second:
            assert second.term > first.term
            assert second.remaining() > 0
            assert first.remaining() == 0
            with pytest.raises(LeadershipLost):
                first.check()


@in_loop
async def test_one_body_at_a_time(tmp_path: Path) -> None:
    log = Log()

    async def serve(name: str, election: EmbeddedElection) -> None:
        async with election.leadership():
            with log.work(name):
                await asyncio.sleep(0.02)

    async with cluster(tmp_path, "a") as of:
        await asyncio.gather(serve("x", of["a"]), serve("y", of["a"]))
    assert len(log.spans) == 2
    assert log.overlaps() == []


@in_loop
async def test_a_cancellation_by_somebody_else_stays_one(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:

        async def serve() -> None:
            async with of["a"].leadership():
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await until(lambda: of["a"].is_leader)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not of["a"].is_leader
        waiting = asyncio.create_task(of["a"].elected(0.0))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@in_loop
async def test_an_error_of_the_work_comes_through(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        with pytest.raises(ZeroDivisionError):
            async with of["a"].leadership():
                raise ZeroDivisionError
        assert not of["a"].is_leader


@in_loop
async def test_to_hand_over_from_within_ends_the_work(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        with pytest.raises(LeadershipLost) as lost:
            async with of["a"].leadership():
                of["b"].contend()
                await until(lambda: of["a"].node.host.node.leading["main"].contenders)
                await of["a"].transfer("b")
                raise AssertionError("the work was not cancelled")
        assert lost.value.reason is Loss.RESIGNED
        await until(lambda: of["b"].is_leader)


@in_loop
async def test_a_transfer_to_one_that_is_behind_raises_with_both_positions_but_by_force(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as of:
        of["a"].position, of["b"].position = 10, 3
        of["a"].contend()
        await until(lambda: of["a"].is_leader)
        of["b"].contend()
        await until(lambda: of["a"].node.host.node.leading["main"].contenders)
        with pytest.raises(ValueError, match="node b is behind: its position is 3, that of node a 10"):
            await of["a"].transfer("b")
        assert of["a"].is_leader
        assert (await of["a"].transfer("b", force=True)).id == "b"


@in_loop
async def test_a_node_that_stops_ends_the_work_first(tmp_path: Path) -> None:
    log, reasons = Log(), list[Loss]()
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            other.election().contend()
            async with make("a") as node:
                await until(lambda: other.election().is_leader)
                work = asyncio.create_task(dawdle(log, node.election(), reasons))
                await until(lambda: node.election().contends)
                await other.election().transfer("a")
                await until(lambda: log.spans)
            await work
            await until(lambda: other.election().is_leader)
    assert reasons == [Loss.STOPPED]
    assert log.spans[0][1] < float("inf")


@in_loop
async def test_a_stalled_store_ends_the_work(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        with pytest.raises(LeadershipLost) as lost:
            async with of["a"].leadership():
                database = sqlite3.connect(tmp_path / "a" / "electorate.db", isolation_level=None)
                try:
                    database.execute("BEGIN EXCLUSIVE")
                    of["a"].node.election("another").contend()
                    await asyncio.Event().wait()
                finally:
                    database.close()
        assert lost.value.reason is Loss.STORE_FAILED


@in_loop
async def test_watch_yields_the_newest_and_every_change_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        views = of["a"].watch()
        assert (await anext(views)).id is None
        async with of["a"].leadership():
            newest = await anext(views)
            assert (newest.id, newest.term, newest.role) == ("a", 1, "leader")
        async with of["a"].leadership():
            pass
        async with of["a"].leadership() as lead:
            newest = await anext(views)
            assert (newest.id, newest.term) == ("a", lead.term), "what was superseded is skipped"
            following = asyncio.ensure_future(anext(views))
            await asyncio.sleep(0)
            assert not following.done()
        assert (await following).id is None
        rest = asyncio.ensure_future(anext(views, None))
    while await rest is not None:
        rest = asyncio.ensure_future(anext(views, None))


@in_loop
async def test_the_freshest_leads_and_is_asked_how_fresh_it_is(tmp_path: Path) -> None:
    async with cluster(tmp_path, algorithm="zab") as of:
        asked = {"a": 3, "b": 9, "c": 4}

        def asker(id: str) -> Any:
            async def position() -> int:
                return asked[id]

            return position

        for id, election in of.items():
            election.position = asker(id)
        await until(lambda: {id: election.position for id, election in of.items()} == asked)
        for election in of.values():
            election.contend()
        await until(lambda: of["b"].is_leader)
        asked["a"] = 12
        await until(lambda: of["a"].position == 12)
        await of["b"].resign()
        await until(lambda: of["a"].is_leader)
        of["a"].position = 13
        assert of["a"].position == 13
        with pytest.raises(ValueError, match="whole number"):
            of["a"].position = -1


@in_loop
async def test_a_position_that_cannot_be_asked_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, "a") as of:

        async def position() -> int:
            raise OSError("no database")

        of["a"].position = position
        async with of["a"].leadership():
            assert of["a"].position == 0
    assert "could not be asked" in caplog.text


@in_loop
async def test_leader_only_calls_on_the_leader_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        called = []
        for id, election in of.items():

            def job(id: str = id) -> str:
                called.append(id)
                return id

            async def coroutine(id: str = id) -> str:
                called.append(id)
                await asyncio.sleep(0)
                return id

            election.job = election.leader_only(job)  # type: ignore[attr-defined]
            election.coroutine = election.leader_only(coroutine)  # type: ignore[attr-defined]
        await until(lambda: any(election.is_leader for election in of.values()))
        [leader] = [id for id, election in of.items() if election.is_leader]
        results = [election.job() for election in of.values()]  # type: ignore[attr-defined]
        results += [await election.coroutine() for election in of.values()]  # type: ignore[attr-defined]
        assert called == [leader, leader]
        assert sorted(filter(None, results)) == called
        assert of[leader].is_leader, "a call ends no leadership"


@in_loop
async def test_a_leader_only_coroutine_is_cancelled_before_another_leads(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        begun, ended = asyncio.Event(), list[bool]()

        async def job() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.1)
                ended.append(of["b"].is_leader)

        guarded = of["a"].leader_only(job)
        await until(lambda: of["a"].is_leader)
        of["b"].contend()
        working = asyncio.create_task(guarded())
        await begun.wait()
        await of["a"].transfer("b")
        with pytest.raises(LeadershipLost):
            await working
        assert ended == [False]


@in_loop
async def test_run_does_the_work_until_it_is_done(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        attempts = []

        async def work(lead: Any) -> str:
            attempts.append(lead.term)
            if len(attempts) == 1:
                of["a"].node.host.resign("main")
                await lead.lost
                await asyncio.Event().wait()
            return "done"

        assert await of["a"].run(work) == "done"
        assert len(attempts) == 2
        assert not of["a"].is_leader


@in_loop
async def test_a_blocked_loop_is_noticed_with_the_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with told_overrun() as told:
        async with cluster(tmp_path, "ab") as of:
            with pytest.raises(LeadershipLost) as lost:
                async with of["a"].leadership():
                    block_the_loop(told)
                    await asyncio.sleep(0)
            assert lost.value.reason is Loss.EXPIRED
    assert "block_the_loop" in caplog.text


def block_the_loop(told: threading.Event) -> None:
    assert told.wait(30)


@in_loop
async def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        with pytest.raises(ValueError, match="does not lead"):
            await of["a"].resign()
        with pytest.raises(ValueError, match="does not lead"):
            await of["a"].transfer("b")
        async with of["a"].leadership():
            with pytest.raises(ValueError, match="not in the cluster file"):
                await of["a"].transfer("x")
        guarantees = of["a"].guarantees
        assert guarantees.exclusive and guarantees.fencing and guarantees.durable
        assert "majority" in guarantees.assumes
        assert of["a"].priority == 0
    with pytest.raises(UserError, match="'x' is not in the cluster file"):
        Node("x", nodes={"a": "127.0.0.1:7400"})


@in_loop
async def test_the_environment_says_what_the_program_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nodes(tmp_path, "a") as make:
        with pytest.raises(UserError, match="say which node this is"):
            Node(nodes=make.addresses)
        monkeypatch.setenv("ELECTORATE_NODES", f"a={make.addresses['a']}")
        monkeypatch.setenv("ELECTORATE_ELECTIONS", "jobs")
        monkeypatch.setenv("ELECTORATE_ID", "a")
        monkeypatch.setenv("ELECTORATE_DATA", str(tmp_path / "here"))
        async with Node(handle_sigterm=False) as node, node.election().leadership():
            assert (node.id, node.election().name) == ("a", "jobs")
            assert (tmp_path / "here" / "electorate.db").exists()


@in_loop
async def test_connect_opens_an_election_by_its_url(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make:
        place = ",".join(f"{id}={address}" for id, address in make.addresses.items())
        for scheme in ("bully", "ring", "raft", "zab"):
            urls = [
                f"{scheme}://{place}/jobs?id={id}&data={tmp_path}/{scheme}-{id}&lease=1&cluster=c&stop_timeout=3"
                for id in "ab"
            ]
            async with connect(urls[0]) as one, connect(urls[1]):
                assert one.name == "jobs"
                async with one.leadership() as lead:
                    assert one.is_leader and lead.term == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("raft", "is not a URL"),
        ("rafd://a=127.0.0.1:1/x?id=a", "did you mean 'raft'"),
        ("raft://a=127.0.0.1:1/x", "say which node this is"),
        ("raft://a=127.0.0.1:1/x?id=a&id=b", "twice"),
        ("raft://a=127.0.0.1:1/x?id=b", "'b' is not in the cluster file"),
        ("raft://a/x?id=a", "is not host:port"),
        ("raft://a=127.0.0.1:1/x?id=a&leese=3", "leese"),
        ("raft://a=127.0.0.1:1/x?id=a&lease=soon", "soon"),
        ("raft://a=127.0.0.1:1/x?id=a&stop_timeout=soon", "stop_timeout=soon is not a number"),
        ("raft://a=127.0.0.1:1/x?id=a&stop_timeout=-1", "stop_timeout is -1"),
    ],
)
def test_a_url_that_makes_no_sense_is_one_sentence(url: str, complaint: str) -> None:
    async def open_it() -> None:
        async with connect(url):
            pass

    with pytest.raises(UserError, match=complaint) as error:
        asyncio.run(open_it())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "etcd:/user:hunter2@10.0.0.1/jobs",
        "user:hunter2@10.0.0.1",
        "rafd://user:hunter2@10.0.0.1/jobs",
        "raft://user:hunter2@10.0.0.1/jobs?id=a&id=b",
        "raft://user:hun?ter2@10.0.0.1/jobs?id=a&id=b",
        "raft://user:hunter2@10.0.0.1/jobs",
        "raft://a=10.0.0.1:1/jobs?password=hunter2&password=hunter2",
        "raft:a=10.0.0.1:1/jobs?password=hunter2",
    ],
)
def test_no_complaint_about_a_url_tells_its_password(url: str) -> None:
    async def open_it() -> None:
        async with connect(url):
            pass

    with pytest.raises(UserError) as error:
        asyncio.run(open_it())
    assert "hunter2" not in str(error.value)
    assert "hun" not in str(error.value)


# --- other processes --------------------------------------------------------------------------------


@in_loop
async def test_work_that_cannot_be_cancelled_ends_with_its_process_before_another_leads(
    tmp_path: Path,
) -> None:
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", "time.sleep(60)") as process:
                await until(lambda: other.election().leader)
                async with other.election().leadership():
                    assert process.poll() is not None, "it has ended before"
                _, complaint = process.communicate()
                assert process.returncode == 70
                assert "goes on though its lease is about to end" in complaint
                assert 'File "<string>"' in complaint, "and where it is"


@in_loop
async def test_sigterm_hands_over_and_cleans_up(tmp_path: Path) -> None:
    body = """
            try:
                await asyncio.Event().wait()
            finally:
                print("cleaned up")"""
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", body) as process:
                assert process.stdout and await asyncio.to_thread(process.stdout.readline) == "leads\n"
                other.election().contend()
                process.send_signal(signal.SIGTERM)
                await until(lambda: other.election().is_leader)
                output, complaint = await asyncio.to_thread(process.communicate)
                assert (process.returncode, complaint) == (128 + signal.SIGTERM, "")
                assert output == "cleaned up\n"


@in_loop
async def test_a_forked_child_does_not_lead_and_does_not_pretend_that_its_parent_lives(
    tmp_path: Path,
) -> None:
    body = """
            child = os.fork()
            if child == 0:
                print("child", election.is_leader, lead.remaining(), flush=True)
                sys.stdin.read()
                os._exit(0)
            print("parent", election.is_leader, flush=True)
            await asyncio.sleep(0.3)
            print("parent", election.is_leader, flush=True)
            await asyncio.Event().wait()"""
    with nodes(tmp_path, lease=20.0, beat=0.1) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", body, lease="20.0") as process:
                assert process.stdin and process.stdout and process.stderr
                lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(4)]
                assert sorted(lines) == ["child False 0.0\n", "leads\n", "parent True\n", "parent True\n"]
                warning = await asyncio.to_thread(process.stderr.readline)
                assert "was forked off node a: it does not lead" in warning
                process.kill()
                async with asyncio.timeout(
                    15
                ):  # less than a lease: a refused connection has proved the death
                    async with other.election().leadership():
                        pass
                process.stdin.close()
