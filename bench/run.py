"""`make bench`: how fast the simulator is, and how long a cluster of real processes is without a leader.

Speeds depend on the machine; compare ratios within one run, and medians of failover between runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from electorate.cli.plan import plan, reserved_ports
from electorate.core.model import Member, Membership, Settings
from electorate.sim.faults import ids, plan_for
from electorate.sim.run import storm
from electorate.sim.world import Plan, World

ALGORITHMS = ("raft", "bully", "ring", "zab")


def steady(nodes: int, seconds: float) -> float:
    """Protocol events (messages and timers given to a node) per second of a settled Raft cluster."""
    membership = Membership(tuple(Member(id) for id in ids(nodes)))
    world = World(Plan(membership=membership, settings=Settings()), 1)
    world.start()
    started = time.perf_counter()
    world.run(seconds)
    return world.handled / (time.perf_counter() - started)


def hostile(algorithm: str, seconds: float) -> float:
    """The same under faults, elections and invariants included."""
    settings = Settings(algorithm=algorithm)  # type: ignore[arg-type]
    started = time.perf_counter()
    world = storm(plan_for("hostile", 1, 5, settings), 1, "hostile", seconds)
    assert not world.violations
    return world.handled / (time.perf_counter() - started)


def thousand(algorithm: str) -> tuple[float, int]:
    """Wall seconds until a thousand nodes agree on a leader, and the messages it took."""
    plan = plan_for("calm", 1, 1000, Settings(algorithm=algorithm))  # type: ignore[arg-type]
    world = World(plan, 1)
    started = time.perf_counter()
    world.start()
    while not (world.holders("main") and world.agreed_leader("main")):
        world.run(world.now + 0.05)
        assert world.now < 60
    return time.perf_counter() - started, sum(world.sent.values())


def measured(what: str, fault: str, trials: int, *options: str) -> str:
    """What `elect bench failover` or `elect bench run` says: milliseconds, median (p95)."""
    command = [sys.executable, "-m", "electorate.cli.main", "bench", what, "--json", "--fault", fault]
    words = ["--trials", str(trials), *options]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    figures = f"{1000 * result['median_s']:7.1f} ({1000 * result['p95_s']:.1f})"
    return f"{fault:9} {figures}, {result['violations']} violations"


@contextmanager
def three(elections: int = 1, http: bool = False) -> Iterator[list[Process]]:
    """Three real processes that hold so many elections, and can be asked for metrics."""
    with reserved_ports(6) as ports, tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        Path(directory, "cluster.toml").write_text(plan("raft", 3, beat=0.1).toml(ports[:3]))
        names = {"ELECTORATE_ELECTIONS": ",".join(f"e{number}" for number in range(elections))}
        node = [sys.executable, "-m", "electorate.cli.main", "node", "--config", "cluster.toml", "--id"]
        processes = []
        for id, port in zip("abc", ports[3:], strict=True):
            address = {"ELECTORATE_HTTP_ADDRESS": f"127.0.0.1:{port}"} if http else {}
            environment = {**os.environ, **names, **address}
            running = subprocess.Popen([*node, id], cwd=directory, stderr=subprocess.DEVNULL, env=environment)
            stack.callback(running.wait)
            stack.callback(running.kill)
            processes.append(Process(running, f"http://127.0.0.1:{port}/metrics?series=0"))
        yield processes


class Process(NamedTuple):
    running: subprocess.Popen[bytes]
    metrics: str

    @property
    def leads(self) -> int:
        """In how many elections it leads with a lease."""
        try:
            with urllib.request.urlopen(self.metrics, timeout=10) as answer:
                [line] = [line for line in answer if line.startswith(b"electorate_elections_led ")]
        except OSError:
            return 0
        return int(float(line.split()[1]))


def tell_idle(processes: list[Process], seconds: float = 30.0) -> None:
    """Each node of a settled cluster, left alone: the busiest comes first."""
    ids = [process.running.pid for process in processes]
    before = [processor_time(pid) for pid in ids]
    time.sleep(seconds)
    shares = [100 * (processor_time(pid) - then) / seconds for pid, then in zip(ids, before, strict=True)]
    for percent, megabytes in sorted(zip(shares, map(resident, ids), strict=True), reverse=True):
        print(f"  {percent:5.2f} % of a core, {megabytes:5.1f} MB")


def until_led(processes: list[Process], elections: int) -> float:
    """Seconds until these lead so many elections; to ask oftener would slow them down."""
    started = time.perf_counter()
    while sum(process.leads for process in processes) < elections:
        time.sleep(0.2)
    return time.perf_counter() - started


def processor_time(pid: int) -> float:
    """Seconds that the process has had of any core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Megabytes of memory, what is shared with other processes included."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


def main() -> None:
    print("three real processes, idle for 30 s")
    with three() as processes:
        time.sleep(3)
        tell_idle(processes)
    elections = 10_000
    with three(elections, http=True) as processes:
        print(f"the same with HTTP and {elections:,} elections, all led after", end=" ", flush=True)
        print(f"{until_led(processes, elections):.1f} s")
        time.sleep(3)
        tell_idle(processes)
        busiest = max(processes, key=lambda process: process.leads)
        led = busiest.leads
        busiest.running.kill()
        left = [process for process in processes if process is not busiest]
        print(f"  kill one that leads {led:,}: all led again after {until_led(left, elections):.1f} s")
    print("simulator, events/s on one core")
    print(f"  raft, 5 nodes, calm             {max(steady(5, 400.0) for _ in range(3)):12,.0f}")
    for algorithm in ALGORITHMS:
        print(f"  {algorithm:6} 5 nodes, hostile         {hostile(algorithm, 60.0):12,.0f}")
    print("a thousand nodes, seconds until all agree")
    for algorithm in ("bully", "ring", "zab"):
        seconds, messages = thousand(algorithm)
        print(f"  {algorithm:6} {seconds:6.1f} s, {messages:,} messages")
    print("real processes, 3 nodes on loopback, milliseconds without an agreed leader: median (p95)")
    faults = (("kill", 20), ("stop", 5), ("term", 20), ("transfer", 20))
    for algorithm in ALGORITHMS:
        for fault, trials in faults:
            print(f"  {algorithm:6} {measured('failover', fault, trials, '--algorithm', algorithm)}")
    for fault, trials in faults:
        print(f"  raft, TLS {measured('failover', fault, trials, '--tls')}")
    print("elect run, milliseconds without a command; freeze: for which the frozen one still ran")
    for fault in ("kill", "stop", "term", "child", "guardian", "freeze"):
        print(f"  {measured('run', fault, 10)}")


if __name__ == "__main__":
    main()
