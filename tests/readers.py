"""Readers that ask a node for long pages of its elections as fast as they get them, in a process of their own;
and how late the beats of the node are meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from electorate.core.model import NodeId
from electorate.runtime.clock import now
from electorate.runtime.host import Host

ASK = b"GET /elections?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Answers:
    count = 0


async def read(port: int, answers: Answers) -> None:
    """Ask again and again; who is refused or cut off calls again."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(ASK)
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                if not head.startswith(b"HTTP/1.1 200 "):
                    break
                answers.count += 1
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.1)


async def read_all(port: int, count: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers = Answers()
    readers = [asyncio.create_task(read(port, answers)) for _ in range(count)]
    await stop.wait()
    for reader in readers:
        reader.cancel()
    print(answers.count)


@contextmanager
def readers(port: int, count: int) -> Iterator[Answers]:
    """So many read; how many answers they have had is known at the end."""
    command = [sys.executable, "-m", "tests.readers", str(port), str(count)]
    answers = Answers()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reading:
        try:
            yield answers
        finally:
            reading.terminate()
            answers.count = int(reading.communicate()[0] or 0)


def lateness(host: Host) -> list[float]:
    """By how many seconds each beat from now on leaves later than it should."""
    late: list[float] = []
    last: dict[NodeId, float] = {}
    sent_beat = host.figures.sent_beat

    def measured(to: NodeId) -> None:
        at = now()
        if to in last:
            late.append(at - last[to] - host.config.timing.beat)
        last[to] = at
        sent_beat(to)

    host.figures.sent_beat = measured  # type: ignore[method-assign]
    return late


if __name__ == "__main__":
    asyncio.run(read_all(*map(int, sys.argv[1:])))
