"""Work belongs to exactly one leadership: who gets it next, how long one waits, and what is no use of it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from electorate import LeadershipLost, LeaderView, Loss
from electorate.engines.embedded import EmbeddedElection
from electorate.leadership import Leadership, Pauses, Turns
from tests.api_nodes import LEASE, Elections, Log, cluster, nodes
from tests.runtime_hosts import in_loop, until
from tests.test_control import ask


async def work(election: EmbeddedElection, log: Log, to_end: float = 0.0) -> None:
    """Lead until told to end, and take so long to do so."""
    try:
        async with election.leadership():
            with log.work(election.node.id):
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(to_end)
    except LeadershipLost:
        pass


async def contended(of: Elections, leader: str) -> None:
    """Wait until the leader knows that all others contend."""
    host = of[leader].node.host
    await until(lambda: leader in {view.id for view in [of[leader].view]})
    await until(lambda: set(host.node.leading["main"].contenders) == set(of) - {leader})


# --- who leads next ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["library", "control"])
@pytest.mark.parametrize("algorithm", ["bully", "raft"])
@in_loop
async def test_a_transfer_reaches_whom_the_user_has_named(tmp_path: Path, algorithm: str, asked: str) -> None:
    log = Log()
    async with cluster(tmp_path, algorithm=algorithm, preempt=False) as of:
        first = asyncio.create_task(work(of["a"], log, 0.1))
        await until(lambda: log.spans)
        others = [asyncio.create_task(work(of[id], log)) for id in "bc"]
        await contended(of, "a")
        if asked == "library":
            assert (await of["a"].transfer("b")).id == "b"
        else:
            reply = await ask(tmp_path / "a", {"ask": "transfer", "to": "b"})
            assert (reply["leader"], reply["done"]) == ("b", True)
        await first
        await until(lambda: len(log.spans) == 2)
        for other in others:
            other.cancel()
        await asyncio.wait(others)
    assert [span[2] for span in log.spans][:2] == ["a", "b"], "though c ranks higher"
    assert log.overlaps() == []


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
@in_loop
async def test_a_loop_that_leads_again_and_again_does_not_undo_a_transfer(
    tmp_path: Path, algorithm: str
) -> None:
    """Its work ends, and it contends again, though it ranks higher."""
    async with cluster(tmp_path, algorithm=algorithm) as of:
        log, begun = Log(), asyncio.Event()

        async def again_and_again() -> None:
            while not of["c"].closed:
                await work(of["c"], log)
                begun.set()

        looping = asyncio.create_task(again_and_again())
        await until(lambda: log.spans)
        heir = asyncio.create_task(work(of["a"], log))
        await contended({id: of[id] for id in "ac"}, "c")
        assert (await of["c"].transfer("a")).id == "a"
        await begun.wait()
        await until(lambda: of["c"].contends and of["c"].view.id == "a")
        await until(lambda: of["a"].is_leader)
        term = of["a"].view.term
        of["c"].withdraw()
        of["c"].contend()
        await until(lambda: "c" in of["a"].node.host.node.leading["main"].contenders)
        await asyncio.sleep(3 * LEASE)
        assert of["a"].is_leader and of["a"].view.term == term
        for task in (looping, heir):
            task.cancel()
        await asyncio.wait([looping, heir])
    assert [span[2] for span in log.spans][:2] == ["c", "a"]


@in_loop
async def test_who_has_asked_for_a_transfer_hears_that_another_wish_has_come(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        of["a"].position = 7
        async with of["a"].leadership():
            of["b"].contend()
            of["c"].contend()
            await contended(of, "a")
            first = asyncio.create_task(of["a"].transfer("b"))
            await asyncio.sleep(0)
            second = asyncio.create_task(of["a"].transfer("c"))
            with pytest.raises(ValueError, match="not handed over to b: another wish came after it"):
                await first
            with pytest.raises(ValueError, match="not handed over to c: node c is behind"):
                await second
            assert of["a"].is_leader


@in_loop
async def test_a_transfer_waits_for_its_heir_though_the_work_has_ended(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        of["a"].position = 5
        async with of["a"].leadership():
            of["b"].position = 3
            of["c"].position = 5
            of["b"].contend()
            of["c"].contend()
            await contended(of, "a")
            transfer = asyncio.create_task(of["a"].transfer("b"))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.3, setattr, of["b"], "position", 5)
        assert (await transfer).id == "b"
        assert not of["c"].leader or of["c"].leader.id != "c"


@in_loop
async def test_a_transfer_to_one_that_does_not_catch_up_says_how_far_behind_it_is(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        of["a"].position = 7
        of["a"].contend()
        await until(lambda: of["a"].is_leader)
        of["b"].position = 3
        of["b"].contend()
        await until(lambda: "b" in of["a"].node.host.node.leading["main"].contenders)
        with pytest.raises(
            ValueError, match=r"not handed over to b: node b is behind: its position is 3, .* 7"
        ):
            await of["a"].transfer("b")
        assert of["a"].is_leader and not of["a"].wished
        assert (await of["a"].transfer("b", force=True)).id == "b"


@in_loop
async def test_a_wish_that_waits_for_work_says_so_and_comes_true_when_that_ends(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        may_end = asyncio.Event()

        async def reluctant() -> None:
            async with of["a"].leadership():
                try:
                    await asyncio.Event().wait()
                finally:
                    await may_end.wait()

        working = asyncio.create_task(reluctant())
        await until(lambda: of["a"].is_leader)
        of["b"].contend()
        await contended({id: of[id] for id in "ab"}, "a")
        with pytest.raises(
            TimeoutError, match=r"not handed over to b within 0.2 s: the work of node a has not"
        ):
            await of["a"].transfer("b", timeout=0.2)
        with pytest.raises(
            TimeoutError, match=r"not given up within 0.2 s: the work of node a has not ended"
        ):
            await of["a"].resign(timeout=0.2)
        assert of["a"].is_leader
        may_end.set()
        await until(lambda: of["b"].is_leader)
        with pytest.raises(LeadershipLost):
            await working


@in_loop
async def test_who_resigns_for_so_long_does_not_contend_before(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        of["a"].contend()
        await until(lambda: of["a"].is_leader)
        with pytest.raises(ValueError, match="leads 'main': let it resign"):
            of["a"].freeze(60)
        await of["a"].resign(seconds=60)
        with pytest.raises(TimeoutError, match="does not contend for another 5"):
            async with of["a"].leadership(timeout=2 * LEASE):
                pass
        of["a"].freeze(0.2)
        async with of["a"].leadership(timeout=20):
            pass
        await until(lambda: of["a"].is_leader)
        for nonsense in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="not a number of seconds"):
                await of["a"].resign(seconds=nonsense)
        assert of["a"].is_leader, "nonsense changes nothing"


@in_loop
async def test_who_is_frozen_lets_others_lead(tmp_path: Path) -> None:
    async with cluster(tmp_path, algorithm="bully") as of:
        of["c"].freeze(60)
        for election in of.values():
            election.contend()
        await until(lambda: of["b"].is_leader)
        of["c"].freeze(0)
        await until(lambda: of["c"].is_leader)


@in_loop
async def test_a_view_tells_since_when_and_how_often(tmp_path: Path) -> None:
    begun = time.time()
    async with cluster(tmp_path, "ab") as of:
        assert (of["b"].view.since, of["b"].view.changes) == (None, 0)
        async with of["a"].leadership():
            await until(lambda: of["b"].leader)
            first = of["b"].view
            assert first.since and begun <= first.since <= time.time() and first.changes == 0
            of["b"].contend()
            await contended(of, "a")
        await until(lambda: of["b"].is_leader)
        second = of["b"].view
        assert second.since and second.since >= first.since and second.changes == 1
        [standing] = (await ask(tmp_path / "b", {"ask": "status"}))["elections"]
        assert (standing["since"], standing["changes"]) == (round(second.since, 3), 1)
        await of["b"].resign()
        assert (of["b"].view.since, of["b"].view.changes) == (None, 1)


# --- waiting ----------------------------------------------------------------------------------------


@in_loop
async def test_waiting_is_bounded_and_says_why_nobody_leads(tmp_path: Path) -> None:
    with nodes(tmp_path) as make:
        async with make("a") as node:
            with pytest.raises(
                TimeoutError, match=r"not won within 0.3 s: node a reaches no quorum: not b, c"
            ):
                async with node.election().leadership(timeout=0.3):
                    pass
            assert not node.election().contends
            async with make("b") as other:
                working = asyncio.create_task(work(other.election(), Log()))
                await until(lambda: node.election().leader)
                with pytest.raises(TimeoutError, match="node b leads, in term 1"):
                    await enter(node.election().leadership(timeout=0.3))
                with pytest.raises(TimeoutError, match="other work of this process leads it"):
                    await enter(other.election().leadership(timeout=0.3))
                assert other.election().is_leader
                working.cancel()
                await asyncio.wait([working])


async def enter(leadership: Leadership) -> None:
    async with leadership:
        raise AssertionError("never reached")


@in_loop
async def test_who_can_never_lead_does_not_wait(tmp_path: Path) -> None:
    with nodes(tmp_path) as make:
        members = {id: {"address": address} for id, address in make.addresses.items()}
        members["c"]["kind"] = "observer"
        async with make("c", nodes=members) as node:
            with pytest.raises(
                ValueError, match=r"'main' cannot be won: node c is .* may not lead \(observer\)"
            ):
                await node.election().run(None)  # type: ignore[arg-type]


@in_loop
async def test_there_may_be_no_room_for_another_election(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        async with make("a") as node:
            node.host.node.settings = replace(node.host.node.settings, max_elections=1)
            node.election("one").contend()
            with pytest.raises(ValueError, match="no room for an election 'two': node a holds 1 already"):
                await enter(node.election("two").leadership())


@in_loop
async def test_who_gives_up_waiting_can_lead_later(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make:
        async with make("a") as node:
            election = node.election()
            for _ in range(2):
                waiting = asyncio.create_task(enter(election.leadership()))
                behind = asyncio.create_task(enter(election.leadership()))
                await until(lambda: election.contends and election.turns.waiting)
                waiting.cancel()
                behind.cancel()
                await asyncio.wait([waiting, behind])
                assert not election.contends
            async with make("b"), election.leadership():
                assert election.is_leader


@in_loop
async def test_turns_come_in_order_and_are_not_lost(tmp_path: Path) -> None:
    turns = Turns()
    await turns.take()
    taken = list[int]()

    async def take(number: int) -> None:
        await turns.take()
        taken.append(number)
        turns.give()

    tasks = [asyncio.create_task(take(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    turns.give()
    tasks[0].cancel()  # it has just been given its turn
    await asyncio.wait(tasks)
    assert taken == [2, 3]
    await turns.take()
    late = asyncio.create_task(take(4))
    await asyncio.sleep(0)
    turns.close(LeadershipLost("main", 0, Loss.STOPPED))
    with pytest.raises(LeadershipLost, match="'main' is not won: its node stopped"):
        await late


@in_loop
async def test_one_who_contends_anyway_goes_on_contending(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        of["a"].contend()
        for term in (1, 2):
            async with of["a"].leadership() as lead:
                assert lead.term == term
            assert of["a"].contends and not of["a"].is_leader
        await until(lambda: of["a"].is_leader)


# --- what is no use of it ---------------------------------------------------------------------------


@in_loop
async def test_a_leadership_is_used_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        lead = of["a"].leadership()
        async with lead:
            with pytest.raises(RuntimeError, match="has been used"):
                async with lead:
                    pass
            assert of["a"].is_leader
        with pytest.raises(RuntimeError, match="has been used"):
            async with lead:
                pass


@in_loop
async def test_a_body_cannot_wait_for_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        async with of["a"].leadership():
            with pytest.raises(RuntimeError, match="to wait for itself"):
                await enter(of["a"].leadership())
            with pytest.raises(RuntimeError, match="to wait for itself"):
                await asyncio.create_task(enter(of["a"].leadership()))
            async with of["a"].node.election("another").leadership():
                pass
        async with of["a"].leadership():
            pass


@in_loop
async def test_what_is_entered_in_a_task_of_its_own_raises_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        with pytest.raises(RuntimeError, match=r"use `async with election.leadership\(timeout=...\)`"):
            await asyncio.create_task(of["a"].leadership().__aenter__())
        assert not of["a"].contends


@in_loop
async def test_a_body_that_its_task_has_left_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, "a") as of:
        stack = AsyncExitStack()
        await asyncio.create_task(stack.enter_async_context(of["a"].leadership()))
        await until(lambda: "cannot be cancelled" in caplog.text)
        await stack.aclose()
        assert not of["a"].is_leader


@in_loop
async def test_a_node_is_used_once(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        node = make("a")
        async with node:
            with pytest.raises(RuntimeError, match="node a runs already"):
                await node.start()
        with pytest.raises(RuntimeError, match="node a has been stopped: a node is used once"):
            async with node:
                pass
        with pytest.raises(LeadershipLost, match="'main' is not won: its node stopped"):
            await enter(node.election().leadership())


@in_loop
async def test_grace_leaves_time_to_work(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        for grace in (LEASE, LEASE + 1, -0.1, float("nan")):
            with pytest.raises(ValueError, match="must be a number from 0 to"):
                of["a"].leadership(grace=grace)
        with pytest.raises(ValueError, match="'log' or 'exit'"):
            of["a"].leadership(on_overrun="explode")  # type: ignore[arg-type]
        async with of["a"].leadership(grace=0.8 * LEASE):
            assert of["a"].is_leader


# --- how it ends ------------------------------------------------------------------------------------


@in_loop
async def test_a_loss_to_another_leader_is_told_from_one_of_the_lease(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        with pytest.raises(LeadershipLost) as lost:
            async with of["a"].leadership() as lead:
                of["a"].view = LeaderView("main", "b", term=lead.term + 1)
                of["a"].tenure = lambda: None  # type: ignore[method-assign]
                of["a"].changed()
                await asyncio.Event().wait()
        assert lost.value.reason is Loss.DEPOSED


@in_loop
async def test_who_is_cancelled_by_another_while_it_ends_is_cancelled(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        ending = asyncio.Event()

        async def serve() -> None:
            async with of["a"].leadership():
                try:
                    await asyncio.Event().wait()
                finally:
                    ending.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await until(lambda: of["a"].is_leader)
        of["a"].node.host.resign("main")
        await ending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("on_error", ["raise", "restart"])
@in_loop
async def test_work_that_fails_is_raised_or_begun_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    monkeypatch.setattr(Pauses, "FIRST", 0.05)
    async with cluster(tmp_path, "a") as of:
        terms = list[int]()

        async def work(lead: Leadership) -> str:
            terms.append(lead.term)
            if len(terms) < 3:
                raise OSError("no such queue")
            return "done"

        if on_error == "raise":
            with pytest.raises(OSError, match="no such queue"):
                await of["a"].run(work, on_error=on_error)
            assert terms == [1]
        else:
            assert await of["a"].run(work, on_error=on_error) == "done"
            assert terms == [1, 2, 3]
            assert caplog.text.count("OSError: no such queue") == 2
            assert "contending again in 0.05 s" in caplog.text and "contending again in 0.1 s" in caplog.text
        assert not of["a"].contends


def test_pauses_begin_anew_once_work_has_gone_well(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pauses = Pauses("main")

    def fail_after(seconds: float) -> float:
        with pauses.after("restart"):
            clock[0] += seconds
            raise ZeroDivisionError
        return pauses.next()

    assert [fail_after(1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert fail_after(61) == 1
    assert pauses.next() == 0
