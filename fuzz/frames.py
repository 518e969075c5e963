"""Any bytes of a member: frames or a `WireError`; and the core takes whatever they say without an exception.

The first byte chooses the algorithm, the second how the rest is cut into reads. What was found is told with
the file that repeats it: `python -m fuzz.frames FILE`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["electorate"]):
    from electorate.core.model import Member, Membership, Settings
    from electorate.core.node import Node
    from electorate.core.outbox import Outbox
    from electorate.runtime.wire import WireError, encode, messages

SETTINGS = tuple(Settings(algorithm=name) for name in ("bully", "ring", "raft", "zab"))
PEERS = ("a", "b")


class Silent:
    """A driver whose disk is quick and whose network says nothing."""

    def __init__(self) -> None:
        self.outbox = Outbox(self)

    def save(self, records: object) -> None:
        pass

    def nothing(self, *_: object) -> None:
        pass

    transmit = arm = disarm = announce = notify = nothing


def take(data: bytes) -> None:
    if len(data) < 2:
        return
    node = Node("c", Membership(tuple(map(Member, "abc"))), SETTINGS[data[0] % 4])
    outbox = Silent().outbox
    outbox.perform(node.start(0.0))
    for peer in PEERS:
        outbox.perform(node.connected(0.0, peer, 1))
    outbox.perform(node.contend(0.0, "main"))
    decoder, size, now = messages(), data[1] + 1, 0.0
    try:
        for at in range(2, len(data), size):
            for message in decoder.feed(data[at : at + size]):
                encode(message)
                now += 0.01
                outbox.perform(node.receive(now, PEERS[at % 2], message))
                if outbox.committing:
                    outbox.saved()
    except WireError:
        pass
    assert len(decoder.buffer) <= (1 << 20) + 4
    hash(node.state())


if __name__ == "__main__":
    atheris.Setup(sys.argv, take)
    atheris.Fuzz()
