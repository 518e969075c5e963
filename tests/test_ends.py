"""How a node is left: by signals, in forked children, and by a body that does not want to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from electorate import Leadership, LeadershipLost, Loss, sync
from electorate.engines.embedded import EmbeddedElection
from electorate.runtime.control import address
from tests.api_nodes import LEASE, nodes, program
from tests.runtime_hosts import blocked, in_loop, until
from tests.test_counted_work import alive

BOUND = 30.0


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return await asyncio.to_thread(process.stdout.readline)


# --- forked children --------------------------------------------------------------------------------


@in_loop
async def test_a_signal_to_a_forked_child_is_for_the_child(tmp_path: Path) -> None:
    body = """
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            print(child, flush=True)
            import multiprocessing
            pool = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            pool.start()
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            pool.terminate()
            await asyncio.to_thread(pool.join)
            await asyncio.sleep(0)
            lead.check()
            print(os.waitstatus_to_exitcode(status), pool.exitcode, election.is_leader, flush=True)
            await asyncio.Event().wait()"""
    with nodes(tmp_path, "a") as make, program(make, "a", body) as process:
        assert await line(process) == "leads\n"
        os.kill(int(await line(process)), signal.SIGTERM)
        assert await line(process) == "-15 -15 True\n"
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 128 + signal.SIGTERM


@in_loop
async def test_in_a_forked_child_everything_says_so(tmp_path: Path) -> None:
    body = """
            child = os.fork()
            if child == 0:
                async def watch():
                    async for view in election.watch():
                        pass
                async def enter():
                    async with election.leadership():
                        pass
                async def leader():
                    return election.leader
                calls = [enter, watch, leader, election.resign, node.stop, node.start]
                calls.append(lambda: election.transfer("b"))
                for call in calls:
                    try:
                        asyncio.run(call())
                    except RuntimeError as error:
                        print("was forked off node a and is not that node" in str(error), flush=True)
                for wish in (election.contend, election.withdraw, lambda: election.freeze(1)):
                    try:
                        wish()
                    except RuntimeError as error:
                        print("was forked off node a and is not that node" in str(error), flush=True)
                print(election.is_leader, lead.remaining(), flush=True)
                os._exit(0)
            await asyncio.Event().wait()"""
    with nodes(tmp_path, "a") as make, program(make, "a", body) as process:
        assert [await line(process) for _ in range(12)] == ["leads\n", *["True\n"] * 10, "False 0.0\n"]
        process.kill()


@in_loop
async def test_a_child_may_unwind_what_its_parent_has_entered(tmp_path: Path) -> None:
    body = """
            child = os.fork()
            if child == 0:
                break_out = lead.__aexit__(None, None, None)
                leave = node.__aexit__(None, None, None)
                for unwinding in (break_out, leave):
                    try:
                        unwinding.send(None)
                    except StopIteration:
                        print("left", flush=True)
                os._exit(0)
            await asyncio.to_thread(os.waitpid, child, 0)
            print(election.is_leader, flush=True)
            await asyncio.Event().wait()"""
    with nodes(tmp_path, "a") as make, program(make, "a", body) as process:
        assert [await line(process) for _ in range(4)] == ["leads\n", "left\n", "left\n", "True\n"]
        process.kill()


# --- SIGTERM ----------------------------------------------------------------------------------------


@in_loop
async def test_the_handler_is_there_as_long_as_the_node(tmp_path: Path) -> None:
    with nodes(tmp_path, "ab") as make:
        async with make("a", handle_sigterm=True):
            taken = signal.getsignal(signal.SIGTERM)
            assert taken is not signal.SIG_DFL
            async with make("b", handle_sigterm=True):
                pass
            assert signal.getsignal(signal.SIGTERM) is taken, "it is not that of b"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            async with make("a", handle_sigterm=True, data=tmp_path / "other"):
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


IGNORANT = """
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    print("not yet", flush=True)"""

BESIDE = """
            async def ignore():
                async with node.election("another").leadership():
                    print("leads another", flush=True)
                    while True:
                        try:
                            await asyncio.Event().wait()
                        except asyncio.CancelledError:
                            print("not yet", flush=True)
            ignoring = asyncio.create_task(ignore())
            await asyncio.Event().wait()"""


@in_loop
async def test_a_process_that_ends_so_takes_its_commands_along(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo $$; while :; do sleep 60; done"
    body = f"""
            running = asyncio.create_task(lead.run("sh", "-c", {stubborn!r}))
            await asyncio.wait([running])"""
    with nodes(tmp_path, "a") as make, program(make, "a", body, stop_timeout="0.3") as process:
        assert await line(process) == "leads\n"
        command = int(await line(process))
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        assert process.returncode == 70
        await until(lambda: not alive(command))


@pytest.mark.parametrize("body", [IGNORANT, BESIDE])
@in_loop
async def test_work_that_ignores_its_end_does_not_keep_the_process_from_it(tmp_path: Path, body: str) -> None:
    """SIGTERM leaves it so many seconds, and nobody else leads before the process has ended."""
    name = "main" if body is IGNORANT else "another"
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", body, stop_timeout="0.5") as process:
                assert await line(process) == "leads\n"
                if body is BESIDE:
                    assert await line(process) == "leads another\n"
                process.send_signal(signal.SIGTERM)
                assert await line(process) == "not yet\n"
                async with other.election(name).leadership():
                    assert process.poll() is not None
                _, complaint = await asyncio.to_thread(process.communicate)
                assert process.returncode == 70
                assert f"the work for '{name}'" in complaint


PATIENT = """
import asyncio, sys
from electorate import Node

async def main():
    async with Node("a", nodes={"a": sys.argv[1]}, data=sys.argv[2], stop_timeout=0.3):
        print("runs", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

asyncio.run(main())
"""


def test_without_work_too_a_node_that_is_not_left_ends_by_sigterm(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        arguments = [sys.executable, "-c", PATIENT, make.addresses["a"], str(tmp_path / "a")]
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout and process.stdout.readline() == "runs\n"
            process.send_signal(signal.SIGTERM)
            _, complaint = process.communicate(timeout=BOUND)
    assert process.returncode == 128 + signal.SIGTERM
    assert "node a has not been left in 0.3 s" in complaint


# --- stop -------------------------------------------------------------------------------------------


async def ignore(election: EmbeddedElection, may_end: asyncio.Event) -> None:
    """Lead, and ignore the first demand to end."""
    async with election.leadership():
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            await may_end.wait()


@in_loop
async def test_a_stop_ends_though_work_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            other.election().contend()
            await until(lambda: other.election().is_leader)
            may_end = asyncio.Event()
            node = make("a", stop_timeout=0.2)
            await node.start()
            ignoring = asyncio.create_task(ignore(node.election(), may_end))
            await until(lambda: "a" in other.host.node.leading["main"].contenders)
            await other.election().transfer("a")
            await until(lambda: node.election().leaderships)
            await node.stop()
            assert "the work for 'main' in term 2 goes on though its node stops" in caplog.text
            await until(lambda: other.election().is_leader)
            may_end.set()
            with pytest.raises(LeadershipLost) as lost:
                await ignoring
            assert lost.value.reason is Loss.STOPPED


@in_loop
async def test_a_stop_ends_though_the_disk_and_a_reader_hang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(tmp_path) as make:
        free = threading.Event()
        async with make("b"), make("c"):
            node = make("a")
            await node.start()
            await until(lambda: all(link.connected for link in node.host.links.values()))
            with address(tmp_path / "a") as path:
                _, reader_that_hangs = await asyncio.open_unix_connection(path)
            reader_that_hangs.write(b'{"ask": "watch"}\n')
            node.host.disk.submit(free.wait, BOUND)
            node.election("another").contend()
            async with asyncio.timeout(15 * LEASE):
                await node.stop()
            assert "takes no write: stopping without it" in caplog.text
            reader_that_hangs.close()
        free.set()


@in_loop
async def test_who_waits_is_told_when_the_node_stops(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        may_end = asyncio.Event()
        async with make("a", stop_timeout=0.1) as node:
            election = node.election()
            first = asyncio.create_task(ignore(election, may_end))
            await until(lambda: election.leaderships)
            waiting = [asyncio.create_task(lead(election)) for _ in range(3)]
            await until(lambda: len(election.turns.waiting) == 3)
        for one in waiting:
            with pytest.raises(LeadershipLost, match="its node stopped"):
                await one
        may_end.set()
        with pytest.raises(LeadershipLost):
            await first


@in_loop
async def test_who_leads_or_waits_goes_on_when_the_store_can_write_again(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        async with make("a") as node:
            election, terms = node.election(), list[int]()

            async def work(lead: Leadership) -> None:
                terms.append(lead.term)
                if len(terms) == 1:
                    await lead.lost
                    raise LeadershipLost("main", lead.term, await lead.lost)

            working = asyncio.create_task(election.run(work))
            await until(lambda: terms)
            with blocked(tmp_path / "a"):
                node.election("another").contend()
                await until(lambda: not election.leaderships)
                waiting = asyncio.create_task(node.election("second").run(return_term))
                with pytest.raises(TimeoutError, match=r"was not won within .* cannot be written"):
                    async with node.election("third").leadership(timeout=0.1):
                        pass
            await working
            assert await waiting
            assert terms == sorted(set(terms)) and len(terms) == 2


@in_loop
async def test_who_leads_or_waits_is_told_when_the_store_is_damaged(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        async with make("a") as node:
            election = node.election()
            working = asyncio.create_task(election.run(wait_for_ever))
            await until(lambda: election.leaderships)
            waiting = asyncio.create_task(lead(election))
            with blocked(tmp_path / "a"):
                node.election("another").contend()
                await until(lambda: node.host.trouble)
                (tmp_path / "a" / "electorate.db").write_bytes(b"promises, promises\n" * 1000)
            for one in (working, waiting):
                with pytest.raises(LeadershipLost, match="its store failed"):
                    await one
            with pytest.raises(LeadershipLost, match="'main' is not won: its store failed"):
                await lead(election)
            with pytest.raises(LeadershipLost, match="'new' is not won: its store failed"):
                node.election("new").contend()
            assert [view.id async for view in election.watch()] == []


def test_threads_that_lead_or_wait_are_told_when_the_store_is_damaged(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make, sync.Node("a", **make.arguments("a")) as node:
        leads, ends = threading.Event(), list[BaseException]()

        def work(lead: sync.Leadership) -> None:
            leads.set()
            lead.lost.wait(BOUND)

        def run() -> None:
            try:
                node.election().run(work)
            except LeadershipLost as lost:
                ends.append(lost)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert leads.wait(BOUND)
        with blocked(tmp_path / "a"):
            (tmp_path / "a" / "electorate.db").write_bytes(b"promises, promises\n" * 1000)
            node.election("another").contend()
        for thread in threads:
            thread.join(BOUND)
        assert [str(lost).partition(": ")[2] for lost in ends] == ["its store failed"] * 2


async def return_term(lead: Leadership) -> int:
    return lead.term


async def wait_for_ever(_: Leadership) -> None:
    await asyncio.Event().wait()


async def lead(election: EmbeddedElection) -> None:
    async with election.leadership():
        raise AssertionError("never reached")
