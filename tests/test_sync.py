"""The facade for threads."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate import LeadershipLost, Loss, UserError
from electorate.leadership import Pauses
from electorate.sync import Election, Node
from tests.api_nodes import Log, nodes
from tests.runtime_hosts import until

BOUND = 30.0


@contextmanager
def cluster(directory: Path, ids: str = "abc", **settings: Any) -> Iterator[dict[str, Election]]:
    with nodes(directory, ids, **settings) as make, ExitStack() as stack:
        made = [stack.enter_context(Node(id, **make.arguments(id))) for id in ids]
        yield {node.id: node.election() for node in made}


def wait(election: Election, condition: Any) -> None:
    """Watch until a view satisfies the condition."""
    for view in election.watch():
        if condition(view):
            return


def test_leading_in_a_with(tmp_path: Path) -> None:
    with cluster(tmp_path) as of:
        with of["b"].leadership() as lead:
            assert of["b"].is_leader
            assert lead.term >= 1 and 0 < lead.remaining() <= 1.0
            assert not lead.lost.is_set()
            lead.check()
            wait(of["a"], lambda view: view.id == "b")
            assert of["a"].leader and of["a"].leader.term == lead.term
        assert not of["b"].is_leader
        with pytest.raises(LeadershipLost):
            lead.check()
        assert of["a"].guarantees.exclusive and of["a"].priority == 0


def test_a_blocked_caller_stops_no_beats(tmp_path: Path) -> None:
    with cluster(tmp_path) as of, of["a"].leadership() as lead:
        assert not lead.lost.wait(1.5), "longer than a lease"
        assert of["a"].is_leader


def test_the_work_is_told_and_ends_before_another_begins(tmp_path: Path) -> None:
    log = Log()
    begun, lost = threading.Event(), list[Loss]()
    with cluster(tmp_path) as of:

        def first() -> None:
            with pytest.raises(LeadershipLost) as error, of["a"].leadership() as lead, log.work("a"):
                begun.set()
                assert lead.lost.wait(BOUND)
                assert of["a"].is_leader, "there is time left to end"
                threading.Event().wait(0.2)
            lost.append(error.value.reason)

        thread = threading.Thread(target=first)
        thread.start()
        assert begun.wait(BOUND)

        def second() -> None:
            with of["b"].leadership(), log.work("b"):
                pass

        heir = threading.Thread(target=second)
        heir.start()
        while True:
            try:
                of["a"].transfer("b")
                break
            except ValueError:
                continue
        thread.join()
        heir.join()
    assert lost == [Loss.RESIGNED]
    assert [span[2] for span in log.spans] == ["a", "b"]
    assert log.overlaps() == []


def test_an_heir_that_leads_for_an_instant_has_led(tmp_path: Path) -> None:
    with cluster(tmp_path) as of:
        of["a"].contend()
        wait(of["a"], lambda view: view.id == "a")
        host = of["a"].node._node.host
        ended = threading.Event()

        def inherit() -> None:
            with of["b"].leadership():
                pass
            ended.set()

        async def transfer_and_look_away() -> None:
            await until(lambda: "b" in host.node.leading["main"].contenders)
            transfer = asyncio.create_task(of["a"]._election.transfer("b"))
            await asyncio.sleep(0)
            while of["a"].is_leader or any(link.buffer for link in host.links.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert ended.wait(BOUND), "so its coming and going are heard of at once"
            await transfer

        heir = threading.Thread(target=inherit)
        heir.start()
        of["a"].node._call(transfer_and_look_away())
        heir.join()


def test_run_does_the_work_until_it_is_done(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        terms = []

        def work(lead: Any) -> str:
            terms.append(lead.term)
            if len(terms) == 1:
                threading.Thread(target=of["a"].resign).start()
                assert lead.lost.wait(BOUND)
            return "done"

        assert of["a"].run(work) == "done"
        assert terms == [1, 2]


def test_leader_only_and_the_wishes(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        job = of["a"].leader_only(lambda: "worked")
        wait(of["a"], lambda view: view.id == "a")
        while job() is None:
            pass
        assert job() == "worked"
        of["a"].withdraw()
        assert not of["a"].is_leader
        assert job() is None


def test_the_position_is_a_number_or_a_function(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        of["a"].position = 7
        assert of["a"].position == 7
        asked = threading.Event()

        def ask() -> int:
            asked.set()
            return 9

        of["a"].position = ask
        assert asked.wait(BOUND)
        with of["a"].leadership():
            assert of["a"].position == 9


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        node = Node("a", **make.arguments("a"))
        with pytest.raises(RuntimeError, match="is not started"):
            node.election()
        with node:
            with pytest.raises(ValueError, match="does not lead"):
                node.election().resign()
            with pytest.raises(UserError, match=r"cannot listen"):
                Node("a", **make.arguments("a") | {"data": tmp_path / "other"}).start()


# --- waiting, and being told ------------------------------------------------------------------------


@pytest.fixture
def interruptible() -> Iterator[None]:
    """`interrupt` raises an exception in the main thread, as a signal handler does."""

    def raise_it(number: int, frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def until_true(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("interruptible")
def test_who_is_interrupted_while_waiting_waits_no_more(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make, Node("a", **make.arguments("a")) as node:
        election = node.election()
        inner = election._election

        def interrupt_then() -> None:
            until_true(lambda: inner.contends)
            interrupt()

        thread = threading.Thread(target=interrupt_then)
        thread.start()
        with pytest.raises(InterruptedError), election.leadership():
            raise AssertionError("never reached")
        thread.join()
        until_true(lambda: not inner.contends and not inner.turns.taken)
        with Node("b", **make.arguments("b")), election.leadership(timeout=BOUND):
            assert election.is_leader


@pytest.mark.usefixtures("interruptible")
def test_who_is_interrupted_just_as_it_wins_does_not_lead_on(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        inner = of["a"]._election
        lead = of["a"].leadership()
        begin = lead._leadership.begin

        async def begin_and_dawdle(thread: int) -> None:
            await begin(thread)
            interrupt()
            time.sleep(0.2)  # noqa: ASYNC251 (so that it is over when the interruption is heard of)

        lead._leadership.begin = begin_and_dawdle  # type: ignore[method-assign]
        with pytest.raises(InterruptedError):
            lead.__enter__()
        until_true(lambda: not inner.leaderships and not inner.turns.taken)
        assert lead.term == 1 and not of["a"].is_leader


def test_waiting_is_bounded_and_says_why(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make, Node("a", **make.arguments("a")) as node:
        why = r"not won within 0.2 s: node a reaches no quorum: not b"
        with pytest.raises(TimeoutError, match=why), node.election().leadership(timeout=0.2):
            pass


def test_every_waiter_is_told_when_the_node_stops(tmp_path: Path) -> None:
    """One leads, and does not look at `lost` before it is too late; the others wait for it."""
    told: Counter[str] = Counter()
    may_end = threading.Event()
    with nodes(tmp_path, "a") as make:
        node = Node("a", **make.arguments("a"), stop_timeout=0.2)
        with node:
            election = node.election()
            inner = election._election

            def lead(name: str) -> None:
                try:
                    with election.leadership():
                        may_end.wait(BOUND)
                except LeadershipLost as lost:
                    told[f"{name}: {lost.reason.name}"] += 1

            def watch() -> None:
                for _ in election.watch():
                    pass
                told["watched"] += 1

            first = threading.Thread(target=lead, args=["led"])
            first.start()
            until_true(lambda: inner.leaderships)
            waiting = [threading.Thread(target=lead, args=["waited"]) for _ in range(4)]
            waiting += [threading.Thread(target=watch) for _ in range(4)]
            for thread in waiting:
                thread.start()
            until_true(lambda: len(inner.turns.waiting) == 4)
        for thread in waiting:
            thread.join(BOUND)
        assert told == {"waited: STOPPED": 4, "watched": 4}
        may_end.set()
        first.join(BOUND)
        assert told["led: STOPPED"] == 1
        with pytest.raises(RuntimeError, match="node a has been stopped"):
            election.resign()
        with pytest.raises(RuntimeError, match="a node is used once"):
            node.start()


def test_a_call_that_is_under_way_when_the_node_stops_is_answered(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        answers = list[str]()

        def call(coroutine: Coroutine[Any, Any, object]) -> None:
            try:
                answers.append(str(node._call(coroutine)))
            except RuntimeError as error:
                answers.append(str(error))

        with Node("a", **make.arguments("a")) as node:
            event = asyncio.Event()
            begun = [asyncio.sleep(0.3, "done"), event.wait()]
            calls = [threading.Thread(target=call, args=[coroutine]) for coroutine in begun]
            for thread in calls:
                thread.start()
            until_true(lambda: event._waiters)
        for thread in calls:
            thread.join(BOUND)
    assert answers == ["done", "node a has been stopped"]


@pytest.mark.usefixtures("interruptible")
def test_who_is_interrupted_while_leaving_has_left(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        node, inner = of["a"].node, of["a"]._election
        free = threading.Event()

        def interrupt_and_go_on() -> None:
            interrupt()
            free.set()

        timer = threading.Timer(0.2, interrupt_and_go_on)
        with pytest.raises(InterruptedError), of["a"].leadership():
            node._loop.call_soon_threadsafe(free.wait, BOUND)
            timer.start()
        until_true(lambda: not inner.leaderships and not inner.turns.taken)
        timer.join()


def test_run_does_not_go_on_with_a_node_that_has_stopped(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        ended = list[Loss]()
        with Node("a", **make.arguments("a")) as node:
            election = node.election()

            def run() -> None:
                with pytest.raises(LeadershipLost) as lost:
                    election.run(lambda lead: lead.lost.wait(BOUND))
                ended.append(lost.value.reason)

            thread = threading.Thread(target=run)
            thread.start()
            until_true(lambda: election._election.leaderships)
        thread.join(BOUND)
        assert ended == [Loss.STOPPED]


def test_run_begins_work_again_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pauses, "FIRST", 0.05)
    with cluster(tmp_path, "a") as of:
        terms = list[int]()

        def work(lead: Any) -> str:
            terms.append(lead.term)
            if len(terms) < 3:
                raise OSError("no such queue")
            return "done"

        assert of["a"].run(work, on_error="restart") == "done"
        assert terms == [1, 2, 3]
        assert caplog.text.count("OSError: no such queue") == 2
        terms.clear()
        with pytest.raises(OSError, match="no such queue"):
            of["a"].run(work)


# --- the work ---------------------------------------------------------------------------------------


def test_what_the_work_raises_is_not_hidden_by_a_loss(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        with pytest.raises(ZeroDivisionError), of["a"].leadership() as lead:
            threading.Thread(target=of["a"].resign).start()
            assert lead.lost.wait(BOUND)
            raise ZeroDivisionError
        assert lead.reason is Loss.RESIGNED
        assert not of["a"].is_leader


def test_the_position_is_asked_in_a_thread_of_its_own(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        threads = list[threading.Thread]()

        def ask() -> int:
            threads.append(threading.current_thread())
            return 9

        of["a"].position = ask
        with of["a"].leadership():
            assert of["a"].position == 9
        assert threads and of["a"].node._thread not in threads


def test_work_that_overruns_is_shown_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def is_here() -> None:
        until_true(lambda: "goes on though its lease is about to end" in caplog.text)

    with nodes(tmp_path, "ab") as make, Node("a", **make.arguments("a")) as node:
        other = Node("b", **make.arguments("b"))
        other.start()
        with pytest.raises(LeadershipLost), node.election().leadership() as lead:
            other.stop()
            assert lead.lost.wait(BOUND)
            is_here()
    assert "in is_here" in caplog.text


def test_a_command_ends_with_the_leadership(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        with pytest.raises(LeadershipLost), of["a"].leadership() as lead:
            assert lead.run("sh", "-c", "exit 3") == 3
            timer = threading.Timer(0.1, of["a"].resign)
            timer.start()
            assert lead.run("sleep", "60") == -signal.SIGTERM
            assert of["a"].is_leader and lead.lost.is_set()
        with pytest.raises(LeadershipLost):
            lead.run("true")
        timer.join()


def test_a_leadership_is_used_once_and_not_within_itself(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        with of["a"].leadership() as lead:
            with pytest.raises(RuntimeError, match="to wait for itself"), of["a"].leadership():
                pass
            with pytest.raises(RuntimeError, match="has been used"), lead:
                pass
            assert of["a"].is_leader
        with pytest.raises(ValueError, match="must be a number from 0"):
            of["a"].leadership(grace=60)


def test_who_is_frozen_does_not_contend(tmp_path: Path) -> None:
    with cluster(tmp_path, "a") as of:
        of["a"].contend()
        wait(of["a"], lambda view: view.id == "a")
        of["a"].resign(seconds=60)
        why = "does not contend for another 5"
        with pytest.raises(TimeoutError, match=why), of["a"].leadership(timeout=0.1):
            pass
        of["a"].freeze(0)
        with of["a"].leadership(timeout=BOUND):
            pass


# --- signals and forks ------------------------------------------------------------------------------


def test_the_handler_is_there_as_long_as_the_node_and_replaces_none(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make:
        with Node("a", **make.arguments("a")):
            taken = signal.getsignal(signal.SIGTERM)
            assert taken is not signal.SIG_DFL
            with Node("b", **make.arguments("b")):
                assert signal.getsignal(signal.SIGTERM) is taken
            assert signal.getsignal(signal.SIGTERM) is taken
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with Node("a", **make.arguments("a")):
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


PROGRAM = """
import os, sys, threading, time
from electorate import sync

with sync.Node("a", nodes={{"a": sys.argv[1]}}, data=sys.argv[2], stop_timeout=float(sys.argv[3])) as node:
    election = node.election()
    with election.leadership() as lead:
{body}
print("never reached")
"""

CLEANING = """
        try:
            print("leads", flush=True)
            threading.Event().wait()
        finally:
            print("cleaned up", lead.remaining() > 0, flush=True)"""


@contextmanager
def program(directory: Path, body: str, stop_timeout: float = 10.0) -> Iterator[subprocess.Popen[str]]:
    with nodes(directory, "a") as make:
        arguments = [make.addresses["a"], str(directory / "a"), str(stop_timeout)]
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM.format(body=body), *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            try:
                assert process.stdout.readline() == "leads\n"
                yield process
            finally:
                process.kill()


def test_sigterm_leaves_every_with(tmp_path: Path) -> None:
    with program(tmp_path, CLEANING) as process:
        process.send_signal(signal.SIGTERM)
        output, complaint = process.communicate(timeout=BOUND)
    assert (output, complaint, process.returncode) == ("cleaned up True\n", "", 128 + signal.SIGTERM)


IGNORANT = """
        word = "leads"
        while True:
            try:
                print(word, flush=True)
                threading.Event().wait()
            except BaseException:
                word = "not yet"
"""

BESIDE = """
        def ignore():
            with node.election("another").leadership() as other:
                print("leads", flush=True)
                other.lost.wait()
                print("not yet", flush=True)
                threading.Event().wait()
        threading.Thread(target=ignore).start()
        threading.Event().wait()"""


@pytest.mark.parametrize("body", [IGNORANT, BESIDE])
def test_work_that_ignores_its_end_does_not_keep_the_process_from_it(tmp_path: Path, body: str) -> None:
    with program(tmp_path, body, stop_timeout=0.3) as process:
        process.send_signal(signal.SIGTERM)
        output, complaint = process.communicate(timeout=BOUND)
    assert (output, process.returncode) == ("not yet\n", 70)
    assert f"the work for '{'main' if body is IGNORANT else 'another'}' in term 1 goes on" in complaint


WAITING = """
        for _ in range(4):
            threading.Thread(target=lambda: election.leadership().__enter__()).start()
            threading.Thread(target=lambda: list(election.watch())).start()
        threading.excepthook = lambda what: print(what.exc_type.__name__, flush=True)
        print("leads", flush=True)
        threading.Event().wait()"""


def test_who_waits_does_not_keep_the_process_from_its_end(tmp_path: Path) -> None:
    with program(tmp_path, WAITING) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=BOUND)
    assert (output, process.returncode) == ("LeadershipLost\n" * 4, 128 + signal.SIGTERM)


FORKING = """
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print("leads", flush=True)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), election.is_leader, flush=True)
        child = os.fork()
        if child == 0:
            calls = [election.resign, election.contend, node.stop, node.start, lambda: election.leader,
                     lambda: election.leadership().__enter__(), lambda: list(election.watch())]
            for call in calls:
                try:
                    call()
                except RuntimeError as error:
                    print("was forked off node a and is not that node" in str(error), flush=True)
            print(election.is_leader, flush=True)
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), election.is_leader, flush=True)"""


def test_a_forked_child_is_not_the_node_and_may_unwind(tmp_path: Path) -> None:
    with program(tmp_path, FORKING) as process:
        assert process.stdout
        os.kill(int(process.stdout.readline()), signal.SIGTERM)
        output, _ = process.communicate(timeout=BOUND)
    assert output == "-15 True\n" + "True\n" * 7 + "False\n7 True\nnever reached\n"
