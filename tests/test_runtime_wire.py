"""The bytes between two nodes: whatever is sent arrives, and whatever else arrives is refused."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from electorate.core.model import Beat, Message, Recalled, Resign, Support
from electorate.runtime.wire import (
    FRAME_LIMIT,
    GREETING_LIMIT,
    VERSIONS,
    Decoder,
    Greeting,
    Refused,
    Said,
    Welcome,
    WireError,
    Word,
    answers,
    frame,
    greetings,
    messages,
)

WORDS: tuple[type[Message], ...] = get_args(Word)
LARGEST = 2**63 - 1


def example(type: Any) -> Any:
    """A value of this type, as large as its numbers may be."""
    match type:
        case inspect.IntType(lt=bound):
            return LARGEST if bound is None else bound - 1
        case inspect.FloatType():
            return 0.5
        case inspect.StrType():
            return "név"
        case inspect.BoolType():
            return True
        case inspect.EnumType(cls=cls):
            return list(cls)[-1]
        case inspect.VarTupleType(item_type=item):
            return (example(item), example(item))
        case inspect.TupleType(item_types=items):
            return tuple(example(item) for item in items)
        case inspect.NamedTupleType(cls=cls, fields=fields) | inspect.StructType(cls=cls, fields=fields):
            return cls(*(example(field.type) for field in fields))
        case inspect.UnionType(types=types):
            return example(next(t for t in types if not isinstance(t, inspect.NoneType)))
    raise AssertionError(f"no example of {type}")


def example_of(word: type) -> Any:
    return example(inspect.type_info(word))


def leaves(type: type[Message]) -> set[type[Message]]:
    below = type.__subclasses__()
    return {type} if not below else set().union(*(leaves(each) for each in below))


def all_frames(decoder: Decoder[Any], data: bytes) -> list[Any]:
    return list(decoder.feed(data))


def test_every_message_of_the_core_is_a_word() -> None:
    ours = {leaf for leaf in leaves(Message) if leaf.__module__.startswith("electorate.")}
    assert ours == set(WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_every_message_arrives_as_it_was_sent(word: type[Message]) -> None:
    sent = example_of(word)
    assert all_frames(messages(), frame(sent)) == [sent]


def test_nobody_is_somebody_that_can_be_sent() -> None:
    sent = msgspec.structs.replace(example_of(Resign), heir=None)
    assert all_frames(messages(), frame(sent)) == [sent]


GREETING = Greeting(
    VERSIONS, "demo", "a", "b", Said((2**31 - 1, 2**63 - 1), (7, 7), True), (3, 5), {"quorum": 2**32 - 1}
)


def test_the_handshake_arrives_as_it_was_sent() -> None:
    assert all_frames(greetings(), frame(GREETING)) == [GREETING]
    for answer in (Welcome(Said((3, 5)), 1), Refused("no", (7, 7), ("quorum",))):
        assert all_frames(answers(), frame(answer)) == [answer]


STREAM = b"".join(frame(example_of(word)) for word in (Beat, Recalled, Support, Resign))


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_frames_may_be_split_at_every_byte(at: int) -> None:
    decoder = messages()
    found = all_frames(decoder, STREAM[:at]) + all_frames(decoder, STREAM[at:])
    assert found == [example_of(word) for word in (Beat, Recalled, Support, Resign)]
    assert not decoder.buffer


def test_frames_may_come_byte_by_byte() -> None:
    decoder = messages()
    assert sum(len(all_frames(decoder, bytes([byte]))) for byte in STREAM) == 4


def raw(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


def packed(value: Any) -> bytes:
    return raw(msgspec.msgpack.encode(value))


WRONG = {
    "too long": (FRAME_LIMIT + 1).to_bytes(4),
    "a gibibyte": (2**30).to_bytes(4),
    "empty": raw(b""),
    "not msgpack": raw(b"\xc1"),
    "cut short": raw(b"\x93\xa4Beat"),
    "more than one value": raw(msgspec.msgpack.encode(["Beat", 1]) + b"\x01"),
    "no tag": packed([1]),
    "a map": packed({"seq": 1}),
    "a wrong type": packed(["Beat", "one"]),
    "a missing field": packed(["Support", 1]),
    "not UTF-8": raw(b"\x94\xa6Resign\xa1\xff\x01\xc0"),
    "a reason that is none": packed(["Refuse", "e", 1, 1, "because"]),
    "deeply nested": raw(b"\x91" * 100_000),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_not_a_message_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        all_frames(messages(), data)


def test_what_came_before_a_wrong_frame_counts() -> None:
    decoder = messages()
    words = decoder.feed(frame(Beat(1)) + packed(["Beat", "two"]))
    assert next(words) == Beat(1)
    with pytest.raises(WireError):
        next(words)


@pytest.mark.parametrize("incarnation", [0, -1, 2**31])
def test_an_incarnation_that_cannot_be_is_a_wire_error(incarnation: int) -> None:
    with pytest.raises(WireError):
        all_frames(greetings(), frame(Greeting(VERSIONS, "demo", "a", "b", Said((incarnation, 1)))))
    with pytest.raises(WireError):
        all_frames(answers(), frame(Welcome(Said((incarnation, 1)), 1)))


def test_a_stranger_may_not_send_a_long_greeting() -> None:
    with pytest.raises(WireError):
        all_frames(greetings(), frame(Greeting(VERSIONS, "x" * GREETING_LIMIT, "a", "b", Said((1, 1)))))


frames = st.one_of(
    st.binary(max_size=60), st.binary(max_size=60).map(raw), st.sampled_from([STREAM, frame(GREETING)])
)


@settings(deadline=None)
@given(reads=st.lists(frames, max_size=8), stranger=st.booleans())
def test_any_bytes_at_all_are_frames_or_wire_errors(reads: list[bytes], stranger: bool) -> None:
    decoder: Decoder[Any] = greetings() if stranger else messages()
    for read in reads:
        try:
            all_frames(decoder, read)
        except WireError:
            return
        assert len(decoder.buffer) < 4 + decoder.limit


@settings(deadline=None)
@given(reads=st.lists(st.integers(1, 4096), max_size=400))
def test_no_more_is_held_than_one_frame_and_one_read(reads: list[int]) -> None:
    decoder = greetings()
    body = b"\x00" * GREETING_LIMIT
    for size in reads:
        try:
            all_frames(decoder, (raw(body) * 2)[:size])
        except WireError:
            return
        assert len(decoder.buffer) <= 4 + GREETING_LIMIT
