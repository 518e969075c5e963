"""The facade for threads."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate import LeadershipLost, Loss, UserError
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


PROGRAM = """
import sys, threading
from electorate import sync

with sync.Node("a", nodes={"a": sys.argv[1]}, data=sys.argv[2]) as node:
    with node.election().leadership() as lead:
        try:
            print("leads", flush=True)
            threading.Event().wait()
        finally:
            print("cleaned up", lead.remaining() > 0, flush=True)
print("never reached")
"""


def test_sigterm_leaves_every_with(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        arguments = [sys.executable, "-c", PROGRAM, make.addresses["a"], str(tmp_path / "a")]
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "leads\n"
            process.send_signal(signal.SIGTERM)
            output, complaint = process.communicate(timeout=BOUND)
        assert (output, complaint, process.returncode) == ("cleaned up True\n", "", 128 + signal.SIGTERM)
