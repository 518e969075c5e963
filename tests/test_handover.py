"""To transfer and to resign may be asked of any node, which passes it on to the one that leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate import LeadershipLost
from electorate.engines.embedded import EmbeddedElection
from electorate.runtime import handover
from electorate.runtime.clock import now
from electorate.runtime.handover import Handover, Wish
from electorate.runtime.host import Host
from electorate.runtime.link import Link
from electorate.runtime.wire import Answered, Ask, How
from tests.api_nodes import Elections, cluster
from tests.runtime_hosts import BOUND, Cluster, E, crash, in_loop, until
from tests.runtime_hosts import cluster as host_cluster
from tests.test_control import ask
from tests.test_sync import cluster as threaded
from tests.test_sync import until_true


async def led(of: Elections, leader: str = "a") -> None:
    """This one leads, all the others contend, and all know both."""
    of[leader].contend()
    await until(lambda: of[leader].is_leader)
    for election in of.values():
        election.contend()
    contenders = of[leader].node.host.node.leading["main"]
    await until(lambda: set(contenders.contenders) == set(of) - {leader})
    await until(lambda: all(election.view.id == leader for election in of.values()))


async def reluctant(election: EmbeddedElection, may_end: asyncio.Event) -> None:
    """Work that does not end at once."""
    try:
        async with election.leadership():
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
    except LeadershipLost:
        pass


# --- what users see ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asked, heir", [("b", "b"), ("b", "c"), ("c", "b")])
@in_loop
async def test_a_transfer_may_be_asked_of_any_node(tmp_path: Path, asked: str, heir: str) -> None:
    async with cluster(tmp_path) as of:
        await led(of)
        view = await of[asked].transfer(heir)
        assert (view.id, view.election) == (heir, "main")
        await until(lambda: of[heir].is_leader)


@pytest.mark.parametrize("algorithm", ["bully", "ring", "zab"])
@in_loop
async def test_and_with_any_algorithm(tmp_path: Path, algorithm: str) -> None:
    async with cluster(tmp_path, algorithm=algorithm, preempt=False) as of:
        await led(of)
        assert (await of["c"].transfer("b")).id == "b"


@in_loop
async def test_so_may_a_resignation_for_a_while(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        await led(of)
        await of["b"].resign(seconds=60)
        assert not of["a"].is_leader
        assert 0 < of["a"].node.host.wishes.frozen_for("main") < 61
        assert not of["b"].node.host.wishes.frozen_for("main")
        await until(lambda: of["b"].is_leader or of["c"].is_leader)


@in_loop
async def test_a_resignation_needs_nobody_to_follow(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        of["a"].contend()
        await until(lambda: of["a"].is_leader and of["b"].view.id == "a")
        await of["b"].resign(seconds=60)
        assert not of["a"].is_leader


def test_it_may_be_asked_by_threads(tmp_path: Path) -> None:
    with threaded(tmp_path) as of:
        of["a"].contend()
        until_true(lambda: of["a"].is_leader)
        for id in "bc":
            of[id].contend()
        until_true(lambda: len(of["a"].node._node.host.node.leading["main"].contenders) == 2)
        until_true(lambda: of["c"].leader)
        assert of["c"].transfer("b").id == "b"
        until_true(lambda: of["b"].is_leader)
        of["c"].resign(seconds=60)
        assert not of["b"].is_leader


@in_loop
async def test_it_may_be_asked_on_the_machine_of_any_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        await led(of)
        answer = await ask(tmp_path / "c", {"ask": "transfer", "to": "b"})
        assert (answer["leader"], answer["done"]) == ("b", True)
        await until(lambda: len(of["b"].node.host.node.leading["main"].contenders) == 2)
        answer = await ask(tmp_path / "c", {"ask": "resign", "seconds": 60})
        assert answer["leader"] in ("a", "c") and answer["done"]
        assert of["b"].node.host.wishes.frozen_for("main") > 0


@in_loop
async def test_what_cannot_be_is_told_as_by_the_leader(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        of["a"].position = 7
        await led(of)
        of["c"].withdraw()
        await until(lambda: set(of["a"].node.host.node.leading["main"].contenders) == {"b"})
        for heir, why in (
            ("b", "not handed over to b: node b is behind: its position is 0, that of node a 7"),
            ("c", "node c may not lead, or does not contend"),
            ("x", "node 'x' is not in the cluster file"),
        ):
            for asked in "ab":
                with pytest.raises(ValueError, match=why):
                    await of[asked].transfer(heir)
        with pytest.raises(ValueError, match="-1 is not a number of seconds"):
            await of["b"].resign(seconds=-1)
        assert of["a"].is_leader
        assert (await of["b"].transfer("b", force=True)).id == "b"


@in_loop
async def test_work_that_has_to_end_is_waited_for_and_told_of_in_time(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        may_end = asyncio.Event()
        working = asyncio.create_task(reluctant(of["a"], may_end))
        await led(of)
        with pytest.raises(TimeoutError, match=r"not handed over to b within 0.5 s: the work of node a has"):
            await of["c"].transfer("b", timeout=0.5)
        with pytest.raises(TimeoutError, match=r"was not given up within 0.5 s: the work of node a has not"):
            await of["c"].resign(timeout=0.5)
        answer = asyncio.create_task(ask(tmp_path / "c", {"ask": "transfer", "to": "b"}))
        leading = of["a"].node.host.node.leading["main"]
        await until(lambda: leading.intended)
        may_end.set()
        assert (await answer)["leader"] == "b"
        await working


@asynccontextmanager
async def at_work(directory: Path) -> AsyncIterator[tuple[Elections, asyncio.Event]]:
    """Node a leads, and works until it is let go."""
    async with cluster(directory) as of:
        may_end = asyncio.Event()
        working = asyncio.create_task(reluctant(of["a"], may_end))
        await led(of)
        yield of, may_end
        may_end.set()
        await working


@in_loop
async def test_who_has_asked_to_resign_hears_that_it_was_taken_back(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (of, _):
        leader = of["a"].node.host
        asked = [asyncio.create_task(of[id].resign(seconds=60, timeout=BOUND)) for id in "ab"]
        commanded = asyncio.create_task(ask(tmp_path / "c", {"ask": "resign"}))
        await until(lambda: len(leader.handover.obliging) == 2 and of["a"].yielding)
        assert leader.wishes.frozen_for(E)
        assert (await of["b"].transfer("a")).id == "a"
        assert not of["a"].yielding and not leader.wishes.frozen_for(E)
        why = "another wish came after it, and node a heeds the last one"
        for waiting in asked:
            with pytest.raises(ValueError, match=f"'main' was not given up: {why}"):
                await waiting
        assert await commanded == {"error": why, "refused": True}


@in_loop
async def test_a_leader_that_does_not_contend_cannot_keep_what_it_has(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (of, _):
        of["a"].withdraw()
        for asked in "ab":
            with pytest.raises(ValueError, match="node a may not lead, or does not contend"):
                await of[asked].transfer("a")


@in_loop
async def test_a_leader_may_contend_again_before_its_work_has_ended(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (of, _):
        with pytest.raises(TimeoutError, match="the work of node a has not ended"):
            await of["a"].resign(seconds=60, timeout=0)
        of["a"].freeze(0)
        assert not of["a"].node.host.wishes.frozen_for(E) and of["a"].yielding


@in_loop
async def test_a_time_that_is_none_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        await led(of)
        for asked in "ab":
            for timeout in (float("nan"), -1.0):
                why = f"timeout is {timeout:g}, and must be a number of seconds"
                with pytest.raises(ValueError, match=why):
                    await of[asked].transfer("c", timeout=timeout)
                with pytest.raises(ValueError, match=why):
                    await of[asked].resign(timeout=timeout)
            with pytest.raises(ValueError, match="-1 is not a number of seconds"):
                await of[asked].resign(seconds=-1)
        assert of["a"].is_leader and not (of["a"].yielding or of["a"].wished)


@in_loop
async def test_who_stops_while_its_user_waits_says_so(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (of, _):
        waiting = asyncio.create_task(of["c"].transfer("b", timeout=BOUND))
        await until(lambda: of["a"].yielding)
        await of["c"].node.stop()
        with pytest.raises(LeadershipLost, match="its node stopped"):
            await waiting


@pytest.mark.parametrize("wish", [Wish(E, "b"), Wish(E)], ids=["transfer", "resign"])
@pytest.mark.parametrize("until_led", [True, False])
@in_loop
async def test_an_early_answer_is_not_the_last_word(
    tmp_path: Path, wish: Wish, until_led: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "THEIRS", 0.0)
    async with at_work(tmp_path) as (of, may_end):
        asked = of["c"].node.host.handover
        waiting = asyncio.create_task(asked.fulfil(wish, BOUND, until_led))
        await until(lambda: of["a"].yielding and not asked.asked)
        assert not waiting.done()
        may_end.set()
        outcome = await waiting
        assert outcome[:2] == (True, "a") and outcome.view and outcome.view.leader != "a"


@in_loop
async def test_an_heir_that_the_last_leader_saw_has_led(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        await led(of, "b")
        hosts = {id: of[id].node.host for id in "abc"}
        for one, other in ("ac", "ca"):
            hosts[one].links[other].name.known = [("127.0.0.1", 1)]
            hosts[one].links[other].drop()
        await until(lambda: not (hosts["a"].links["c"].connected or hosts["c"].links["a"].connected))
        view = await of["a"].transfer("c", timeout=BOUND)
        assert (view.id, view.term, view.since) == ("c", 2, None)
        assert of["c"].is_leader and of["a"].view.id is None


@in_loop
async def test_where_nobody_leads_nobody_can_be_asked(tmp_path: Path) -> None:
    async with cluster(tmp_path) as of:
        with pytest.raises(ValueError, match="node a does not lead 'main': nobody does"):
            await of["a"].resign()
        with pytest.raises(ValueError, match="node a does not lead 'main': nobody does"):
            await of["a"].transfer("b")


# --- what befalls the two ---------------------------------------------------------------------------


async def passing_on(at: Cluster, patience: float = BOUND) -> tuple[Host, Host, asyncio.Task[Any]]:
    """The leader is at work; another has asked it to hand over to itself, and waits."""
    leader = await at.agreed()
    other = at.hosts[min(at.hosts.keys() - {leader.id})]
    leading = leader.node.leading[E]
    await until(lambda: set(leading.contenders) == at.hosts.keys() - {leader.id})
    leader.occupy(E)
    asked = asyncio.create_task(other.handover.fulfil(Wish(E, other.id), patience))
    await until(lambda: leading.giving_up)
    return leader, other, asked


@in_loop
async def test_a_leader_that_dies_meanwhile_is_an_error_and_no_wait(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader, other, asked = await passing_on(at)
        await crash(at, leader.id)
        with pytest.raises(ValueError, match=f"node {leader.id} was lost before it answered"):
            await asked
        assert not other.handover.asked
        await at.agreed()


@in_loop
async def test_a_leader_whose_answer_is_cut_off_is_an_error_and_no_wait(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader, other, asked = await passing_on(at)
        leader.links[other.id].drop()
        with pytest.raises(ValueError, match="was lost before it answered"):
            await asked
        leader.vacate(E)
        await until(lambda: other.is_leader(E))


UNHURRIED = {"lease": 60.0, "beat": 0.1}
"""Nobody is elected anew, however busy the machine is."""


@in_loop
async def test_a_leader_that_hangs_is_waited_for_no_longer_than_was_asked(tmp_path: Path) -> None:
    async with host_cluster(tmp_path, timing=UNHURRIED) as at:
        leader = await at.agreed()
        other = at.hosts[min(at.hosts.keys() - {leader.id})]
        leader.handover.on_ask = lambda *_: None  # type: ignore[method-assign]
        outcome = await other.handover.fulfil(Wish(E), 0.3)
        assert outcome[:2] == (False, leader.id)
        assert outcome.why == f"node {leader.id} has not answered, and may do it yet"
        view = other.view(E)
        assert view and (await other.handover.ask(leader.id, Wish(E), now() + 0.05)).term == view.term


@in_loop
async def test_who_stops_answers_first(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader, _, asked = await passing_on(at)
        await at.stop(leader.id)
        outcome = await asked
        assert not outcome.done and f"the work of node {leader.id} has not ended" in outcome.why
        await at.agreed()


@in_loop
async def test_who_has_asked_and_stops_is_answered(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader, other, asked = await passing_on(at)
        await at.stop(other.id)
        with pytest.raises(ValueError, match=f"node {other.id} stops before node {leader.id} has answered"):
            await asked


@in_loop
async def test_a_leader_that_is_not_reached_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host_cluster(tmp_path) as at:
        leader = await at.agreed()
        other = at.hosts[min(at.hosts.keys() - {leader.id})]
        monkeypatch.setattr(Link, "connected", property(lambda link: False))
        with pytest.raises(ValueError, match=f"{leader.id} leads 'main', and node {other.id} does not reach"):
            await other.handover.fulfil(Wish(E), 1.0)


def believing(monkeypatch: pytest.MonkeyPatch, *leaders: str) -> list[str]:
    """Whoever wants to know who leads believes that these do, one after the other, and then what is so."""
    left, known = list(leaders), Handover.leader
    monkeypatch.setattr(Handover, "leader", lambda self, name: left.pop(0) if left else known(self, name))
    return left


@in_loop
async def test_whoever_does_not_lead_names_the_one_that_does_and_passes_nothing_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host_cluster(tmp_path) as at:
        leader = await at.agreed()
        asked, other = (at.hosts[id] for id in sorted(at.hosts.keys() - {leader.id}))
        answer = await other.handover.ask(asked.id, Wish(E, other.id), now() + BOUND)
        assert (answer.how, answer.leader) == (How.ELSEWHERE, leader.id)
        assert answer.why == f"node {asked.id} does not lead 'main': node {leader.id} does"
        assert asked.handover.number == 0
        assert at.leader() is leader

        left = believing(monkeypatch, asked.id)
        await until(lambda: other.id in leader.node.leading[E].contenders)
        outcome = await other.handover.fulfil(Wish(E, other.id), BOUND)
        assert outcome[:2] == (True, leader.id) and not left
        assert (other.handover.number, asked.handover.number) == (3, 0)


@in_loop
async def test_nobody_is_asked_for_longer_than_there_is_time(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader = await at.agreed()
        other = at.hosts[min(at.hosts.keys() - {leader.id})]
        answer = Answered(1, How.ELSEWHERE, "it does not lead", None, 0)
        with pytest.raises(ValueError, match="it does not lead"):
            await other.handover.another(E, leader.id, answer, now() + 0.05)
        assert await other.handover.another(E, leader.id, answer, now() + BOUND) == leader.id


@in_loop
async def test_who_has_come_to_lead_meanwhile_does_it_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host_cluster(tmp_path) as at:
        leader = await at.agreed()
        other = min(at.hosts.keys() - {leader.id})
        believing(monkeypatch, other)
        outcome = await leader.handover.fulfil(Wish(E), BOUND)
        assert outcome[:2] == (True, leader.id)
        assert leader.handover.number == 1


# --- what a member may do to another ----------------------------------------------------------------


@in_loop
async def test_one_member_cannot_make_another_wait_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "AT_ONCE", 1)
    async with host_cluster(tmp_path) as at:
        leader, other, asked = await passing_on(at)
        with pytest.raises(ValueError, match=f"node {leader.id} is asked too much: try again"):
            await other.handover.fulfil(Wish(E), 1.0)
        leader.vacate(E)
        assert (await asked).done
        assert not leader.handover.obliging


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
@in_loop
async def test_nonsense_of_a_member_is_refused(
    tmp_path: Path, nonsense: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host_cluster(tmp_path) as at:
        leader = await at.agreed()
        other = at.hosts[min(at.hosts.keys() - {leader.id})]
        answers: list[Answered] = []
        monkeypatch.setattr(other.handover, "on_answered", lambda _, answer: answers.append(answer))
        for asked in (
            Ask(1, E, None, False, nonsense, 1.0),
            Ask(2, E, "nobody\nof mine", False, 0.0, 1.0),
            Ask(3, "another", None, False, 0.0, 1.0),
        ):
            other.links[leader.id].write(asked)
        await until(lambda: len(answers) == 3)
        assert [answer.how for answer in answers] == [How.REFUSED, How.REFUSED, How.ELSEWHERE]
        assert at.leader() is leader
        assert leader.view("another") is None
        other.links[leader.id].write(Ask(4, E, None, False, 0.0, nonsense))
        await until(lambda: len(answers) == 4)
        assert answers[3].how is How.DONE


@in_loop
async def test_only_who_was_asked_can_answer(tmp_path: Path) -> None:
    async with host_cluster(tmp_path) as at:
        leader, other, asked = await passing_on(at)
        third = at.hosts[(at.hosts.keys() - {leader.id, other.id}).pop()]
        [number] = other.handover.asked
        third.links[other.id].write(Answered(number, How.DONE, "", None, 1))
        leader.links[other.id].write(Answered(number + 1, How.DONE, "", None, 1))
        await until(lambda: other.node.ignored["an answer to what was not asked"] == 2)
        assert number in other.handover.asked
        leader.vacate(E)
        assert (await asked).done
