"""What goes over the wire: length-prefixed msgpack frames, and the greeting that opens a connection.

    dialler                                     acceptor
    Greeting(versions, cluster, node, to, ...)
                                                Welcome(identity, version, ...)
                                                or  Refused(reason, known, ...)
                                                or, by the guardian of a life that has ended, Exited(start)
    messages of the core, until it breaks       nothing more

A frame is four bytes of length (big-endian) and one message. The decoder is fed bytes and yields
messages; what is malformed raises `WireError`, and the connection is closed; what only a later version knows
is ignored, and told (`Part`). Where the nodes have
certificates, or a secret, all this is said through TLS (`tls`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Generic, NamedTuple, TypeAlias, TypeVar, Union, get_args

import msgspec

from electorate.core.bully import Alive, Election, Victory
from electorate.core.identity import Identity, Start
from electorate.core.model import (
    Accept,
    Beat,
    Floor,
    Follow,
    Grant,
    Lead,
    Message,
    NodeId,
    PreVote,
    Recall,
    Recalled,
    Refuse,
    Resign,
    Support,
    Term,
)
from electorate.core.raft import RequestVote
from electorate.core.ring import Ack, Coordinator, Echo, Probe, Token
from electorate.core.zab import FollowerInfo, LeaderInfo, Notification


class Versions(NamedTuple):
    """Of what is said after the greeting: the oldest that a node speaks, and the newest."""

    oldest: int
    newest: int

    def agree(self, other: Versions) -> int | None:
        """What two nodes speak with each other, if they can: the newest that both know."""
        version = min(self.newest, other.newest)
        return version if version >= max(self.oldest, other.oldest) else None

    def __str__(self) -> str:
        few = f"version {self.newest}"
        return few if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


VERSIONS = Versions(1, 1)
"""What this build speaks. ARCHITECTURE.md says what needs a new one."""
FRAME_LIMIT = 1 << 20
"""The longest frame, in bytes."""
GREETING_LIMIT = 1 << 16
"""The longest frame that a stranger may send: room for what is configured of a hundred nodes."""


MAX_METADATA = 2000
"""What a node tells of itself has so many bytes of UTF-8 at most."""


def size_of(metadata: Mapping[str, str]) -> int:
    """In bytes. Raises `UnicodeEncodeError` for what is no text."""
    return sum(len(text.encode()) for pair in metadata.items() for text in pair)


class How(StrEnum):
    """What came of a wish that was passed on."""

    DONE = "done"
    UNDER_WAY = "under way"
    REFUSED = "refused"
    LAPSED = "it came to nothing in the end"
    ELSEWHERE = "whoever was asked does not lead"


class Ask(Message, frozen=True):
    """A user of mine wishes that you hand this election over to that node (by force, though it is behind), or
    to whoever is next, and do not contend for so many seconds then. Answer within `patience` seconds."""

    number: int
    election: str
    to: NodeId | None
    force: bool
    seconds: float
    patience: float


class Answered(Message, frozen=True):
    """What has come of it, and why; who leads then, as far as I know, and its term, or that in which I led if
    nobody in particular was to lead."""

    number: int
    how: How
    why: str
    leader: NodeId | None
    term: Term


Word: TypeAlias = (
    Beat
    | Support
    | Recall
    | Recalled
    | Floor
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
    | Ask
    | Answered
)
"""Every message of the core, and what users of one node wish of another."""


Incarnation: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
"""Bounded, because the number of a beat bears it in its upper half."""
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Version: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Digests: TypeAlias = dict[str, Annotated[int, msgspec.Meta(ge=0, lt=2**32)]]


class Said(msgspec.Struct, frozen=True):
    """An identity, as it is said; see `core.identity`."""

    start: tuple[Incarnation, Number]
    shown: tuple[Incarnation, Number] | None = None
    rejoining: bool = False

    @classmethod
    def of(cls, identity: Identity) -> Said:
        return cls(*identity)

    @property
    def identity(self) -> Identity:
        return Identity(Start(*self.start), self.shown and Start(*self.shown), self.rejoining)


class Greeting(msgspec.Struct, frozen=True, tag=True):
    """Who dials, whom it means, in which life, and how it is configured."""

    versions: tuple[Version, Version]
    """The oldest that the dialler speaks, and the newest (`Versions`)."""
    cluster: str
    node: NodeId
    to: NodeId
    said: Said
    known: tuple[Incarnation, Number] | None = None
    """The newest start of the acceptor that the dialler remembers; it wants to see it in the Welcome."""
    safety: Digests = {}
    rest: Digests = {}
    """A digest of each key that is configured (`core.configuration`)."""


def longest_greeting(cluster: str, nodes: Iterable[NodeId], safety: Digests, rest: Digests) -> int:
    """The bytes of the longest greeting between these nodes, so configured."""
    longest = max(nodes, key=lambda id: len(id.encode()), default="")
    start = (2**31 - 1, 2**63 - 1)
    said = Said(start, start, True)
    return len(encode(Greeting((2**31 - 1, 2**31 - 1), cluster, longest, longest, said, start, safety, rest)))


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Who answers, in which life, and what its user wants others to know of it."""

    said: Said
    version: Version
    """What is spoken from here on."""
    metadata: dict[str, str] = {}


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why the greeting is not accepted."""

    reason: str
    known: tuple[Incarnation, Number] | None = None
    """The newest start of the dialler that is remembered: it must show that one."""
    differs: tuple[str, ...] = ()
    """The keys in which the two are configured otherwise."""


class Exited(msgspec.Struct, frozen=True, tag=True):
    """The process that you mean is gone; its guardian answers (`attestation`, which makes it by hand)."""

    start: tuple[Incarnation, Number]
    """The life that has ended."""


class WireError(Exception):
    """The bytes are not what a peer would send."""


class Foreign(WireError):
    """They are those of another protocol."""

    def __init__(self, tongue: str) -> None:
        super().__init__(f"this is {tongue}, and not what nodes say to each other")
        self.tongue = tongue


TONGUES = {
    **dict.fromkeys(
        (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI ", b"HTTP"), "HTTP"
    ),
    **{bytes((kind, 3, minor)): "TLS" for kind in (21, 22) for minor in range(5)},
}
"""How other protocols begin."""


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


Answer: TypeAlias = Welcome | Refused | Exited
Content: TypeAlias = Message | Greeting | Answer


def encode(content: Content) -> bytes:
    return _encoder.encode(content)


def frame(content: Content) -> bytes:
    body = encode(content)
    return len(body).to_bytes(4) + body


class Part(StrEnum):
    """What a later version may say, and an earlier one does not understand."""

    MESSAGE = "message"
    FIELD = "field"


def header(kind: type[Any]) -> int:
    """The first byte of what is known of this kind, with its tag and all fields; a greater one has more."""
    config: Any = kind.__struct_config__
    return (0x90 if config.array_like else 0x80) | (len(kind.__struct_fields__) + 1)


def name_of(body: bytes) -> str | None:
    """The name of a message, known or not; None if it can be none."""
    at = {0xDC: 3, 0xDD: 5}.get(body[0], 1) if body else 0
    long = body[at : at + 1] == b"\xd9"
    size = body[at + 1 : at + 2] if long else body[at : at + 1]
    if not (at and size and (long or 0xA0 <= size[0] <= 0xBF) and body[0] >> 4 in (0x9, 0xD)):
        return None
    begin, length = at + 1 + long, size[0] if long else size[0] & 31
    name = body[begin : begin + length]
    return name.decode(errors="replace") if len(name) == length else None


class Decoder(Generic[T]):
    """Turns a stream of bytes into frames of some kinds; holds no more than one frame that is incomplete.
    `beyond` is told of what is ignored because a later version has it. No kind has more than 14 fields."""

    def __init__(
        self, kinds: tuple[type[T], ...], limit: int, beyond: Callable[[Part, str], object] = lambda *_: None
    ) -> None:
        self.decoder = msgspec.msgpack.Decoder(Union[kinds])  # noqa: UP007
        self.headers = {kind: header(kind) for kind in kinds}
        self.names = {kind.__name__ for kind in kinds}
        self.extends = all(first >= 0x90 for first in self.headers.values())
        """A later version may have more kinds."""
        self.limit = limit
        self.beyond = beyond
        self.buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The frames that are complete now. Raises `WireError` for one that is too long or malformed."""
        self.buffer += data
        while (content := self.next()) is not None:
            yield content

    def next(self) -> T | None:
        """Take one complete frame out of the buffer, if there is one that is understood."""
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4])
            if length > self.limit:
                if tongue := TONGUES.get(bytes(self.buffer[:4])) or TONGUES.get(bytes(self.buffer[:3])):
                    raise Foreign(tongue)
                raise WireError(f"a frame of {length} bytes, more than {self.limit}")
            if len(self.buffer) < 4 + length:
                break
            body = bytes(self.buffer[4 : 4 + length])
            del self.buffer[: 4 + length]
            if (content := self.decode(body)) is not None:
                return content
        return None

    def decode(self, body: bytes) -> T | None:
        try:
            content: T = self.decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            name = name_of(body) if self.extends else None
            if name is None or name in self.names:
                raise WireError(f"a malformed frame: {error}") from None
            self.beyond(Part.MESSAGE, name)
            return None
        if body[0] > self.headers[type(content)]:
            self.beyond(Part.FIELD, type(content).__name__)
        return content


def messages(beyond: Callable[[Part, str], object] = lambda *_: None) -> Decoder[Word]:
    return Decoder(get_args(Word), FRAME_LIMIT, beyond)


def greetings(beyond: Callable[[Part, str], object] = lambda *_: None) -> Decoder[Greeting]:
    return Decoder((Greeting,), GREETING_LIMIT, beyond)


def answers(beyond: Callable[[Part, str], object] = lambda *_: None) -> Decoder[Answer]:
    return Decoder(get_args(Answer), GREETING_LIMIT, beyond)
