"""A network of its own for each node: a namespace, an address, a cable to a switch that can be maltreated.

Nothing of it can be seen from the machine's own network: the switch is in a namespace too. To end it all is
to delete the namespaces. Their names bear the process that made them; those of a process that is gone are
deleted by the next.

    drops     nftables, at the receiver: what comes from a blocked address; at the sender: a share of all
    netem     delay, duplication, reordering, where the kernel has it
    tbf       a rate
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "torture"
NAMESPACES = Path("/run/netns")
PARTITIONS = frozenset({"split", "block", "part"})
RULES = """
table ip torture {
    set blocked { type ipv4_addr; }
    chain incoming { type filter hook input priority 0; ip saddr @blocked drop; }
    chain outgoing { type filter hook output priority 0; }
}
"""


def ip(*words: str) -> None:
    command("ip", *words)


def command(*words: str, given: str = "") -> None:
    """Raises CalledProcessError."""
    subprocess.run(words, input=given, text=True, check=True, capture_output=True)


def works(*words: str) -> bool:
    return bool(shutil.which(words[0])) and not subprocess.run(words, capture_output=True).returncode


class Loopback:
    """All nodes on 127.0.0.1: what can be done to a network cannot be done here."""

    verbs: frozenset[str] = frozenset()
    separate = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def address(self, id: str) -> str:
        return "127.0.0.1"

    def inside(self, id: str) -> tuple[str, ...]:
        """What comes before a command that is to run where this node runs."""
        return ()

    def block(self, a: str, b: str) -> None:
        """Nothing passes from a to b."""

    def open(self, a: str, b: str) -> None: ...

    def heal(self) -> None: ...

    def lose(self, id: str, percent: int) -> None:
        """Of what this node sends, this share is lost."""

    def shape(self, id: str, *discipline: str) -> None:
        """All that this node sends goes through this queueing discipline."""

    def calm(self) -> None: ...


class Fabric(Loopback):
    separate = True

    def __init__(self, ids: Iterable[str]) -> None:
        self.addresses = {id: f"10.73.0.{number}" for number, id in enumerate(ids, 1)}
        self.switch = self.namespace("switch")

    def namespace(self, id: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{id}"

    def __enter__(self) -> Self:
        sweep()
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
            ip("-n", self.switch, "link", "set", "switch", "up")
            for id in self.addresses:
                self.plug_in(id)
        except BaseException:
            self.remove()
            raise
        self.verbs = self.find_verbs()
        return self

    def plug_in(self, id: str) -> None:
        name = self.namespace(id)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "net", "type", "veth", "peer", "name", f"to-{id}", "netns", self.switch)
        ip("-n", name, "address", "add", f"{self.addresses[id]}/24", "dev", "net")
        ip("-n", name, "link", "set", "net", "up")
        ip("-n", self.switch, "link", "set", f"to-{id}", "master", "switch", "up")
        if shutil.which("nft"):
            command(*self.inside(id), "nft", "-f", "-", given=RULES)

    def find_verbs(self) -> frozenset[str]:
        """What this kernel, with these tools, can do to a network."""
        tc = (*self.inside(next(iter(self.addresses))), "tc", "qdisc", "replace", "dev", "lo", "root")
        found = PARTITIONS | {"loss"} if shutil.which("nft") else frozenset()
        if shutil.which("tc"):
            found |= (
                {"rate"} if works(*tc, "tbf", "rate", "1mbit", "burst", "10k", "latency", "1s") else set()
            )
            found |= {"delay", "duplicate", "reorder"} if works(*tc, "netem", "delay", "0ms") else set()
            subprocess.run([*tc[:-3], "del", "dev", "lo", "root"], capture_output=True)
        return frozenset(found)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        for id in ("switch", *self.addresses):
            remove(self.namespace(id))

    def address(self, id: str) -> str:
        return self.addresses[id]

    def inside(self, id: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace(id))

    def nft(self, id: str, *words: str) -> None:
        command(*self.inside(id), "nft", *words)

    def block(self, a: str, b: str) -> None:
        self.nft(b, "add", "element", "ip", "torture", "blocked", "{", self.addresses[a], "}")

    def open(self, a: str, b: str) -> None:
        self.block(a, b)
        self.nft(b, "delete", "element", "ip", "torture", "blocked", "{", self.addresses[a], "}")

    def heal(self) -> None:
        if "block" in self.verbs:
            for id in self.addresses:
                self.nft(id, "flush", "set", "ip", "torture", "blocked")

    def lose(self, id: str, percent: int) -> None:
        drop = f"numgen random mod 100 < {percent} drop"
        self.nft(id, "add", "rule", "ip", "torture", "outgoing", "oif", "net", *drop.split())

    def shape(self, id: str, *discipline: str) -> None:
        command(*self.inside(id), "tc", "qdisc", "replace", "dev", "net", "root", *discipline)

    def calm(self) -> None:
        for id in self.addresses:
            if "loss" in self.verbs:
                self.nft(id, "flush", "chain", "ip", "torture", "outgoing")
            subprocess.run(
                [*self.inside(id), "tc", "qdisc", "del", "dev", "net", "root"], capture_output=True
            )


def sweep() -> None:
    """Remove what a run has left behind that was killed: processes, namespaces and disks."""
    for name in (file.name for file in NAMESPACES.glob(f"{PREFIX}-*-*")):
        if is_left(name):
            remove(name)
    for mount in Path("/proc/mounts").read_text().splitlines():
        source, where, *_ = mount.split()
        if source.startswith(f"{PREFIX}-") and is_left(source):
            subprocess.run(["umount", "--lazy", where], capture_output=True)
            shutil.rmtree(Path(where).parent, ignore_errors=True)


def is_left(name: str) -> bool:
    return not Path(f"/proc/{name.split('-')[1]}").exists()


def remove(name: str) -> None:
    """Delete a namespace, and end whatever runs in it."""
    for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def fabric(ids: list[str]) -> Loopback:
    """Namespaces where the user may make them, loopback elsewhere."""
    return Fabric(ids) if os.geteuid() == 0 and works("ip", "netns", "list") else Loopback()
