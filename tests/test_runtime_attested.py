"""A death that is attested: who holds the socket of a life that has ended says so, and only that counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import electorate
from electorate.core.identity import Start
from electorate.runtime import attestation, authority, certificates, contact, link, names
from electorate.runtime.attestation import Witness, attest, exited
from electorate.runtime.host import Host
from electorate.runtime.link import FIRST_PAUSE
from electorate.runtime.lobby import EACH
from electorate.runtime.secret import Secret, new
from electorate.runtime.tls import Credentials
from electorate.runtime.wire import Exited, WireError, answers, frame
from tests.runtime_hosts import BOUND, Cluster, cluster, crash, in_loop, until

LONG = {"lease": 60.0, "beat": 0.1}
"""Nobody is missed for being silent: only a proof ends a leadership here."""
KINDS = ("plain", "secret", "tls")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secret, another one, and certificates of the cluster's authority and of another one."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("secret", "other-secret"):
        (directory / name).touch(0o600)
        (directory / name).write_text(new())
    for place in (directory, directory / "other"):
        authority.make_authority("demo", place, 10)
        for id in "abcd":
            authority.issue_certificate(id, place, 10)
    return directory


def files(directory: Path, id: str) -> dict[str, str]:
    return {
        name: str(directory / file)
        for name, file in (("ca", "ca.pem"), ("cert", f"{id}.pem"), ("key", f"{id}.key"))
    }


def shown(directory: Path, id: str) -> Credentials:
    """What a node has that has these files."""
    return Credentials(**{name: Path(file).read_text() for name, file in files(directory, id).items()})


def settings(kind: str, keys: Path, **more: Any) -> dict[str, Any]:
    """Of a cluster that is protected so, and believes nothing but what is attested."""
    protection: dict[str, Any] = {"secret": {"secret_file": str(keys / "secret")}}.get(kind, {})
    if kind == "tls":
        protection = {"tls": files(keys, "{id}")}
    return {"timing": LONG, "proof_of_death": "attested", **protection, **more}


class Holder:
    """The socket of a node that has crashed, held beyond its end; and what others have asked there."""

    def __init__(self, listener: socket.socket, testimony: attestation.Testimony) -> None:
        self.listener = listener
        self.testimony = testimony

    @contextlib.contextmanager
    def attesting(self, **other: Any) -> Iterator[None]:
        """Meanwhile somebody answers there, with this testimony but for what is said."""
        with answering(self.listener, Witness(self.testimony._replace(**other))):
            yield


@contextlib.contextmanager
def answering(listener: socket.socket, witness: Witness) -> Iterator[None]:
    read, write = os.pipe()
    thread = threading.Thread(target=attest, args=([listener], witness, read, 10 * BOUND))
    thread.start()
    try:
        yield
    finally:
        os.write(write, b"x")
        thread.join()
        os.close(read)
        os.close(write)


async def held_crash(at: Cluster, host: Host) -> Holder:
    """It crashes; its socket goes on to take calls, and nobody answers them."""
    holder = Holder(host.listeners[0].dup(), host.testimony)
    await crash(at, host.id)
    return holder


def dead(at: Cluster, peer: str) -> set[str]:
    """Who has found this peer dead."""
    return {id for id, kind, what in at.events if kind == "peer" and what == {"peer": peer, "state": "dead"}}


def dials(at: Cluster, peer: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each has heard an Exited at the address of this peer, from now on."""
    heard = dict.fromkeys(at.hosts, 0)
    attested = link.Link.attested

    def hear(self: link.Link, said: Exited) -> None:
        attested(self, said)
        heard[self.host.id] += self.peer == peer

    monkeypatch.setattr(link.Link, "attested", hear)
    monkeypatch.setattr(link, "LONGEST_PAUSE", 0.02)
    return heard


# --- what is believed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_who_holds_the_socket_of_a_dead_leader_ends_its_lease_with_a_word(
    tmp_path: Path, keys: Path, kind: str
) -> None:
    """It does so as a small program of its own, and the dead node comes back as a new life."""
    async with cluster(tmp_path, **settings(kind, keys)) as at:
        leader = await at.agreed()
        others = set(at.hosts) - {leader.id}
        holder = await held_crash(at, leader)
        program = run_guardian(holder)
        holder.listener.close()
        try:
            await at.agreed()
            assert dead(at, leader.id) == others
            said = [event for event in at.events if event[2] == {"peer": leader.id, "state": "dead"}]
            assert len(said) == 2, "once each"
        finally:
            program.stdin.close()  # type: ignore[union-attr]
            assert program.wait(BOUND) == 0
        restarted = await at.start(leader.id)
        await until(lambda: all(restarted.links[id].connected for id in others))
        await until(lambda: all(at.hosts[id].links[leader.id].connected for id in others))
        assert restarted.node.incarnation == 2


GUARDIAN = """
import sys
sys.path.append(sys.argv[1])
import json, socket
from electorate.runtime.attestation import Testimony, Witness, attest
witness = Witness(Testimony(*json.loads(sys.argv[2])))
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"electorate"}
assert not {name for name in foreign if not name.startswith("_")}, foreign
attest([socket.socket(fileno=int(sys.argv[3]))], witness, 0, 60.0)
"""


def run_guardian(holder: Holder) -> subprocess.Popen[bytes]:
    """It ends when its standard input does."""
    source = str(Path(electorate.__file__).parent.parent)
    said = json.dumps(holder.testimony)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GUARDIAN, source, said, str(holder.listener.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[holder.listener.fileno()],
    )


@pytest.mark.parametrize(
    ("believed", "attested", "refused"),
    [("attested", True, False), ("refused", True, True), ("none", False, False), (None, True, True)],
)
@in_loop
async def test_a_node_believes_what_it_is_told_to(
    tmp_path: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    believed: str | None,
    attested: bool,
    refused: bool,
) -> None:
    async with cluster(tmp_path, **settings("plain", keys, proof_of_death=believed)) as at:
        leader = await at.agreed()
        others = set(at.hosts) - {leader.id}
        heard = dials(at, leader.id, monkeypatch)
        holder = await held_crash(at, leader)
        with holder.attesting():
            await until(lambda: all(heard[id] > 2 for id in others))
            assert dead(at, leader.id) == (others if attested else set())
        holder.listener.close()

        second = await at.start(leader.id)
        await until(lambda: all(at.hosts[id].links[leader.id].connected for id in others))
        at.events.clear()
        refusals = count_refusals(monkeypatch, leader.id)
        await crash(at, second.id)
        await until(lambda: all(refusals.count(id) > 2 for id in others))
        assert dead(at, leader.id) == (others if refused else set())


def count_refusals(monkeypatch: pytest.MonkeyPatch, peer: str) -> list[str]:
    judge, seen = link.Link.refused_by_system, list[str]()

    def refused_by_system(self: link.Link, place: names.Place) -> None:
        judge(self, place)
        if self.peer == peer:
            seen.append(self.host.id)

    monkeypatch.setattr(link.Link, "refused_by_system", refused_by_system)
    return seen


@in_loop
async def test_where_the_file_says_nothing_the_program_decides(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="") as at:
        at.ports = {"a": 0}
        for said, given, believed in [
            (None, {}, "refused"),
            (None, {"proof_of_death": "attested"}, "attested"),
            ("none", {"proof_of_death": "attested"}, "none"),
        ]:
            host = await at.start("a", at.config(proof_of_death=said), **given)
            assert host.proof_of_death == believed
            assert ("proof_of_death" in host.rest) == (said is not None), "of what the file says"
            await at.stop("a")


@in_loop
async def test_what_the_dead_have_said_before_is_not_heard_after_their_end(
    tmp_path: Path, keys: Path
) -> None:
    """A network that has lost it brings it again, long after the process that said it."""
    async with cluster(tmp_path, **settings("plain", keys)) as at:
        leader = await at.agreed()
        others = [host for host in at.hosts.values() if host is not leader]
        await until(lambda: all(leader.links[host.id].connected for host in others))
        holder = Holder(leader.listeners[0].dup(), leader.testimony)
        at.hosts.pop(leader.id)
        leader.stopping = True
        leader.timers.clear()
        leader.refuse_calls()
        for incoming in tuple(leader.incoming.values()):
            incoming.abort()
        with holder.attesting():
            await until(lambda: len(dead(at, leader.id)) == 2)
            await until(lambda: not any(leader.id in host.incoming for host in others))
            await at.agreed()
        for each in leader.links.values():
            each.close()
        leader.close_store()
        holder.listener.close()


# --- what is not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["an older life", "a later life", "the same number, drawn otherwise"])
@in_loop
async def test_the_end_of_another_life_counts_for_nothing(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    async with cluster(tmp_path, **settings("secret", keys)) as at:
        first = await at.agreed()
        others = [id for id in at.hosts if id != first.id]
        older = first.started
        await at.stop(first.id)
        second = await at.start(first.id)
        await until(lambda: all(at.hosts[id].links[first.id].connected for id in others))
        ended = {
            "an older life": older,
            "a later life": Start(3, second.started.number),
            "the same number, drawn otherwise": Start(2, 7),
        }[other]
        heard = dials(at, first.id, monkeypatch)
        holder = await held_crash(at, second)
        with holder.attesting(start=ended):
            await until(lambda: all(heard[id] > 2 for id in others))
        assert not dead(at, first.id)
        assert not any(at.hosts[id].figures.refusals["certificate"] for id in others), "it was well said"
        with holder.attesting():
            await until(lambda: dead(at, first.id) == set(others))
        holder.listener.close()


@pytest.mark.parametrize("kind", ["plain", "secret", "tls"])
@in_loop
async def test_the_end_of_another_node_counts_for_nothing(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The address of the leader is, for a while, that where the guardian of another node answers."""
    async with cluster(tmp_path, ids="abcd", **settings(kind, keys)) as at:
        leader = await at.agreed()
        stranger = next(host for host in at.hosts.values() if host is not leader)
        others = set(at.hosts) - {leader.id, stranger.id}
        await until(lambda: all(at.hosts[id].links[stranger.id].connected for id in others))
        theirs = stranger.testimony
        (await held_crash(at, stranger)).listener.close()
        heard = dials(at, leader.id, monkeypatch)
        holder = await held_crash(at, leader)
        with holder.attesting(**theirs._asdict()):
            if kind == "plain":
                await until(lambda: all(heard[id] > 2 for id in others))
            else:
                await until(lambda: all(at.hosts[id].figures.refusals["certificate"] > 2 for id in others))
        assert not dead(at, leader.id) and not dead(at, stranger.id)
        with holder.attesting():
            await until(lambda: dead(at, leader.id) == others)
        holder.listener.close()


@pytest.mark.parametrize("wrong", ["another node's", "another authority's", "another secret's", "none"])
@in_loop
async def test_with_the_wrong_certificate_it_is_not_believed(tmp_path: Path, keys: Path, wrong: str) -> None:
    """Not even if it does not wait for a greeting."""
    kind = "secret" if wrong == "another secret's" else "tls"
    async with cluster(tmp_path, **settings(kind, keys)) as at:
        leader = await at.agreed()
        others = [host for host in at.hosts.values() if host is not leader]
        holder = await held_crash(at, leader)
        mine = leader.testimony.credentials
        assert mine
        forged = {
            "another node's": shown(keys, others[0].id),
            "another authority's": shown(keys / "other", leader.id)._replace(ca=mine[0]),
            "another secret's": Secret(keys / "other-secret", "demo", leader.id).read()._replace(ca=mine[0]),
            "none": None,
        }[wrong]

        if forged:
            with unasked(holder, exited(leader.started), forged):
                await until(lambda: all(host.figures.refusals["certificate"] > 2 for host in others))
        with holder.attesting(credentials=forged):
            if forged:
                refused = [host.figures.refusals["certificate"] for host in others]
                await until(
                    lambda: all(
                        host.figures.refusals["certificate"] > before + 2
                        for host, before in zip(others, refused, strict=True)
                    )
                )
            else:
                why = [host.links[leader.id] for host in others]
                await until(lambda: all(link.failure and link.pause > 2 * FIRST_PAUSE for link in why))
        assert not dead(at, leader.id)
        for host in others:
            assert not forged or any(
                f"not trusting {leader.id}: its certificate" in it for it in host.ignored()
            )
        with holder.attesting():
            await until(lambda: len(dead(at, leader.id)) == 2)
        holder.listener.close()


@contextlib.contextmanager
def unasked(holder: Holder, said: bytes, shown: Credentials) -> Iterator[None]:
    """Somebody says this there to whoever connects, as soon as TLS stands."""
    context = shown.context(ssl.PROTOCOL_TLS_SERVER)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = holder.listener.accept()
            except BlockingIOError:
                time.sleep(0.001)
                continue
            connection.settimeout(BOUND)
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.sendall(said)
                wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- a refusal, by something that is not the machine of the node ----------------------------------------


@pytest.mark.parametrize("believed", ["refused", "attested"])
@in_loop
async def test_what_refuses_in_the_name_of_a_living_leader_makes_two_only_where_that_is_believed(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, believed: str
) -> None:
    """As a firewall does that rejects: what stands is reset, the address refuses, and the leader gets
    nowhere either."""
    async with cluster(tmp_path, **settings("plain", keys, proof_of_death=believed)) as at:
        leader = await at.agreed()
        others = set(at.hosts) - {leader.id}
        refusals = count_refusals(monkeypatch, leader.id)
        reach = names.reach

        async def gets_nowhere(to: link.Outgoing, *arguments: Any, **options: Any) -> None:
            if to.link.host is leader:
                raise TimeoutError
            await reach(to, *arguments, **options)

        monkeypatch.setattr(link, "reach", gets_nowhere)
        leader.loop.remove_reader(leader.listeners[0])
        leader.listeners[0].shutdown(socket.SHUT_RDWR)
        for each in leader.links.values():
            each.drop()
        for incoming in tuple(leader.incoming.values()):
            incoming.abort()
        await until(lambda: all(refusals.count(id) > 5 for id in others))
        if believed == "refused":
            second = await at.agreed(*others)
            assert second.is_leader("main") and leader.is_leader("main"), "two at once"
        else:
            assert not dead(at, leader.id)
            assert leader.is_leader("main") and not any(at.hosts[id].is_leader("main") for id in others)


# --- somebody between the nodes -------------------------------------------------------------------------


class Between:
    """Whoever holds the wire between two nodes: what one dials goes through here to the other, and it can
    reset what stands, and refuse what comes, or answer in the other's place."""

    def __init__(self, there: int) -> None:
        self.there = there
        self.server: asyncio.Server
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.forged = b""

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self.taken, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(OSError):
            if self.forged:
                writer.write(self.forged)
                await reader.read(1)
                return writer.close()
            theirs, further = await asyncio.open_connection("127.0.0.1", self.there)
            self.writers.add(further)
            await asyncio.gather(self.carry(reader, further), self.carry(theirs, writer))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def refuse(self) -> None:
        self.server.close()
        self.reset()

    def reset(self) -> None:
        for writer in self.writers:
            held = writer.get_extra_info("socket")
            if held is not None and held.fileno() >= 0:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self.writers.clear()


@contextlib.asynccontextmanager
async def with_somebody_between(
    tmp_path: Path, **settings: Any
) -> AsyncIterator[tuple[Cluster, dict[tuple[str, str], Between]]]:
    """Three nodes, each of which reaches each other one by a way of its own, which is not safe."""
    async with cluster(tmp_path, absent="abc", **settings) as at:
        ways = {(a, b): Between(at.ports[b]) for a in "abc" for b in "abc" if a != b}
        for way in ways.values():
            await way.listen()
        for id in "abc":
            ports = {peer: way.port for (dialler, peer), way in ways.items() if dialler == id}
            nodes = {peer: {"address": f"127.0.0.1:{port}"} for peer, port in ports.items()}
            await at.start(id, at.config(nodes={id: {"address": f"127.0.0.1:{at.ports[id]}"}, **nodes}))
        try:
            yield at, ways
        finally:
            for id in tuple(at.hosts):
                await at.stop(id)
            for way in ways.values():
                await way.refuse()


@pytest.mark.parametrize(
    ("believed", "attack", "are_two"),
    [
        ("attested", "both ways", False),
        ("attested", "forged", False),
        ("attested", "forged in TLS", False),
        ("refused", "one way", False),
        ("none", "both ways", False),
        ("refused", "both ways", True),
    ],
)
@pytest.mark.parametrize("kind", ["secret", "tls"])
@in_loop
async def test_who_resets_and_refuses_in_the_name_of_a_leader_makes_two_only_where_a_refusal_is_believed(
    tmp_path: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    believed: str,
    attack: str,
    are_two: bool,
) -> None:
    """Nobody who knows no key of the cluster, but holds all wires of the leader, ends its lease for the others,
    unless they believe what anybody can say, and it comes from both sides."""
    monkeypatch.setattr(link, "LONGEST_PAUSE", 0.02)
    async with with_somebody_between(tmp_path, **settings(kind, keys, proof_of_death=believed)) as (at, ways):
        leader = await at.agreed()
        others = [host for host in at.hosts.values() if host is not leader]
        term = leader.view("main").term  # type: ignore[union-attr]
        await until(
            lambda: all(host.links[peer].connected for host in at.hosts.values() for peer in host.links)
        )
        await until(lambda: all(host.known(leader.id) for host in others))
        refusals = count_refusals(monkeypatch, leader.id)
        tries = dict.fromkeys((host.id for host in others), 0)
        failed = contact.Contact.failed

        def count(self: contact.Contact, peer: str, why: str) -> None:
            failed(self, peer, why)
            if peer == leader.id:
                tries[self.host.id] += 1

        monkeypatch.setattr(contact.Contact, "failed", count)
        attacked = [
            way
            for ends, way in ways.items()
            if leader.id == ends[1] or (leader.id in ends and attack != "one way")
        ]
        server = socket.create_server(("127.0.0.1", 0)) if attack == "forged in TLS" else None
        for way in attacked:
            if attack == "forged":
                way.forged = exited(leader.started)
            elif server and way.there == at.ports[leader.id]:
                way.there = server.getsockname()[1]
            else:
                await way.refuse()
            way.reset()
        with forging(server, leader) if server else contextlib.nullcontext():
            if are_two:
                second = await at.agreed(*(host.id for host in others))
                assert second.is_leader("main") and leader.is_leader("main"), "two at once"
            else:
                await until(lambda: all(number > 5 for number in tries.values()))
                assert "forged" in attack or all(refusals.count(host.id) > 3 for host in others)
                assert not dead(at, leader.id)
                assert leader.is_leader("main") and not any(host.is_leader("main") for host in others)
                for host in others:
                    view = host.view("main")
                    assert view and (view.leader, view.term) == (leader.id, term)


@contextlib.contextmanager
def forging(server: socket.socket, leader: Host) -> Iterator[None]:
    """Somebody attests the end of this node who knows everything of it but a key."""
    assert leader.testimony.credentials
    ca = leader.testimony.credentials[0]
    strange = authority.Authority.of(bytes(32))
    cert, key = (each.decode() for each in strange.issue("demo", leader.id, authority.BEGIN, authority.END))
    with server, answering(server, Witness(attestation.Testimony(leader.started, (ca, cert, key, "")))):
        yield


# --- the nodes go on --------------------------------------------------------------------------------


@in_loop
async def test_a_node_that_lives_again_needs_another_testimony(tmp_path: Path, keys: Path) -> None:
    async with cluster(tmp_path, absent="c", **settings("secret", keys)) as at:
        await at.agreed()
        host = await at.start("c")
        before = host.testimony
        host.live_again()
        await until(lambda: host.testimony.start != before.start)
        assert host.testimony.start == host.started
        assert [event for event in at.events if event[1] == "testimony"] == [("c", "testimony", {})]
        await until(lambda: at.hosts["a"].known("c") == host.started)


# --- the frame and the program that says it -----------------------------------------------------------


@pytest.mark.parametrize("start", [(1, 0), (2**31 - 1, 2**63 - 1)])
def test_the_frame_made_by_hand_is_the_one_of_the_wire(start: tuple[int, int]) -> None:
    assert list(answers().feed(exited(start))) == [Exited(start)]


def test_an_end_of_no_possible_life_is_no_answer() -> None:
    for start in ((0, 1), (2**31, 1), (1, 2**63)):
        with pytest.raises(WireError):
            list(answers().feed(exited(start)))


def test_a_testimony_survives_being_told_as_json(keys: Path) -> None:
    for testimony in (
        attestation.Testimony((1, 2**63 - 1)),
        attestation.Testimony((3, 5), shown(keys, "a")),
    ):
        said = attestation.Testimony(*json.loads(json.dumps(testimony)))
        assert Witness(said).answer == Witness(testimony).answer
        assert (Witness(said).context is None) == (testimony.credentials is None)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as made:
        yield made


def caller(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=BOUND)


def read_all(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: connection.recv(4096), b""))
    return b""


GREETING = frame(Exited((1, 1)))
"""Any frame will do: what it says is not looked at."""
WITNESS = Witness(attestation.Testimony((4, 2)))
ANSWER = exited((4, 2))


def test_nobody_waits_for_another(listener: socket.socket) -> None:
    """Some say nothing, some half of it, some too much, one byte by byte."""
    with answering(listener, WITNESS), contextlib.ExitStack() as held:
        for said in 9 * (b"", GREETING[:3], GREETING[:-1]):
            held.enter_context(caller(listener)).sendall(said)
        for junk in (b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000):
            with caller(listener) as stranger:
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(junk)
                assert read_all(stranger) == b""
        with caller(listener) as slow:
            slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in GREETING:
                slow.sendall(bytes([byte]))
            assert read_all(slow) == ANSWER


def test_strangers_who_stay_keep_nobody_out(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "PATIENCE", 1000.0)
    with answering(listener, WITNESS), contextlib.ExitStack() as held:
        strangers = [held.enter_context(caller(listener)) for _ in range(2 * EACH)]
        with caller(listener) as member:
            member.sendall(GREETING)
            assert read_all(member) == ANSWER
        assert len(select.select(strangers, [], [], BOUND)[0]) == EACH + 1, "so many had to go"


def test_who_does_not_greet_in_time_is_sent_away(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation, "PATIENCE", 0.05)
    with answering(listener, WITNESS), caller(listener) as silent:
        assert read_all(silent) == b""


def test_after_its_time_nobody_answers(listener: socket.socket) -> None:
    read, write = os.pipe()
    attest([listener], WITNESS, read, 0.05)
    with caller(listener) as late:
        late.sendall(GREETING)
        late.settimeout(0.1)
        with pytest.raises(TimeoutError):
            late.recv(1)
    os.close(read)
    os.close(write)


@in_loop
async def test_a_guardian_is_told_of_a_renewed_certificate_and_not_of_a_broken_one(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody dials."""
    monkeypatch.setattr(certificates, "LOOK", 0.02)
    authority.make_authority("demo", tmp_path, 10)
    authority.issue_certificate("a", tmp_path, 10)
    async with cluster(tmp_path / "data", ids="a", tls=files(tmp_path, "a")) as at:
        host = at.hosts["a"]
        assert host.testimony.credentials == shown(tmp_path, "a")
        authority.issue_certificate("a", tmp_path, 10, force=True)
        await until(lambda: at.saw("a", "testimony"))
        renewed = host.testimony
        assert renewed.credentials == shown(tmp_path, "a")
        (tmp_path / "a.pem").write_text("no certificate")
        assert host.certificates
        seen = host.certificates.seen
        await until(lambda: host.certificates and host.certificates.seen != seen)
        assert host.testimony == renewed
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert await asyncio.to_thread(certificate_there, listener, renewed) == renewed.credentials


@pytest.mark.parametrize("way", ["is gone", "does not read"])
def test_a_guardian_goes_on_though_nobody_reads_what_it_complains_of(way: str) -> None:
    read, write = os.pipe()
    if way == "is gone":
        os.close(read)
    else:
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(1 << 16))
        os.set_blocking(write, True)
    told = (
        "from types import SimpleNamespace as Any; from electorate.runtime.guardian import Guardian\n"
        "Guardian.testimony(Any(), (1, 1), ('', '', '', '')); print('goes on')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", told], stdout=subprocess.PIPE, stderr=write, text=True
    ) as guardian:
        os.close(write)
        try:
            assert guardian.communicate(timeout=BOUND)[0] == "goes on\n"
        finally:
            guardian.kill()


def certificate_there(listener: socket.socket, testimony: attestation.Testimony) -> Credentials:
    """Who answers there shows these, and says that this life has ended."""
    assert testimony.credentials
    mine = Credentials(*testimony.credentials)
    context = mine.context(ssl.PROTOCOL_TLS_CLIENT)
    with (
        answering(listener, Witness(testimony)),
        caller(listener) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
        assert der
        wrapped.sendall(GREETING)
        assert read_all(wrapped) == exited(testimony.start)
        return mine._replace(cert=ssl.DER_cert_to_PEM_cert(der))
