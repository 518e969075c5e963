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
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

from electorate import leadership as base
from electorate.election import Guarantees, LeaderView
from electorate.engines import embedded
from electorate.leadership import LeadershipLost, Loss, OnOverrun
from electorate.runtime.config import Config, Keywords

T = TypeVar("T")
P = ParamSpec("P")

log = logging.getLogger("electorate")


class Leadership:
    """A leadership of this process, for as long as the work that rests on it lasts."""

    def __init__(self, election: Election, grace: float | None, on_overrun: OnOverrun) -> None:
        self.election = election
        self.lost = threading.Event()
        """Set when the leadership is lost or about to be: the work must end now."""
        self._leadership: base.Leadership = election._election.leadership(grace=grace, on_overrun=on_overrun)

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

    def __enter__(self) -> Leadership:
        self.election.node._call(self._begin(threading.get_ident()))
        return self

    async def _begin(self, thread: int) -> None:
        await self._leadership.begin(thread)
        self._leadership.lost.add_done_callback(lambda _: self.lost.set())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.election.node._call(self._end())
        if kind is None and self.reason:
            raise LeadershipLost(self.election.name, self.term, self.reason)

    async def _end(self) -> None:
        self._leadership.end()


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
            return await asyncio.to_thread(position)

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

    def resign(self) -> None:
        """Let another lead. Raises `ValueError` if this process does not lead."""
        self.node._call(self._election.resign())

    def transfer(self, to: str, *, force: bool = False) -> LeaderView:
        """Hand the leadership to this contender. Raises `ValueError` and `TimeoutError`."""
        return self.node._call(self._election.transfer(to, force=force))

    def watch(self) -> Iterator[LeaderView]:
        """The present view, then every change, until the node stops. Blocks between them."""
        views = self._election.watch()

        async def following() -> LeaderView | None:
            return await anext(views, None)

        while (view := self.node._call(following())) is not None:
            yield view

    def leadership(self, *, grace: float | None = None, on_overrun: OnOverrun = "log") -> Leadership:
        """Contend, wait until elected with a lease, and lead for the time of the `with`. At its exit the
        leadership is handed over, and `LeadershipLost` raised if it was lost before."""
        return Leadership(self, grace, on_overrun)

    def run(
        self, work: Callable[[Leadership], T], *, grace: float | None = None, on_overrun: OnOverrun = "log"
    ) -> T:
        """Do this work as the leader, anew after each lost leadership, until it returns without a loss; then
        hand over and return its result. `lead.lost` tells the work to stop."""
        while True:
            try:
                with self.leadership(grace=grace, on_overrun=on_overrun) as lead:
                    return work(lead)
            except LeadershipLost as lost:
                if lost.reason is Loss.STOPPED:
                    raise
                log.info("%s", lost)

    def leader_only(self, function: Callable[P, T]) -> Callable[P, T | None]:
        """Decorate a function: it contends; calls do nothing and return None unless this process leads."""
        self.contend()

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
            return function(*args, **kwargs) if self.is_leader else None

        return call


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
            **settings,
        )
        self.handle_sigterm = handle_sigterm
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._elections: dict[str, Election] = {}

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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"electorate-{self.id}", daemon=True
        )
        self._thread.start()
        try:
            self._call(self._node.start())
        except BaseException:
            self._close()
            raise

    def stop(self) -> None:
        """Tell all work to end and wait for it, hand over, close."""
        if self._thread is not None:
            self._call(self._node.stop())
            self._close()

    def _close(self) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = None
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let the node's thread do it, and wait."""
        if self._thread is None:
            coroutine.close()
            raise RuntimeError(f"node {self.id} is not started: use it in a `with`")
        doing = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return doing.result()
        except BaseException:
            doing.cancel()
            raise

    def __enter__(self) -> Node:
        self.start()
        main = threading.current_thread() is threading.main_thread()
        if self.handle_sigterm and main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def terminate(number: int, frame: object) -> None:
    """Leave every `with` of the main thread on the way out."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)
