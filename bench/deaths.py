"""`python -m bench.deaths`: what each `proof_of_death` makes of deaths, and of what only looks like one.

Three real nodes, each in a network namespace of its own (so this is for root on Linux, with `ip` and `nft`),
with a lease of a second and a secret. Something befalls the leader, and what the nodes report tells how long
it took until another had a lease, and how long two had one. Told is the median and the worst of the trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from electorate.cli.safety import Ledger
from electorate.cli.torture.fabric import Fabric, ip
from electorate.runtime.clock import now
from electorate.runtime.secret import new

MODES = ("attested", "refused", "none")
IDS = ["a", "b", "c"]
LEADER = "c"
PORT = 7400
ELSEWHERE = "10.73.0.250"
"""The address of another machine, which refuses, or has a proxy."""
LEASE = 1.0
WATCHED = 2.5 * LEASE
"""So long the nodes are watched after the fault."""
BOUND = 30.0
TABLE = Path("/etc/netns")
"""Where `ip netns exec` finds the names that are known in a namespace."""

PROXY = """
import asyncio, sys
async def serve(reader, writer):
    try:
        there, onward = await asyncio.open_connection(sys.argv[2], 7400)
        async def pump(source, sink):
            while data := await source.read(65536):
                sink.write(data)
            sink.close()
        await asyncio.gather(pump(reader, onward), pump(there, writer))
    except OSError:
        pass
    finally:
        writer.close()
async def main():
    async with await asyncio.start_server(serve, sys.argv[1], 7400) as server:
        print("ready", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


class Result(NamedTuple):
    next_leader: float | None
    """Seconds until another had a lease."""
    both: float
    """Seconds in which two had one."""


class Trial:
    """Three nodes, and what they have said."""

    def __init__(self, directory: Path, fabric: Fabric, mode: str) -> None:
        self.directory = directory
        self.fabric = fabric
        self.mode = mode
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ledger = Ledger()
        self.leader: dict[str, str | None] = {}
        self.heard = threading.Condition()
        self.held = contextlib.ExitStack()

    def __enter__(self) -> Trial:
        secret = self.directory / "secret"
        secret.touch(0o600)
        secret.write_text(new())
        nodes = "".join(f'[nodes.{id}]\naddress = "{id}.test:{PORT}"\n' for id in IDS)
        (self.directory / "cluster.toml").write_text(
            f'cluster = "deaths"\nsecret_file = "secret"\nproof_of_death = "{self.mode}"\n'
            f"[timing]\nlease = {LEASE}\nbeat = {LEASE / 10}\n{nodes}"
        )
        for id in IDS:
            self.names(id)
        ip("-n", self.fabric.switch, "address", "add", f"{ELSEWHERE}/24", "dev", "switch")
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes.values():
            process.wait()
        for id in IDS:
            shutil.rmtree(TABLE / self.fabric.namespace(id), ignore_errors=True)

    def names(self, id: str, **other: str) -> None:
        """What names mean to this node."""
        means = {peer: other.get(peer, self.fabric.address(peer)) for peer in IDS}
        place = TABLE / self.fabric.namespace(id) / "hosts"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = "127.0.0.1 localhost\n" + "".join(f"{at} {peer}.test\n" for peer, at in means.items())
        with place.open("r+" if place.exists() else "w") as file:  # the very file, which is mounted there
            file.write(text)
            file.truncate()

    def elsewhere(self, to: str = ELSEWHERE) -> None:
        """To the others the name of the leader means this address."""
        for id in self.others:
            self.names(id, **{LEADER: to})

    @property
    def others(self) -> list[str]:
        return [id for id in IDS if id != LEADER]

    def start(self) -> None:
        for id in IDS:
            elect = (sys.executable, "-m", "electorate", "node", "--attach", "--log-level", "error")
            options = ("--config", "cluster.toml", "--id", id, "--data", id)
            self.processes[id] = process = subprocess.Popen(
                [*self.fabric.inside(id), *elect, *options],
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            threading.Thread(target=self.listen, args=(process,), daemon=True).start()
        self.until(
            lambda: (
                len(self.leader) == 3
                and None not in self.leader.values()
                and len(set(self.leader.values())) == 1
            )
        )
        leader = next(iter(self.leader.values()))
        if leader != LEADER:
            self.say(str(leader), f"transfer {LEADER}")
            self.until(lambda: set(self.leader.values()) == {LEADER})

    def say(self, id: str, words: str) -> None:
        pipe = self.processes[id].stdin
        assert pipe
        pipe.write(words.encode() + b"\n")
        pipe.flush()

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            with self.heard:
                self.hear(json.loads(line))
                self.heard.notify_all()

    def hear(self, said: dict[str, Any]) -> None:
        id = said["node"]
        if said["event"] == "view":
            self.leader[id] = said["leader"]
        elif said["event"] == "lease":
            self.ledger.lease(id, "main", said["term"], said["until"], said["t"])

    def until(self, condition: Callable[[], object]) -> None:
        with self.heard:
            if not self.heard.wait_for(condition, BOUND):
                raise SystemExit(f"nothing came of it within {BOUND:g} s: {self.leader}")

    # --- what befalls the leader

    def kill(self) -> None:
        self.processes[LEADER].kill()

    def stop(self) -> None:
        self.processes[LEADER].send_signal(signal.SIGSTOP)

    def firewall(self) -> None:
        """Whatever is sent to the leader is answered by a reset."""
        self.reject("incoming", "iif net meta l4proto tcp")

    def firewall_both_ways(self) -> None:
        self.firewall()
        self.reject("outgoing", "oif net meta l4proto tcp")

    def reject(self, chain: str, what: str) -> None:
        rule = f"{what} reject with tcp reset"
        self.fabric.nft(LEADER, "add", "rule", "ip", "torture", chain, *rule.split())

    def break_connections(self) -> None:
        """What stands is broken; new ones can be made."""
        self.reject("incoming", "iif net tcp flags & (syn | rst) == 0")
        time.sleep(0.25 * LEASE)
        self.fabric.nft(LEADER, "flush", "chain", "ip", "torture", "incoming")

    def move_name(self) -> None:
        self.elsewhere()
        self.break_connections()

    def flip_name(self) -> None:
        over = threading.Event()

        def flip() -> None:
            while not over.wait(0.02):
                self.elsewhere()
                over.wait(0.02)
                self.elsewhere(self.fabric.address(LEADER))

        flipping = threading.Thread(target=flip)
        flipping.start()
        self.held.callback(flipping.join)
        self.held.callback(over.set)
        self.break_connections()

    def move_address(self) -> None:
        """Another machine has it now, and refuses."""
        namespace, address = self.fabric.namespace(LEADER), self.fabric.address(LEADER)
        ip("-n", namespace, "address", "add", "10.73.0.103/24", "dev", "net")
        ip("-n", namespace, "address", "delete", f"{address}/24", "dev", "net")
        ip("-n", self.fabric.switch, "address", "add", f"{address}/24", "dev", "switch")
        for id in self.others:
            ip("-n", self.fabric.namespace(id), "neigh", "flush", "all")

    def proxy(self) -> None:
        """Before they start: to the others the leader is behind a proxy."""
        self.elsewhere()
        self.relay = subprocess.Popen(
            ["ip", "netns", "exec", self.fabric.switch, sys.executable, "-c", PROXY, ELSEWHERE]
            + [self.fabric.address(LEADER)],
            stdout=subprocess.PIPE,
        )
        assert self.relay.stdout
        self.relay.stdout.readline()
        self.held.callback(self.relay.wait)
        self.held.callback(self.relay.kill)

    def kill_proxy(self) -> None:
        self.relay.kill()


def nothing(trial: Trial) -> None:
    return None


FAULTS: dict[str, tuple[Callable[[Trial], None], Callable[[Trial], None], bool]] = {
    "`kill -9`": (nothing, Trial.kill, True),
    "SIGSTOP": (nothing, Trial.stop, False),
    "a firewall rejects what is sent to it": (nothing, Trial.firewall, False),
    "a firewall rejects both ways": (nothing, Trial.firewall_both_ways, False),
    "its name means another address, which refuses": (nothing, Trial.move_name, False),
    "its name flips between the two": (nothing, Trial.flip_name, False),
    "another machine has its address, and refuses": (nothing, Trial.move_address, False),
    "`kill -9` behind a proxy": (Trial.proxy, Trial.kill, True),
    "the proxy before it dies": (Trial.proxy, Trial.kill_proxy, False),
}
"""What is done before they start, what befalls the leader, and whether it is dead then."""


def run(mode: str, fault: str) -> Result:
    before, befall, dies = FAULTS[fault]
    with (
        TemporaryDirectory() as directory,
        Fabric(IDS) as fabric,
        Trial(Path(directory), fabric, mode) as trial,
    ):
        before(trial)
        trial.start()
        time.sleep(LEASE)
        at = now()
        befall(trial)
        time.sleep(WATCHED)
        with trial.heard:
            if dies:
                trial.ledger.died(LEADER, at)
            return judge(trial.ledger, at)


def judge(ledger: Ledger, at: float) -> Result:
    """What came of what happened then."""
    ended = max(claim.end for claim in ledger.claims if claim.node == LEADER and claim.start < at)
    begun = [claim for claim in ledger.claims if claim.node != LEADER and claim.start > at]
    if not begun:
        return Result(None, 0.0)
    return Result(begun[0].start - at, max(0.0, ended - begun[0].start))


def cell(results: list[Result]) -> str:
    """ "0.6 ms", or "0.9 s; two leases for 0.8 s", or that nothing came of it."""
    times = [result.next_leader for result in results if result.next_leader is not None]
    both = [result.both for result in results]
    if len(times) < len(results):
        told = f"goes on leading ({len(results) - len(times)} of {len(results)})"
        told += f", or {span(times)}" if times else ""
    else:
        told = span(times)
    return f"{told}; **two leases for {max(both):.2f} s**" if max(both) else told


def span(times: list[float]) -> str:
    middle = statistics.median(times)
    scale, unit = (1000, "ms") if middle < 0.1 else (1, "s")
    return f"{middle * scale:.3g} {unit} ({max(times) * scale:.3g})"


def rows(trials: int, faults: list[str]) -> Iterator[str]:
    yield "| what befalls the leader | " + " | ".join(f'`"{mode}"`' for mode in MODES) + " |"
    yield "|---|" + "---|" * len(MODES)
    for fault in faults:
        results = [[run(mode, fault) for _ in range(trials)] for mode in MODES]
        yield f"| {fault} | " + " | ".join(map(cell, results)) + " |"


def main() -> None:
    if os.geteuid() or not (shutil.which("ip") and shutil.which("nft")):
        raise SystemExit("bench.deaths makes network namespaces: run it as root, on Linux, with ip and nft")
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    for row in rows(trials, [fault for fault in FAULTS if wanted in fault]):
        print(row, flush=True)


if __name__ == "__main__":
    main()
