"""What cluster to run on this machine, from the options that a user gave."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from electorate.errors import UserError, hint

CLUSTER = "up"
ELECTION = "main"
ALGORITHMS = ("bully", "ring", "raft", "zab")
QUORUMS = ("majority", "weighted", "hierarchical")
MOST_NODES = 26
HOST = "127.0.0.1"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster to run. `lease` and `beat` are seconds."""

    algorithm: str = "raft"
    nodes: int = 3
    lease: float = 0.5
    beat: float = 0.1
    quorum: str = "majority"
    tls: bool = False
    """Between the nodes, with certificates in the directory `certs`."""

    @property
    def ids(self) -> list[str]:
        return [chr(ord("a") + i) for i in range(self.nodes)]

    @property
    def favourite(self) -> str | None:
        """Who takes over whenever it is there, if the algorithm is of that kind."""
        return self.ids[-1] if self.algorithm == "bully" else None

    @property
    def bound(self) -> float:
        """Seconds after which whatever has not happened will not happen."""
        return 20 * self.lease + 5

    def toml(self, ports: list[int]) -> str:
        head = [
            f'cluster = "{CLUSTER}"',
            f'algorithm = "{self.algorithm}"',
            f'elections = ["{ELECTION}"]',
            f'quorum = "{self.quorum}"',
            f"[timing]\nlease = {self.lease}\nbeat = {self.beat}",
        ]
        if self.tls:
            files = {"ca": "ca.pem", "cert": "{id}.pem", "key": "{id}.key"}
            head += ["[tls]", *(f'{key} = "certs/{file}"' for key, file in files.items())]
        nodes = [f'[nodes.{id}]\naddress = "{HOST}:{port}"' for id, port in zip(self.ids, ports, strict=True)]
        return "\n".join([*head, *nodes, ""])


def plan(
    algorithm: str,
    nodes: int,
    lease: float | None = None,
    beat: float | None = None,
    quorum: str = "majority",
    tls: bool = False,
) -> Plan:
    """The plan that a user's options ask for. Raises UserError if they make no sense."""
    if algorithm not in ALGORITHMS:
        raise UserError(
            f"there is no algorithm '{algorithm}'; {hint(algorithm, ALGORITHMS, 'choose one of')}"
        )
    if quorum not in QUORUMS:
        raise UserError(f"there is no quorum '{quorum}' here; {hint(quorum, QUORUMS, 'choose one of')}")
    if not 2 <= nodes <= MOST_NODES:
        raise UserError(f"--nodes {nodes} makes no election; a local cluster has 2 to {MOST_NODES} nodes")
    lease = lease if lease is not None else Plan().lease
    beat = beat if beat is not None else min(Plan().beat, lease / 5)
    if lease <= 0 or beat <= 0:
        raise UserError("--lease and --beat are seconds and must be more than 0")
    if beat >= lease / 3:
        raise UserError(
            f"--beat {beat:g} is too long for a lease of {lease:g} s: "
            f"make it shorter than a third, {lease / 3:.3g}, so that a leader survives the loss of two beats"
        )
    return Plan(algorithm=algorithm, nodes=nodes, lease=lease, beat=beat, quorum=quorum, tls=tls)


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports for our nodes alone: on Linux one that is bound so, but not listened on, can be listened on by a
    node and is given to nobody else. (Elsewhere they are merely free now.)

    They are below those that the system lends to outgoing connections: a dial could borrow the port of a
    node that is down."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            candidate = held.enter_context(socket.socket())
            with suppress(OSError):
                candidate.bind((HOST, random.randint(10_000, 30_000)))
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                ports.append(candidate.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield ports
