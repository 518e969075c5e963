"""What goes over the wire: length-prefixed msgpack frames, and the greeting that opens a connection.

    dialler                                     acceptor
    Greeting(cluster, node, to, life)
                                                Welcome(life)  or  Refused(reason, known)
    messages of the core, until it breaks       nothing more

A frame is four bytes of length (big-endian) and one message. The decoder is fed bytes and yields
messages; whatever is not one of them raises `WireError`, and the connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from electorate.core.bully import Alive, Election, Victory
from electorate.core.model import (
    Accept,
    Beat,
    Follow,
    Lead,
    Message,
    NodeId,
    Recall,
    Recalled,
    Refuse,
    Resign,
    Support,
)
from electorate.core.raft import Grant, PreVote, RequestVote
from electorate.core.ring import Ack, Coordinator, Echo, Probe, Token
from electorate.core.zab import FollowerInfo, LeaderInfo, Notification

PROTOCOL = 1
FRAME_LIMIT = 1 << 20
"""The longest frame, in bytes."""
GREETING_LIMIT = 4096
"""The longest frame that a stranger may send."""

Word: TypeAlias = (
    Beat
    | Support
    | Recall
    | Recalled
    | Accept
    | Refuse
    | Lead
    | Follow
    | Resign
    | Election
    | Alive
    | Victory
    | Token
    | Coordinator
    | Ack
    | Probe
    | Echo
    | PreVote
    | RequestVote
    | Grant
    | Notification
    | FollowerInfo
    | LeaderInfo
)
"""Every message of the core."""


Incarnation: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
"""Bounded, because the number of a beat bears it in its upper half."""


class Life(NamedTuple):
    """One process of a node. `birth` is drawn at random when it starts: two lives with the same incarnation
    are two processes, of which one does not know what the other has promised. `store` is drawn when the
    store is made: another one is another memory, believed only if it has asked a quorum what it had
    promised, or is about to (`rejoining`)."""

    incarnation: Incarnation
    birth: int
    store: int = 0
    rejoining: bool = False

    def may_follow(self, earlier: Life) -> bool:
        """Whether this can be a later life of the same node, or the same life."""
        if self.incarnation <= earlier.incarnation:
            return self == earlier
        return self.store == earlier.store or self.rejoining


class Greeting(msgspec.Struct, frozen=True, tag=True):
    """Who dials, whom it means, and in which life."""

    protocol: int
    cluster: str
    node: NodeId
    to: NodeId
    life: Life


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Who answers, in which life, and what its user wants others to know of it."""

    life: Life
    metadata: dict[str, str] = {}


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why the greeting is not accepted; `known` is the newest incarnation of the dialler that was met."""

    reason: str
    known: Annotated[int, msgspec.Meta(ge=0, lt=2**31 - 1)] = 0


class WireError(Exception):
    """The bytes are not what a peer would send."""


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def frame(content: Message | Greeting | Welcome | Refused) -> bytes:
    body = _encoder.encode(content)
    return len(body).to_bytes(4) + body


class Decoder(Generic[T]):
    """Turns a stream of bytes into frames of one type; holds no more than one frame that is incomplete."""

    def __init__(self, type: type[T], limit: int) -> None:
        self.decoder = msgspec.msgpack.Decoder(type)
        self.limit = limit
        self.buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The frames that are complete now. Raises `WireError` for one that is too long or malformed."""
        self.buffer += data
        while (content := self.next()) is not None:
            yield content

    def next(self) -> T | None:
        """Take one complete frame out of the buffer, if there is one."""
        if len(self.buffer) < 4:
            return None
        length = int.from_bytes(self.buffer[:4])
        if length > self.limit:
            raise WireError(f"a frame of {length} bytes, more than {self.limit}")
        if len(self.buffer) < 4 + length:
            return None
        body = bytes(self.buffer[4 : 4 + length])
        del self.buffer[: 4 + length]
        return self.decode(body)

    def decode(self, body: bytes) -> T:
        try:
            return self.decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise WireError(f"a malformed frame: {error}") from None


def messages() -> Decoder[Word]:
    return Decoder(Word, FRAME_LIMIT)  # type: ignore[arg-type]


def greetings() -> Decoder[Greeting]:
    return Decoder(Greeting, GREETING_LIMIT)


def answers() -> Decoder[Welcome | Refused]:
    return Decoder(Welcome | Refused, GREETING_LIMIT)  # type: ignore[arg-type]
