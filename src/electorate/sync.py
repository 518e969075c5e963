"""The same objects for threads, without await.

    with electorate.sync.Node("a", "cluster.toml") as node:
        with node.election("scheduler").leadership() as lead:
            while not lead.lost.is_set():
                step(fencing_token=lead.term)

The node runs in a thread of its own, so a caller that blocks does not stop its beats. A thread cannot be
cancelled: the work is told by `lead.lost`, and has the last part of the lease, `grace`, to end. If it does
not, its stack is logged, and with `on_overrun="exit"` the process ends before another may lead.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack
from weakref import WeakValueDictionary

from electorate import leadership as base
from electorate import signals
from electorate.election import Guarantees, LeaderView
from electorate.engines import embedded
from electorate.leadership import STOP_TIMEOUT, LeadershipLost, Loss, OnError, OnOverrun, Pauses
from electorate.runtime import fork
from electorate.runtime.config import Config, Keywords
from electorate.work import Call

T = TypeVar("T")
P = ParamSpec("P")

PARTING = 1.0
"""Seconds for those who wait to be told that the node has stopped."""

log = logging.getLogger("electorate")


class Leadership:
    """A leadership of this process, for as long as the work that rests on it lasts. It is used once."""

    def __init__(
        self, election: Election, grace: float | None, on_overrun: OnOverrun, timeout: float | None
    ) -> None:
        self.election = election
        self.lost = threading.Event()
        """Set when the leadership is lost or about to be: the work must end now."""
        self._leadership: base.Leadership = election._election.leadership(
            timeout=timeout, grace=grace, on_overrun=on_overrun
        )

    def __repr__(self) -> str:
        return repr(self._leadership)

    @property
    def term(self) -> int:
        """The number of this leadership: the fencing token."""
        return self._leadership.term

    @property
    def reason(self) -> Loss | None:
        """Why it was lost."""
        return self._leadership.reason

    def remaining(self) -> float:
        """For how many seconds this process certainly leads in this term; 0 if it does not. No I/O."""
        return self._leadership.remaining()

    def check(self) -> None:
        """Raise `LeadershipLost` if this is no longer a leadership, or about to be none."""
        self._leadership.check()

    def run(self, *command: str, stop_timeout: float = STOP_TIMEOUT, allow_setuid: bool = False) -> int:
        """Run this command and wait for its exit code. It is sent SIGTERM when the leadership is lost, and
        SIGKILL `stop_timeout` seconds later, but before the lease can end. Processes that leave its process
        group escape. It gains no privileges by set-uid programs such as sudo, unless that is allowed."""
        running = self._leadership.run(*command, stop_timeout=stop_timeout, allow_setuid=allow_setuid)
        return self.election.node._call(running)

    def __enter__(self) -> Leadership:
        node, used = self.election.node, self._leadership.used
        try:
            node._call(self._begin(threading.get_ident()))
        except BaseException:
            if not used:
                node._tell(self._abandon)
            raise
        self._leadership.mark()
        return self

    async def _begin(self, thread: int) -> None:
        await self._leadership.begin(thread)
        self._leadership.lost.add_done_callback(lambda _: self.lost.set())

    def _abandon(self) -> None:
        """Nobody has heard that it was won."""
        if self._leadership in self._leadership.election.leaderships:
            self.election.node._ending.add(asyncio.ensure_future(self._leadership.end()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        node = self.election.node
        if node._node.forked:
            return
        self._leadership.unmark()
        try:
            node._call(self._leadership.end())
        except NotRunning:
            log.debug("%s has ended after its node", self)
        if kind is None and self.reason:
            raise LeadershipLost(self.election.name, self.term, self.reason)


class Election:
    """A named question, "who leads?". See `electorate.Election`."""

    def __init__(self, node: Node, election: embedded.EmbeddedElection) -> None:
        self.node = node
        self.name = election.name
        self._election = election

    @property
    def guarantees(self) -> Guarantees:
        """What the engine promises."""
        return self._election.guarantees

    @property
    def is_leader(self) -> bool:
        """Whether this process provably leads at this instant: a clock read, no I/O."""
        return self._election.is_leader

    @property
    def leader(self) -> LeaderView | None:
        """Who leads, as far as this process knows; None if nobody does."""
        return self._election.leader

    @property
    def priority(self) -> int:
        return self._election.priority

    @property
    def position(self) -> int:
        """How fresh this process's data is. It may be set to a number, or to a function without arguments
        that is asked, in a thread, before and during an election."""
        return self._election.position

    @position.setter
    def position(self, position: int | Callable[[], int]) -> None:
        if not callable(position):
            self.node._call(self._set_position(position))
            return

        async def ask() -> int:
            call = Call(position)
            call.begin()
            answer: int = await asyncio.wrap_future(call.done)
            return answer

        self.node._call(self._set_position(ask))

    async def _set_position(self, position: Any) -> None:
        self._election.position = position

    def contend(self) -> None:
        """Want to lead, from now on and whenever there is no leader."""
        self.node._call(self._contend())

    async def _contend(self) -> None:
        await self._election.prepare()
        self._election.contend()

    def withdraw(self) -> None:
        """No longer want to lead; a leader hands over first."""
        self.node._call(self._withdraw())

    async def _withdraw(self) -> None:
        self._election.withdraw()

    def freeze(self, seconds: float) -> None:
        """Do not contend for so long, whatever else is wished; 0 ends that. Raises `ValueError` if this
        process leads."""
        self.node._call(self._freeze(seconds))

    async def _freeze(self, seconds: float) -> None:
        self._election.freeze(seconds)

    def resign(self, *, seconds: float = 0.0, timeout: float | None = None) -> None:
        """Let another lead. The leader, wherever it is, contends again if none does, but not before so many
        `seconds`. Raises `ValueError` and `TimeoutError`."""
        self.node._call(self._election.resign(seconds=seconds, timeout=timeout))

    def transfer(self, to: str, *, force: bool = False, timeout: float | None = None) -> LeaderView:
        """Hand the leadership, wherever it is, to this contender. Raises `ValueError` and `TimeoutError`."""
        return self.node._call(self._election.transfer(to, force=force, timeout=timeout))

    def watch(self) -> Iterator[LeaderView]:
        """The present view, then every change, until the node stops. Blocks between them."""
        views = self._election.watch()

        async def following() -> LeaderView | None:
            return await anext(views, None)

        while (view := self.node._call(following())) is not None:
            yield view

    def leadership(
        self, *, timeout: float | None = None, grace: float | None = None, on_overrun: OnOverrun = "log"
    ) -> Leadership:
        """Contend, wait until elected with a lease, and lead for the time of the `with`. At its exit the
        leadership is handed over, and `LeadershipLost` raised if it was lost before. If it takes longer than
        `timeout` seconds to be elected, `TimeoutError` says why."""
        return Leadership(self, grace, on_overrun, timeout)

    def run(
        self,
        work: Callable[[Leadership], T],
        *,
        on_error: OnError = "raise",
        grace: float | None = None,
        on_overrun: OnOverrun = "log",
    ) -> T:
        """Do this work as the leader, anew after each lost leadership, until it returns without a loss; then
        hand over and return its result. `lead.lost` tells the work to stop.

        What the work raises hands the leadership over, and is raised here. With `on_error="restart"` it is
        logged instead, and this process contends again after a pause, which doubles from one second to a
        minute as long as the work fails."""
        pauses = Pauses(self.name)
        while True:
            try:
                with self.leadership(grace=grace, on_overrun=on_overrun) as lead, pauses.after(on_error):
                    return work(lead)
            except LeadershipLost as lost:
                if self._election.closed or lost.reason is Loss.STOPPED:
                    raise
                log.info("%s", lost)
            self.node._stopped.wait(pauses.next())

    def leader_only(self, function: Callable[P, T]) -> Callable[P, T | None]:
        """Decorate a function: it contends; calls do nothing and return None unless this process leads."""
        self.contend()

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
            return function(*args, **kwargs) if self.is_leader else None

        return call


class NotRunning(RuntimeError):
    """The node was not started yet, or has been stopped."""


class Node:
    """One member of a cluster, in a thread of this process. Use it as a context manager. See
    `electorate.Node` for the arguments."""

    def __init__(
        self,
        id: str | None = None,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        *,
        data: str | Path | None = None,
        rejoin: bool = False,
        without: Iterable[str] = (),
        new_members: bool = False,
        metadata: Mapping[str, str] | None = None,
        handle_sigterm: bool = True,
        stop_timeout: float = STOP_TIMEOUT,
        **settings: Unpack[Keywords],
    ) -> None:
        self._node = embedded.Node(
            id,
            config,
            data=data,
            rejoin=rejoin,
            without=without,
            new_members=new_members,
            metadata=metadata,
            handle_sigterm=False,
            stop_timeout=stop_timeout,
            **settings,
        )
        self.handle_sigterm = handle_sigterm
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        """Where the loop runs, as long as calls are taken."""
        self._gate = threading.Lock()
        self._elections: WeakValueDictionary[str, Election] = WeakValueDictionary()
        self._ending: set[asyncio.Future[Any]] = set()
        self._leaving = False
        self._stopped = threading.Event()

    @property
    def id(self) -> str:
        return self._node.id

    @property
    def config(self) -> Config:
        return self._node.config

    def election(self, name: str | None = None) -> Election:
        """The election of this name (by default the first of the configuration); always the same object."""
        made = self._call(self._election(name))
        return self._elections.setdefault(made.name, Election(self, made))

    async def _election(self, name: str | None) -> embedded.EmbeddedElection:
        return self._node.election(name)

    def start(self) -> None:
        """Listen, connect, and take part. Raises `UserError`."""
        self._node.check_unused()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"electorate-{self.id}", daemon=True)
        self._thread.start()
        signals.bell.hang(self._loop)
        try:
            self._call(self._node.start())
        except BaseException:
            self._close()
            raise

    def _run(self) -> None:
        signals.take_none()
        self._loop.run_forever()

    def stop(self) -> None:
        """Tell all work to end and wait for it, hand over, close. Whoever still waits for an election is told
        that it has stopped."""
        self._node.check_here()
        if self._thread is not None:
            try:
                self._call(self._node.stop())
            finally:
                self._close()

    def _close(self) -> None:
        with self._gate:
            thread, self._thread = self._thread, None
        assert thread is not None
        self._stopped.set()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()
        self._loop.close()
        signals.bell.take_down(self._loop)

    async def _finish(self) -> None:
        """All who wait for something are told before the loop ends."""
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=PARTING)
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=PARTING)
        await self._loop.shutdown_asyncgens()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let the node's thread do it, and wait. If that is interrupted, it is cancelled."""
        try:
            self._node.check_here()
            with self._gate:
                if self._thread is None:
                    why = (
                        "has been stopped" if self._stopped.is_set() else "is not started: use it in a `with`"
                    )
                    raise NotRunning(f"node {self.id} {why}")
                doing = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except BaseException:
            coroutine.close()
            raise
        try:
            return doing.result()
        except CancelledError:
            raise NotRunning(f"node {self.id} has been stopped") from None
        except BaseException:
            doing.cancel()
            raise

    def _tell(self, call: Callable[[], object]) -> None:
        """Let the node's thread do it, if it still can."""
        if not self._node.forked:
            with self._gate:
                if self._thread is not None:
                    self._loop.call_soon_threadsafe(call)

    def __enter__(self) -> Node:
        self.start()
        main = threading.current_thread() is threading.main_thread()
        if self.handle_sigterm and main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminate)
            fork.heeded.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._node.forked:
            return
        self._leaving = True
        try:
            self.stop()
        finally:
            self._forget_sigterm()
        if self._node.terminated and kind is not SystemExit:
            raise SystemExit(128 + signal.SIGTERM)

    def _terminate(self, number: int, frame: object) -> None:
        """Leave every `with` of the main thread on the way out."""
        self._forget_sigterm()
        self._node.terminated = True
        if not self._leaving:
            insisting = threading.Timer(self._node.stop_timeout, self._insist)
            insisting.daemon = True
            insisting.start()
            raise SystemExit(128 + number)

    def _forget_sigterm(self) -> None:
        """From now on SIGTERM does again what it did before."""
        if self in fork.heeded:
            fork.heeded.discard(self)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _insist(self) -> None:
        if not self._leaving:
            self._node.insist()
