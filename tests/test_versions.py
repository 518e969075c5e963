"""Nodes of two versions elect together, and what a later one says beyond an earlier one harms nobody.

The bytes here are those of the first release: they are never changed, only added to."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from electorate.core.identity import Start
from electorate.core.model import Beat, Follow, Resign, Support
from electorate.runtime import guardian
from electorate.runtime.attestation import exited
from electorate.runtime.clock import now
from electorate.runtime.wire import (
    VERSIONS,
    Exited,
    Greeting,
    Part,
    Refused,
    Said,
    Versions,
    Welcome,
    WireError,
    answers,
    encode,
    frame,
    greetings,
    header,
    messages,
    name_of,
)
from electorate.web.metrics import exposition
from tests.runtime_hosts import BOUND, Cluster, cluster, in_loop, stranger, until

OLD, LATER, MUCH_LATER = Versions(1, 1), Versions(1, 2), Versions(2, 3)


@pytest.mark.parametrize(
    ("one", "other", "agreed"),
    [
        (OLD, OLD, 1),
        (OLD, LATER, 1),
        (LATER, LATER, 2),
        (LATER, MUCH_LATER, 2),
        (OLD, MUCH_LATER, None),
        (Versions(2, 2), Versions(1, 3), 2),
        (OLD, Versions(3, 2), None),
        (OLD, Versions(2, 1), None),
    ],
)
def test_two_nodes_speak_the_newest_version_that_both_know(
    one: Versions, other: Versions, agreed: int | None
) -> None:
    assert one.agree(other) == agreed
    assert other.agree(one) == agreed


# --- what never changes -------------------------------------------------------------------------------

GREETING_1 = bytes.fromhex(
    "89a474797065a84772656574696e67a876657273696f6e73920101a7636c7573746572a464656d6fa46e6f6465a161"
    "a2746fa162a47361696483a5737461727492070ba573686f776e920305a972656a6f696e696e67c2a56b6e6f776e92"
    "0204a673616665747981a671756f72756d09a47265737480"
)
EXITED_1 = bytes.fromhex("82a474797065a6457869746564a5737461727492cf0000000000000007cf000000000000000b")
SUPPORT_1 = bytes.fromhex("94a7537570706f7274010203")


def test_what_the_first_release_says_is_understood_for_ever() -> None:
    greeting = Greeting((1, 1), "demo", "a", "b", Said((7, 11), (3, 5)), (2, 4), {"quorum": 9})
    assert list(greetings().feed(framed(GREETING_1))) == [greeting]
    assert encode(greeting) == GREETING_1
    assert exited(Start(7, 11)) == framed(EXITED_1)
    assert list(answers().feed(framed(EXITED_1))) == [Exited((7, 11))]
    assert list(messages().feed(framed(SUPPORT_1))) == [Support(1, 2, 3)]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


# --- what a later version says beyond this one ----------------------------------------------------------


def longer(content: Any, **more: Any) -> bytes:
    """The same, with fields that this version does not know."""
    said = msgspec.msgpack.decode(encode(content))
    return framed(msgspec.msgpack.encode([*said, *more.values()] if isinstance(said, list) else said | more))


def heard_of(decoder: Any, data: bytes) -> list[Any]:
    return list(decoder.feed(data))


def test_fields_and_messages_that_are_not_known_are_ignored_and_told() -> None:
    beyond: list[tuple[Part, str]] = []

    def hear(part: Part, what: str) -> None:
        beyond.append((part, what))

    for message in (Beat(1), Resign("e", 1, None, False), Follow("e", 1, 1, 1, True, 2**40)):
        assert heard_of(messages(hear), longer(message, more={"a": [1, 2]}, yet=1)) == [message]
    greeting = Greeting(VERSIONS, "demo", "a", "b", Said((1, 1)))
    assert heard_of(greetings(hear), longer(greeting, colour="green")) == [greeting]
    for answer in (Welcome(Said((1, 1)), 1), Refused("no"), Exited((1, 1))):
        assert heard_of(answers(hear), longer(answer, proof=b"")) == [answer]
    names = ["Beat", "Resign", "Follow", "Greeting", "Welcome", "Refused", "Exited"]
    assert beyond == [(Part.FIELD, name) for name in names]
    beyond.clear()
    for body in (["Coup", 1], ["Coup"], ["C" * 40, {"a": 1}], ["x", *range(20)], ["y", *range(70_000)]):
        data = framed(msgspec.msgpack.encode(body))
        assert heard_of(messages(hear), data + frame(Beat(1))) == [Beat(1)]
    assert [what for _, what in beyond] == ["Coup", "Coup", "C" * 40, "x", "y"]
    assert {part for part, _ in beyond} == {Part.MESSAGE}
    for known in (Beat(1), Resign("e", 1, None, False)):
        beyond.clear()
        assert heard_of(messages(hear), frame(known)) == [known]
        assert not beyond


def test_a_field_that_an_earlier_version_does_not_send_has_its_default() -> None:
    assert heard_of(messages(), framed(msgspec.msgpack.encode(["Resign", "e", 1, None, True]))) == [
        Resign("e", 1, None, True, False)
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"\x91", b"\x91\xa4Be", b"\x91\xd9", b"\x92\xd9\x04Be", b"\x91\x01", b"\xc1", b"\xa4Coup", b"\x82"],
)
def test_what_has_no_name_is_no_message_of_a_later_version(body: bytes) -> None:
    assert name_of(body) is None
    with pytest.raises(WireError):
        heard_of(messages(), framed(body))


def test_in_the_handshake_there_are_no_other_words() -> None:
    for decoder in (greetings(), answers()):
        for body in ({"type": "Coup"}, ["Coup", 1]):
            with pytest.raises(WireError):
                heard_of(decoder, framed(msgspec.msgpack.encode(body)))


def test_no_message_has_more_fields_than_its_first_byte_can_tell() -> None:
    for decoder in (messages(), greetings(), answers()):
        for kind in decoder.headers:
            assert len(kind.__struct_fields__) + 1 < 16
            assert header(kind) & 15 == len(kind.__struct_fields__) + 1


@in_loop
async def test_what_a_later_version_says_breaks_no_connection_and_is_counted(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab") as at:
        await at.agreed()
        a, b = at.hosts["a"], at.hosts["b"]
        incoming, outgoing = b.incoming["a"], a.links["b"].outgoing
        assert outgoing
        for number in range(1000):
            outgoing.transport.write(framed(msgspec.msgpack.encode([f"Coup{number}\n", 1])))
        outgoing.transport.write(longer(Beat(1), more=1))
        await until(lambda: b.figures.beyond["a", Part.FIELD])
        assert b.figures.beyond == {("a", Part.MESSAGE): 1000, ("a", Part.FIELD): 1}
        assert b.incoming["a"] is incoming and len(b.ignored()) < 20
        assert (
            r"ignoring a: it says a Coup999\n, which I do not know; it is of a later version" in b.ignored()
        )
        text = exposition(b, 1, "", threading.Event()).text.decode()
        assert 'electorate_beyond_version_total{part="message",peer="a"} 1000.0' in text
        assert 'electorate_peer_version{peer="a"} 1.0' in text


# --- nodes of two versions --------------------------------------------------------------------------------


def spoken(at: Cluster) -> dict[str, dict[str, int]]:
    return {id: host.status()["versions"] for id, host in at.hosts.items()}


@in_loop
async def test_a_rolling_upgrade_isolates_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One node after the other speaks one version more; then one after the other forgets the first."""
    caplog.set_level(logging.INFO)
    async with cluster(tmp_path) as at:
        await at.agreed()
        for before, then in ((OLD, LATER), (LATER, Versions(2, 2))):
            for upgraded, id in enumerate("abc", 1):
                await at.stop(id)
                await at.agreed()
                await at.start(id, versions=then)
                await at.agreed()
                await until(lambda: all(len(peers) == 2 for peers in spoken(at).values()))
                news = set("abc"[:upgraded])
                for one, peers in spoken(at).items():
                    for other, version in peers.items():
                        both = {one, other} <= news
                        assert version == (then.newest if both else before.newest), (one, other)
                assert all(host.node.membership.is_quorum(host.node.reachable) for host in at.hosts.values())
                assert not any(kind == "protocol" for host in at.hosts.values() for kind in refusals(host))
        texts = [record.getMessage() for record in caplog.records]
        assert "speaking version 1 with node b; I speak versions 1 to 2" in texts


def refusals(host: Any) -> list[str]:
    return [kind for kind, count in host.figures.refusals.items() if count]


@in_loop
async def test_who_is_too_old_is_refused_in_one_sentence_that_names_both_and_the_remedy(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, absent="c") as at:
        await at.agreed()
        c = await at.start("c", versions=MUCH_LATER)
        sentence = (
            "node 'a' speaks version 1, and node 'c' versions 2 to 3: upgrade node 'a' to a release that speaks"
            " version 2, before those that no longer speak version 1"
        )
        await until(lambda: any(f"refusing c: {sentence}" in why for why in at.hosts["a"].ignored()))
        await until(lambda: f"it refuses me: {sentence}" == c.status()["unreached"].get("a"))
        await until(
            lambda: any("node 'c' speaks versions 2 to 3, and node 'a'" in why for why in c.ignored())
        )
        assert at.leader("a", "b")
        async with stranger(at.ports["a"]) as caller:
            answer = await caller.greet(at.greeting("c", "a", Start(1, 1), versions=(5, 4)))
            assert isinstance(answer, Refused)


@in_loop
async def test_who_answers_in_a_version_that_was_not_offered_is_not_spoken_with(tmp_path: Path) -> None:
    async with cluster(tmp_path, absent="b", ids="ab") as at:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frame(Welcome(Said((1, 1)), 7)))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", at.ports["b"])
        async with server:
            await until(lambda: any("it wants to speak version 7" in why for why in at.hosts["a"].ignored()))
            assert not at.hosts["a"].links["b"].connected


# --- a node and its guardian --------------------------------------------------------------------------------


def test_a_guardian_obeys_a_node_of_a_later_version(tmp_path: Path) -> None:
    """Packages can be upgraded, or put back, while a node runs: words, arguments and orders that it does not
    know are ignored."""
    mine, theirs = socket.socketpair()
    lock = (tmp_path / "lock").open("w+")
    listener = socket.create_server(("127.0.0.1", 0))
    orders: dict[str, Any] = {
        "control": theirs.fileno(),
        "node": os.getpid(),
        "listeners": [listener.fileno()],
        "store": lock.fileno(),
        "lock": lock.fileno(),
        "seconds": 1.0,
        "colour": "green",
    }
    passed = [theirs.fileno(), listener.fileno(), lock.fileno()]
    program = [sys.executable, "-I", "-S", guardian.__file__, json.dumps(orders)]
    with subprocess.Popen(program, pass_fds=passed) as process:
        theirs.close()
        mine.settimeout(BOUND)
        answers_of = mine.makefile()
        assert json.loads(answers_of.readline())[0] == "ready"
        command = ["true"], {"PATH": "/usr/bin:/bin"}
        for words in (
            ["testimony", [1, 1], None, "more"],
            ["fly", 1, 2],
            ["start", *command, now() + 600.0, 5.0, "more"],
        ):
            mine.sendall(json.dumps(words).encode() + b"\n")
        assert json.loads(answers_of.readline()) == ["gone", 0, False]
        mine.sendall(b'["end", "more"]\n')
        assert process.wait(BOUND) == 0
    mine.close()
    lock.close()
    listener.close()
