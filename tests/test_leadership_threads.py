"""The same clockwork for threads, without a cluster."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from electorate import sync
from electorate.leadership import LeadershipLost, Loss
from tests.test_leadership import Staged


class Engine:
    """In place of the embedded node."""

    id = "a"
    stop_timeout = 30.0
    forked = False
    terminated = False

    def __init__(self) -> None:
        self.made = Staged()

    def check_here(self) -> None: ...

    def check_unused(self) -> None: ...

    async def start(self) -> None:
        self.thread = threading.get_ident()

    async def stop(self) -> None:
        self.made.close()
        self.made.timekeeper.close()

    def election(self, name: str | None) -> Staged:
        return self.made


class Acting(sync.Node):
    """A node for threads on that engine."""

    def __init__(self, handle_sigterm: bool = False) -> None:
        super().__init__("a", nodes={"a": "127.0.0.1:1"}, handle_sigterm=handle_sigterm)
        self.engine = Engine()
        self._node = cast(Any, self.engine)

    def act(self, deed: Callable[[], Any]) -> None:
        """Do it in the node's thread, and wait."""

        async def done() -> None:
            deed()

        self._call(done())


@contextmanager
def node() -> Iterator[tuple[Acting, sync.Election, Staged]]:
    made = Acting()
    with made:
        yield made, made.election(), made.engine.made


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_interrupted_wait_wants_to_lead_no_longer() -> None:
    class Interrupted(BaseException): ...

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    def interrupt_when_it_waits() -> None:
        until(lambda: staged.contends)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with node() as (made, election, staged):
            interrupting = threading.Thread(target=interrupt_when_it_waits)
            interrupting.start()
            with pytest.raises(Interrupted), election.leadership():
                raise AssertionError("never reached")
            interrupting.join()
            until(lambda: not staged.contends)
            made.act(staged.elect)
            with election.leadership() as lead:
                assert lead.term == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_work_is_told_of_the_loss_and_what_it_raises_comes_through() -> None:
    with node() as (made, election, staged):
        made.act(staged.elect)
        with pytest.raises(LeadershipLost) as lost, election.leadership() as lead:
            assert not lead.lost.is_set()
            made.act(staged.depose)
            assert lead.lost.wait(30)
        assert lost.value.reason is Loss.EXPIRED
        made.act(staged.elect)
        with pytest.raises(KeyError), election.leadership() as lead:
            made.act(staged.depose)
            assert lead.lost.wait(30)
            raise KeyError


def test_run_goes_on_after_a_loss_and_ends_with_the_node() -> None:
    terms: list[int] = []
    with node() as (made, election, staged):

        def work(lead: sync.Leadership) -> str:
            terms.append(lead.term)
            if len(terms) == 1:
                made.act(staged.depose)
                lead.lost.wait(30)
                made.act(staged.elect)
            return "done"

        made.act(staged.elect)
        assert election.run(work) == "done"
        assert terms == [1, 2]
        made.act(staged.depose)
        failed: list[LeadershipLost] = []

        def wait() -> None:
            try:
                election.run(work)
            except LeadershipLost as lost:
                failed.append(lost)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: staged.contends)
        made.act(staged.close)
        waiting.join(30)
        assert [lost.reason for lost in failed] == [Loss.STOPPED]


def test_the_stack_that_would_be_told_is_that_of_the_thread_that_works() -> None:
    with node() as (made, election, staged):
        made.act(staged.elect)
        with election.leadership() as lead:
            assert lead._leadership.thread == threading.get_ident() != made.engine.thread


def test_how_fresh_it_is_is_asked_outside_of_the_nodes_thread() -> None:
    """A query that takes its time does not stop the beats."""
    asked: list[int] = []

    def position() -> int:
        asked.append(threading.get_ident())
        return 7

    with node() as (made, election, staged):
        election.position = position
        election.position = 5
        ask, number = staged.given
        assert number == 5 and callable(ask)

        async def answer() -> int:
            return await ask()

        assert made._call(answer()) == 7
        assert asked[0] not in (made.engine.thread, threading.get_ident())


@pytest.mark.parametrize("wanted", [True, False])
def test_sigterm_is_taken_only_from_nobody(wanted: bool) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (mine, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, handler)
            with Acting(handle_sigterm=wanted):
                assert signal.getsignal(signal.SIGTERM) is handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with Acting(handle_sigterm=wanted) as made:
            assert (signal.getsignal(signal.SIGTERM) == made._terminate) is wanted
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_node_that_is_not_started_says_so() -> None:
    made = Acting()
    with pytest.raises(RuntimeError, match="is not started"):
        made.election()
    asyncio.run(made.engine.stop())
