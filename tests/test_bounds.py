"""Whatever can grow is told page by page, and nobody says what another must refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from electorate.core.model import Beat, Follow, Lead, Member, Membership, Message, Recall, Recalled
from electorate.core.node import MAX_NAME, MUCH, Node, is_name
from electorate.core.ring import UNSOUND, Coordinator, Echo, Probe, Token
from electorate.errors import UserError
from electorate.runtime import link as link_module
from electorate.runtime.config import MAX_ID, check
from electorate.runtime.wire import (
    FRAME_LIMIT,
    GREETING_LIMIT,
    Said,
    Welcome,
    encode,
    frame,
    longest_greeting,
)
from tests.runtime_hosts import cluster, in_loop, until
from tests.table import Table

HANZI = "\u4e16"
"""One character, three bytes."""


# --- what a user gives -------------------------------------------------------------------------------


def content(**changes: Any) -> dict[str, Any]:
    """A cluster file; "nodes.a.KEY" is a key of its only node."""
    node = {"address": "127.0.0.1:7400"}
    made: dict[str, Any] = {"cluster": "demo", "nodes": {"a": node}}
    for key, value in changes.items():
        (node if key in ("metadata", "group", "address") else made)[key] = value
    return made


LENGTHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "metadata": ({"metadata": {"k": HANZI * 666}}, {"metadata": {"k": HANZI * 667}}),
    "elections": ({"elections": [HANZI * 66]}, {"elections": [HANZI * 67]}),
    "cluster": ({"cluster": HANZI * 33}, {"cluster": HANZI * 34}),
    "nodes.a.group": (
        {"group": HANZI * 33, "quorum": "hierarchical"},
        {"group": HANZI * 34, "quorum": "hierarchical"},
    ),
}


@pytest.mark.parametrize("key", LENGTHS)
def test_lengths_are_counted_in_bytes(key: str) -> None:
    good, bad = LENGTHS[key]
    check(content(**good))
    with pytest.raises(UserError, match=rf"{key}.* bytes in UTF-8"):
        check(content(**bad))


def test_the_length_of_an_id_is_counted_in_bytes() -> None:
    node = {"address": "127.0.0.1:7400"}
    check({"cluster": "demo", "nodes": {HANZI * 33: node}})
    with pytest.raises(UserError, match=r"has at most 100 bytes in UTF-8, and '.*' has 102"):
        check({"cluster": "demo", "nodes": {HANZI * 34: node}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cluster": "de\nmo"}, r"cluster.*nothing that cannot be printed: 'de\\nmo' does"),
        ({"group": "\x1b[2J", "quorum": "weighted"}, "group.*nothing that cannot be printed"),
        ({"metadata": {"k": "\udc80"}}, "metadata.*no text in UTF-8"),
        ({"address": ".".join(["a" * 60] * 5) + ":7400"}, "address.*by more than 253 bytes"),
    ],
)
def test_what_nobody_could_be_told_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        check(content(**changes))
    assert str(error.value).isprintable()


def test_a_name_is_as_long_as_its_bytes() -> None:
    assert is_name("x" * MAX_NAME) and not is_name("x" * (MAX_NAME + 1))
    assert is_name(HANZI * 66) and not is_name(HANZI * 67)
    assert not is_name("\udc80") and not is_name("")


def many(number: int, group: str = "") -> dict[str, Any]:
    nodes = {
        f"{n:0{MAX_ID}}": {"address": f"10.0.{n >> 8}.{n & 255}:7400", "group": group, "priority": n}
        for n in range(number)
    }
    kind = {"quorum": "hierarchical"} if group else {}
    return {"cluster": "demo", "nodes": nodes, "insecure": True, "stagger": "none", **kind}


def test_more_nodes_than_a_greeting_has_room_for_are_refused_at_the_start() -> None:
    check(many(150, "g"))
    with pytest.raises(
        UserError, match=f"nodes: a greeting.*of the 300 nodes.*has room for {GREETING_LIMIT}"
    ):
        check(many(300, "g"))


def largest_cluster() -> Membership:
    """As many voters with the longest ids as a configuration can have."""
    few, too_many = 1, 1000
    while too_many - few > 1:
        middle = (few + too_many) // 2
        try:
            check(many(middle))
            few = middle
        except UserError:
            too_many = middle
    return check(many(few)).membership


def test_no_message_of_the_largest_cluster_is_longer_than_a_frame() -> None:
    membership = largest_cluster()
    ids = membership.voters
    assert len(ids) > 200
    assert longest_greeting("c" * MAX_ID, ids, {}, {}) < GREETING_LIMIT
    most, name = 2**48, HANZI * 66
    entries = tuple((id, most) for id in ids)
    told: tuple[Message, ...] = (
        Token(name, most, ids[0], most, ids, entries),
        Coordinator(name, most, most, ids[0], most, ids, ids[0], entries),
        Probe(name, most, ids[0], most, most, most, True, ids),
        Echo(name, most, ids[0], most, ids, True),
        Recall(most, name, ids),
    )
    assert max(len(encode(message)) for message in told) < FRAME_LIMIT // 4


# --- pages ---------------------------------------------------------------------------------------------


def sent(on: Table, kind: type[Message], to: str) -> list[Any]:
    return [message for _, where, message in on.wire if where == to and isinstance(message, kind)]


def leading_many(number: int) -> Table:
    """a leads so many elections, followed by b; c was not there."""
    on = Table(elections=None)
    on.connect("ab")
    for n in range(number):
        on.do("a", Node.contend, f"{n}")
        on.settle()
        on["a"].fire("campaign", f"{n}")
        on.settle()
    assert len(on["a"].node.leading) == number
    return on


@pytest.fixture(scope="module")
def number() -> int:
    return 2 * MUCH + 200


def test_who_comes_is_told_of_many_leaderships_page_by_page(number: int) -> None:
    on = leading_many(number)
    on.connect("ac")
    assert len(sent(on, Lead, "c")) == MUCH
    on["a"].fire("beat", "")
    leads = sent(on, Lead, "c")
    assert len(leads) == 2 * MUCH and len(set(leads)) == 2 * MUCH, "each page has others"
    on.wire = [said for said in on.wire if said[1] != "c"]  # all of them are lost
    on["a"].fire("beat", "")
    while on.wire:
        on.deliver()
        assert len(sent(on, Lead, "c")) <= 2 * MUCH
    assert on["a"].node.untold["c"] == {}, "one page after the other, without another beat"


def test_a_leader_is_told_again_of_many_followings_page_by_page(number: int) -> None:
    on = leading_many(number)
    on.do("a", Node.lost, "b", False)
    on.do("b", Node.lost, "a", False)
    on.do("b", Node.connected, "a", 1)
    assert len(sent(on, Follow, "a")) == MUCH
    on.wire.clear()
    on.do("a", Node.connected, "b", 1)
    on.wire.clear()
    pages = []
    while on["b"].node.moved["a"]:
        on["a"].fire("beat", "")
        on.deliver(Beat, source="a", to="b")
        pages.append(len(on["b"].node.moved["a"]))
    assert pages == [number - 2 * MUCH, 0]


def test_what_is_recalled_comes_page_by_page() -> None:
    node = Node("a", Membership(tuple(map(Member, "abc"))), Table().settings)
    node = Node("a", node.membership, msgspec.structs.replace(node.settings, elections=None))
    node.start(0.0)
    node.connected(0.0, "b", 1)
    names = [f"{HANZI * 50}{n:05}" for n in range(10_000)]
    for name in names:
        node.hold(name, None)
    after, heard = "", list[str]()
    while True:
        [page] = [e.message for e in node.receive(1.0, "b", Recall(1, after, ())) if hasattr(e, "message")]
        assert isinstance(page, Recalled)
        assert len(encode(page)) < FRAME_LIMIT // 8
        heard += [name for name, _ in page.terms]
        if not page.more:
            break
        after = heard[-1]
    assert heard == names


# --- what a peer says grows no longer by what I add -------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["tanenbaum", "chang-roberts", "hirschberg-sinclair"],
)
def test_what_goes_round_names_nobody_twice_and_none_but_voters(kind: Any) -> None:
    on = Table(algorithm="ring", ring=kind)
    on.connect()
    on["b"].node.ignored.clear()
    rounds: list[Message] = [
        Token("main", 1, "a", 1, ("a", "a"), (("a", 1),)),
        Token("main", 1, "a", 1, ("a", "z"), (("a", 1),)),
        Token("main", 1, "a", 1, ("a",), (("a", 1), ("a", 1))),
        Coordinator("main", 1, 1, "a", 1, ("a", "a"), "a", ()),
        Coordinator("main", 1, 1, "a", 1, ("a",), "a", (("a", 1), ("a", 1))),
        Coordinator("main", 1, 1, "a", 1, ("a",), "a", (("x", 1),)),
    ]
    if kind == "hirschberg-sinclair":
        rounds += [
            Probe("main", 1, "a", 1, 1, 2**40, True, ("a", "x" * 1000)),
            Echo("main", 1, "a", 1, ("a", "b", "b"), True),
        ]
    for message in rounds:
        on.do("b", Node.receive, "a", message)
    assert on["b"].node.ignored[UNSOUND] == len(rounds)
    assert not [message for _, _, message in on.wire if type(message) in (Token, Coordinator, Probe, Echo)]


def test_a_probe_that_nobody_stops_goes_round_once() -> None:
    on = Table("abc", algorithm="ring", ring="hirschberg-sinclair")
    on.connect()
    on.do("b", Node.receive, "a", Probe("main", 0, "c", 1, 1, 2**40, True, ("c", "a", "b")))
    assert on["b"].node.ignored["a probe whose initiator is gone"] == 1
    assert not [message for _, _, message in on.wire if isinstance(message, Probe | Echo)]


@in_loop
async def test_a_message_that_would_be_refused_is_not_sent(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab") as at:
        await at.agreed()
        a = at.hosts["a"]
        a.links["b"].write(Lead("x" * FRAME_LIMIT, 1, 0))
        a.links["b"].write(Lead("x" * (MAX_NAME + 1), 1, 0))
        await until(lambda: at.hosts["b"].node.ignored)
        assert a.links["b"].connected and at.hosts["b"].incoming["a"]
        assert [why for why in a.ignored() if why.startswith("not saying to b: Lead of 1048")]


# --- who reads slowly, and who does not -------------------------------------------------------------------


class Sink(asyncio.Protocol):
    """It welcomes whoever dials, and then takes a little at a time, or nothing."""

    def __init__(self, reads: bool) -> None:
        self.reads = reads
        self.taken = 0
        self.transports: list[asyncio.Transport] = []

    def __call__(self) -> Sink:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transports.append(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        transport = self.transports[-1]
        if not self.taken:
            transport.write(frame(Welcome(Said((1, 1)), 1)))
        self.taken += len(data)
        transport.pause_reading()
        if self.reads:
            asyncio.get_running_loop().call_later(0.005, transport.resume_reading)


@pytest.mark.parametrize("reads", [True, False], ids=["slowly", "not at all"])
@in_loop
async def test_who_reads_slowly_is_waited_for_and_who_does_not_is_cut_off(
    tmp_path: Path, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "UNHEARD", 0.1)
    monkeypatch.setattr(link_module, "BACKLOG", 1 << 16)
    async with cluster(tmp_path, absent="b", ids="ab") as at:
        link, size, sink = at.hosts["a"].links["b"], 24 << 20, Sink(reads)
        server = await asyncio.get_running_loop().create_server(sink, "127.0.0.1", at.ports["b"])
        async with server:
            await until(lambda: link.connected)
            outgoing = link.outgoing
            for _ in range(size >> 18):
                link.write(Lead("x" * (1 << 18), 1, 0))
            if reads:
                await until(lambda: sink.taken >= size)
                assert link.outgoing is outgoing
            else:
                await until(lambda: link.outgoing is not outgoing)
            for transport in sink.transports:
                transport.abort()
