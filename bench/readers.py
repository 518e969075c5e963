"""`python -m bench.readers`: what those who read over HTTP cost the elections.

One real node of three leads a thousand elections, with leases of half a second, and sixty readers ask it for
pages of a thousand elections, as fast as they get them. Told is how late its beats were, without the readers
and with them, how many elections have changed hands, and how long it took to answer `/leader` meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from electorate.cli.node import runner
from electorate.cli.plan import reserved_ports
from electorate.cli.serve import running
from electorate.runtime.config import configure
from electorate.runtime.host import Host
from tests.readers import lateness, readers

READERS = 60
ELECTIONS = 1000
SECONDS = 10.0
LEASE = 0.5


def cluster_file(ports: list[int]) -> str:
    """Node a leads, the others vote."""
    elections = ", ".join(f'"e{number}"' for number in range(ELECTIONS))
    nodes = [f'[nodes.{id}]\naddress = "127.0.0.1:{port}"' for id, port in zip("abc", ports, strict=False)]
    return "\n".join(
        [
            f'cluster = "bench"\nelections = [{elections}]\n[timing]\nlease = {LEASE}\nbeat = {LEASE / 5}',
            f'{nodes[0]}\nhttp = "127.0.0.1:{ports[3]}"',
            *(f'{node}\nkind = "witness"' for node in nodes[1:]),
        ]
    )


@contextmanager
def witnesses(directory: Path) -> Iterator[None]:
    node = [sys.executable, "-m", "electorate.cli.main", "node", "--config", "cluster.toml", "--id"]
    with ExitStack() as stack:
        for id in "bc":
            witness = stack.enter_context(
                subprocess.Popen([*node, id], cwd=directory, stderr=subprocess.DEVNULL, env=os.environ)
            )
            stack.callback(witness.kill)
        yield


async def probe(port: int) -> float:
    """Seconds until `/leader` has been answered."""
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    return asyncio.get_running_loop().time() - began


async def watched(host: Host, port: int) -> None:
    """Tell how a while was."""
    late = lateness(host)
    won = host.figures.elections["won"]
    took = []
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while loop.time() < end:
        took.append(await probe(port))
        await asyncio.sleep(0.05)
    for what, seconds in (("late beats", late), ("/leader took", took)):
        ordered = sorted(seconds)
        middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        figures = f"{1000 * middle:.1f} ms (99 %: {1000 * high:.1f}, most: {1000 * ordered[-1]:.1f})"
        print(f"    {what:13} {figures}")
    print(f"    {host.figures.elections['won'] - won} leaderships ended and were won again", flush=True)


async def measure(directory: Path, port: int) -> None:
    host = Host(configure(directory / "cluster.toml"), "a", directory / "a")
    async with running(host):
        while sum(map(host.is_leader, host.node.elections)) < ELECTIONS:  # noqa: ASYNC110 (of a thousand)
            await asyncio.sleep(0.1)
        print(f"{ELECTIONS} elections, leases of {LEASE:g} s, {SECONDS:g} s long")
        print("  nobody reads")
        await watched(host, port)
        print(f"  {READERS} read pages of {ELECTIONS} elections")
        with readers(port, READERS) as answers:
            await watched(host, port)
        print(f"    {answers.count / SECONDS:.0f} pages/s")


def main() -> None:
    with reserved_ports(4) as ports, TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "cluster.toml").write_text(cluster_file(ports))
        with witnesses(directory), runner() as loop:
            loop.run(measure(directory, ports[3]))


if __name__ == "__main__":
    main()
