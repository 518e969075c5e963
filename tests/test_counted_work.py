"""Threads and commands that a body begins: the leadership is not given away before they have ended."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from electorate import Leadership, LeadershipLost, Loss
from tests.api_nodes import Log, cluster, nodes, program, told_overrun
from tests.runtime_hosts import in_loop, until

BOUND = 30.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@in_loop
async def test_a_transfer_waits_for_a_thread(tmp_path: Path) -> None:
    log = Log()
    async with cluster(tmp_path) as of:

        async def lead() -> None:
            async with of["a"].leadership() as lead:

                def step() -> None:
                    with log.work("a"):
                        assert lead.ended.wait(BOUND)
                        time.sleep(0.2)

                await lead.to_thread(step)

        async def inherit() -> None:
            async with of["b"].leadership():
                with log.work("b"):
                    pass

        first = asyncio.create_task(lead())
        await until(lambda: log.spans)
        heir = asyncio.create_task(inherit())
        await until(lambda: "b" in of["a"].node.host.node.leading["main"].contenders)
        assert (await of["a"].transfer("b")).id == "b"
        with pytest.raises(LeadershipLost):
            await first
        await heir
    assert [span[2] for span in log.spans] == ["a", "b"]
    assert log.overlaps() == []


@in_loop
async def test_leaving_a_body_waits_for_what_it_has_begun(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        ended = list[bool]()

        async def begin_late(lead: Leadership) -> None:
            await until(lambda: lead.left)
            assert of["a"].is_leader
            with pytest.raises(LeadershipLost, match="its work is done"):
                await lead.run("true")

        async def begin() -> None:
            async with of["a"].leadership() as lead:

                def step() -> str:
                    assert lead.ended.wait(BOUND)
                    time.sleep(0.1)
                    ended.append(of["a"].is_leader)
                    return "nobody asks"

                waiting = asyncio.create_task(lead.to_thread(step))
                late = asyncio.create_task(begin_late(lead))
                running = asyncio.create_task(lead.run("sleep", "60"))
                await until(lambda: len(lead.works) == 2)
                waiting.cancel()
            assert ended == [True], "it led until its thread had ended"
            assert await running == -signal.SIGTERM
            await late
            with pytest.raises(LeadershipLost, match="its work is done"):
                await lead.to_thread(time.sleep, 0)
            with pytest.raises(LeadershipLost, match="its work is done"):
                await lead.run("true")

        await begin()
        assert not of["a"].is_leader


@in_loop
async def test_one_who_is_cancelled_while_it_leaves_waits_all_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        may_end, ended = threading.Event(), list[bool]()

        def step() -> None:
            assert may_end.wait(BOUND)
            ended.append(of["a"].is_leader)

        async def lead() -> None:
            async with of["a"].leadership() as lead:
                asyncio.create_task(lead.to_thread(step)).add_done_callback(lambda task: task.exception())
                await until(lambda: lead.works)

        leading = asyncio.create_task(lead())
        await until(lambda: any(lead.left for lead in of["a"].leaderships))
        leading.cancel()
        await asyncio.sleep(0.05)
        assert not leading.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await leading
        assert ended == [True]


@in_loop
async def test_results_and_errors_come_through(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        async with of["a"].leadership() as lead:
            assert await lead.to_thread(divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await lead.to_thread(divmod, 7, 0)
            assert await lead.run("sh", "-c", "exit 3") == 3
            with pytest.raises(FileNotFoundError):
                await lead.run("no-such-command")
            await until(lambda: not lead.works)
        assert lead.reason is None


@in_loop
async def test_work_is_told_and_killed_before_the_lease_can_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(tmp_path) as make:
        async with make("a") as node:
            election, seen, pid = node.election(), dict[str, bool](), tmp_path / "pid"
            others = AsyncExitStack()
            for id in "bc":
                await others.enter_async_context(make(id))

            async def run(name: str, *command: str) -> None:
                code = await lead.run(*command)
                seen[f"{name} {code}"] = election.is_leader

            def step() -> None:
                assert lead.ended.wait(BOUND)
                seen["thread"] = election.is_leader

            with pytest.raises(LeadershipLost) as lost:
                async with election.leadership(grace=0.6) as lead:
                    works = [asyncio.create_task(run("polite", "sleep", "60"))]
                    stubborn = "trap '' TERM; echo $$ >$0; sleep 60 & while :; do sleep 60; done"
                    works.append(asyncio.create_task(run("stubborn", "sh", "-c", stubborn, str(pid))))
                    works.append(asyncio.create_task(lead.to_thread(step)))
                    await until(lambda: pid.exists() and pid.read_text())
                    await others.aclose()
                    await asyncio.Event().wait()
            assert lost.value.reason is Loss.EXPIRED
            await asyncio.wait(works)
            assert seen == {"polite -15": True, "stubborn -9": True, "thread": True}
            assert "goes on though" not in caplog.text, "it was killed before that"


@in_loop
async def test_work_is_told_though_the_loop_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with told_overrun() as told:
        async with cluster(tmp_path, "ab") as of:
            led, pid = list[bool](), tmp_path / "pid"
            with pytest.raises(LeadershipLost) as lost:
                async with of["a"].leadership(grace=0.6) as lead:

                    def ignore_the_end() -> None:
                        assert lead.ended.wait(BOUND)
                        led.append(of["a"].is_leader)
                        assert told.wait(BOUND)

                    thread = asyncio.create_task(lead.to_thread(ignore_the_end))
                    command = asyncio.create_task(
                        lead.run(
                            "sh", "-c", "trap '' TERM; echo $$ >$0; while :; do sleep 60; done", str(pid)
                        )
                    )
                    await until(lambda: pid.exists() and pid.read_text())
                    assert told.wait(BOUND), "the loop hangs"
                    assert lead.ended.is_set()
                    assert not alive(int(pid.read_text()))
                    await asyncio.sleep(0)
            assert lost.value.reason is Loss.EXPIRED
            assert led == [True]
            assert await command == -signal.SIGKILL
            await thread
    assert "ignore_the_end" in caplog.text and "test_work_is_told_though_the_loop_hangs" in caplog.text


@in_loop
async def test_a_command_has_its_time_while_the_lease_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of:
        async with of["a"].leadership() as lead:
            stubborn = ("sh", "-c", "trap '' TERM; echo $$ >$0; while :; do sleep 60; done")
            running = asyncio.create_task(lead.run(*stubborn, str(tmp_path / "pid"), stop_timeout=0.2))
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not alive(int((tmp_path / "pid").read_text()))
            lead.check()
            obliging = "trap 'sleep 0.3; exit 5' TERM; echo $$ >$0; while :; do sleep 0.01; done"
            running = asyncio.create_task(lead.run("sh", "-c", obliging, str(tmp_path / "other")))
            await until(lambda: (tmp_path / "other").exists() and (tmp_path / "other").read_text())
        assert await running == 5


@in_loop
async def test_what_a_command_leaves_behind_in_its_group_ends_with_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as of, of["a"].leadership() as lead:
        left = tmp_path / "left"
        assert await lead.run("sh", "-c", "sleep 60 & echo $! >$0", str(left)) == 0
        await until(lambda: not alive(int(left.read_text())))


@in_loop
async def test_a_process_that_ends_because_of_overrun_takes_its_commands_along(tmp_path: Path) -> None:
    body = """
            pid = sys.argv[3] + "/pid"
            asyncio.create_task(lead.run("sh", "-c", "trap '' TERM; echo $$ >$0; while :; do sleep 60; done", pid))
            while not (os.path.exists(pid) and os.path.getsize(pid)):
                await asyncio.sleep(0.01)
            print(open(pid).read(), end="", flush=True)
            time.sleep(60)"""
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", body) as process:
                assert process.stdout
                lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(2)]
                pid = int(lines[1])
                async with other.election().leadership():
                    assert process.poll() is not None and not alive(pid)
                process.communicate()
                assert process.returncode == 70


@in_loop
async def test_a_log_that_blocks_keeps_no_process_alive(tmp_path: Path) -> None:
    body = """
            class Stuck(logging.Handler):
                def emit(self, record):
                    threading.Event().wait()
            logging.getLogger().addHandler(Stuck())
            time.sleep(60)"""
    with nodes(tmp_path) as make:
        async with make("b") as other, make("c"):
            with program(make, "a", body) as process:
                await until(lambda: other.election().leader)
                async with other.election().leadership():
                    assert process.poll() is not None, "it has ended before"
                process.communicate()
                assert process.returncode == 70
