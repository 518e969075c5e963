"""Addresses by name: looked up, connected to side by side, and all of them listened on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from electorate.cli.node import runner
from electorate.cli.plan import reserved_ports
from electorate.errors import UserError
from electorate.runtime import link as link_module
from electorate.runtime import names
from electorate.runtime.authority import issue_certificate, make_authority
from electorate.runtime.config import check
from electorate.runtime.host import Host
from electorate.runtime.names import Address, Entrant, Name, Place, bound, in_turn, place, reach
from electorate.runtime.store import lock
from tests.runtime_hosts import BOUND, Cluster, cluster, crash, in_loop, until

REFUSING, UNREACHABLE = "127.0.0.1", "255.255.255.255"
LOG = logging.getLogger("electorate.names")

Resolve = Callable[..., list[Any]]


class System:
    """What stands for what, and for which names it takes for ever to say so."""

    def __init__(self, truly: Resolve) -> None:
        self.truly = truly
        self.means: dict[str, list[str] | OSError] = {}
        self.stuck: set[str] = set()
        self.goes_on = threading.Event()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        if host not in self.means and host not in self.stuck:
            return self.truly(host, port, *arguments, **options)
        self.asked[host] += 1
        self.under_way[host] += 1
        self.most[host] = max(self.most[host], self.under_way[host])
        if host in self.stuck:
            self.goes_on.wait()
        self.under_way[host] -= 1
        meaning = self.means.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(meaning, OSError):
            raise meaning
        return [found for number in meaning for found in self.truly(number, port, *arguments, **options)]

    def go_on(self) -> None:
        """Answer all who wait, and let nobody wait any more."""
        self.stuck.clear()
        self.goes_on.set()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go_on()


@contextlib.contextmanager
def swallowing(host: str) -> Iterator[int]:
    """A port of this address that swallows packets, as a firewall does: its backlog is full."""
    with socket.socket() as full, contextlib.ExitStack() as callers:
        full.bind((host, 0))
        full.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def bound_to(host: str) -> socket.socket:
    return socket.create_server((host, 0))


def ignore(place: Place) -> None:
    """Who refuses does not matter."""


# --- a cluster by name -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "[::1]", "127.0.0.1"])
@in_loop
async def test_a_cluster_by_name_elects_and_notices_a_death_at_once(tmp_path: Path, name: str) -> None:
    with reserved_ports(3) as ports:
        at = Cluster(tmp_path, dict(zip("abc", ports, strict=True)), {})
        nodes = {id: f"{name}:{port}" for id, port in at.ports.items()}
        config = at.config(nodes=nodes, timing={"lease": 60.0, "beat": 0.1})
        try:
            for id in "abc":
                await at.start(id, config)
            leader = await at.agreed()
            await crash(at, leader.id)
            await at.agreed(but=leader.id)
        finally:
            for id in tuple(at.hosts):
                await at.stop(id)


@in_loop
async def test_names_that_are_never_looked_up_hold_up_nobody(tmp_path: Path, system: System) -> None:
    """Not the voters, not the application's threads, not the end."""
    silent = [f"o{number}" for number in range(40)]
    system.stuck = {f"{id}.example" for id in silent}
    with reserved_ports(3) as ports:
        at = Cluster(tmp_path, dict(zip("abc", ports, strict=True)), {})
        nodes: dict[str, Any] = {id: f"localhost:{port}" for id, port in at.ports.items()}
        nodes |= {id: {"address": f"{id}.example:7400", "kind": "observer"} for id in silent}
        config = at.config(nodes=nodes, insecure=True)
        for id in "abc":
            await at.start(id, config)
        await until(lambda: sum(system.under_way.values()) == 3 * len(silent))
        await at.agreed("a", "b", "c")
        links = [at.hosts[id].links[peer] for id in "abc" for peer in "abc" if id != peer]
        await until(lambda: all(link.connected for link in links))
        assert await asyncio.to_thread(lambda: "done") == "done"
        for id in "abc":
            for peer in silent:
                at.hosts[id].links[peer].dial_soon()
        for id in "abc":
            await at.stop(id)
    assert set(system.asked.values()) == {3}, "each node has asked once, and waits"
    assert sum(system.under_way.values()) == 3 * len(silent), "what is under way is left to itself"


STUCK = """
import os, socket, threading
truly = socket.getaddrinfo
def stuck(host, *arguments, **options):
    if str(host).endswith(".example"):
        os.write(1, b"asked\\n")  # print holds a lock, and a process that ends then is aborted
        threading.Event().wait()
    return truly(host, *arguments, **options)
socket.getaddrinfo = stuck
from electorate.cli.main import main
main()
"""


@pytest.mark.parametrize("who", ["another", "itself"])
def test_a_name_server_that_never_answers_does_not_hold_up_sigterm(tmp_path: Path, who: str) -> None:
    with reserved_ports(1) as [port]:
        own = "a.example:7400" if who == "itself" else f"127.0.0.1:{port}"
        (tmp_path / "cluster.toml").write_text(
            f"cluster = 'demo'\ninsecure = true\n[nodes.a]\naddress = '{own}'\n"
            "[nodes.b]\naddress = 'b.example:7400'\nkind = 'observer'\n"
        )
        command = [sys.executable, "-c", STUCK, "node", "--config", "cluster.toml", "--id", "a"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as node:
            try:
                assert node.stdout
                assert node.stdout.readline() == "asked\n"
                node.send_signal(signal.SIGTERM)
                assert node.wait(BOUND) == 0
            finally:
                node.kill()


@pytest.mark.parametrize("question", ["leader", "watch"])
@pytest.mark.parametrize("host", ["a.example", "127.0.0.2"])
def test_who_asks_over_http_waits_no_longer_than_was_said(tmp_path: Path, host: str, question: str) -> None:
    with swallowing("127.0.0.2") as port:
        url = f"http://{host}:{port}"
        command = [sys.executable, "-c", STUCK, question, "--url", url, "--timeout", "0.2"]
        asked = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND, check=False
        )
    assert asked.returncode == 3
    assert asked.stderr.startswith(f"elect: no node answers at {url}: ")
    assert asked.stderr.count("\n") == 1


@in_loop
async def test_a_start_that_is_given_up_lets_go_of_the_directory(tmp_path: Path, system: System) -> None:
    system.stuck = {"a.example"}
    config = check({"cluster": "demo", "nodes": {"a": "a.example:7400"}, "insecure": True})
    starting = asyncio.create_task(Host(config, "a", tmp_path).start())
    await until(lambda: system.asked["a.example"])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    os.close(lock(tmp_path))


# --- looking up ------------------------------------------------------------------------------------


def ignored() -> None:
    """That it lasts."""


async def looked_up(name: Name) -> tuple[list[Address], bool] | str:
    try:
        return await name.addresses()
    except OSError as error:
        return str(error.strerror)


@in_loop
async def test_the_log_tells_once_that_a_name_fails_that_worked_and_that_it_works_again(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """If it never has, its node cannot be reached, which is told for that reason."""
    caplog.set_level(logging.INFO)
    name = Name("b.example", 7400, "nodes.b.address", LOG, ignored)
    system.means["b.example"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert await looked_up(name) == "Temporary failure in name resolution"
    meaning: list[Address] = [("127.0.0.7", 7400), ("::1", 7400)]
    for _ in range(2):
        system.means["b.example"] = ["127.0.0.7", "::1"]
        assert await looked_up(name) == (meaning, True)
        assert not caplog.messages
        system.means["b.example"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        for _ in range(3):
            assert await looked_up(name) == (meaning, False)
        assert caplog.messages == [
            "looking up b.example (nodes.b.address) fails (Name or service not known): what it stood for last"
            " has to do; see to the name server, or to the name"
        ]
        caplog.clear()
        system.means["b.example"] = ["127.0.0.7", "::1"]
        for _ in range(2):
            assert await looked_up(name) == (meaning, True)
        assert caplog.messages == ["looking up b.example (nodes.b.address) works again"]
        caplog.clear()


@in_loop
async def test_a_peer_whose_name_takes_long_is_not_reached_for_that_reason(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LASTS", 0.01)
    system.stuck = {"b.example"}
    async with cluster(tmp_path, "a", absent="a", insecure=True) as at:
        nodes = {"a": f"127.0.0.1:{at.ports['a']}", "b": "b.example:7400"}
        a = await at.start("a", at.config(nodes=nodes))
        await until(lambda: a.status()["unreached"] == {"b": "looking up its name takes long"})
        system.go_on()
        await until(lambda: "does not resolve" in a.status()["unreached"]["b"])


@in_loop
async def test_the_log_tells_that_a_look_up_lasts(
    system: System, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(names, "LASTS", 0.01)
    system.means["b.example"] = ["127.0.0.7"]
    system.stuck = {"b.example"}
    name = Name("b.example", 7400, "nodes.b.address", LOG, ignored)
    asking = asyncio.create_task(looked_up(name))
    await until(lambda: caplog.messages)
    asking.cancel()
    again = asyncio.create_task(looked_up(name))
    await asyncio.sleep(0.05)
    assert caplog.messages == [
        "looking up b.example (nodes.b.address) takes long: nothing can be done with it yet; see to the name"
        " server, or to the name"
    ]
    assert system.asked["b.example"] == 1
    system.go_on()
    assert await again == ([("127.0.0.7", 7400)], True)
    assert caplog.messages[1:] == ["looking up b.example (nodes.b.address) works again"]


@in_loop
async def test_numbers_are_not_asked_of_the_system(system: System) -> None:
    for host in ("127.0.0.1", "::1", "fe80::1%lo"):
        system.stuck.add(host)
        assert await looked_up(Name(host, 7400, "nodes.b.address", LOG, ignored)) == ([(host, 7400)], True)
    assert not system.asked


@in_loop
async def test_where_no_thread_can_be_had_it_is_tried_again(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    system.means["b.example"] = ["127.0.0.7"]
    name = Name("b.example", 7400, "nodes.b.address", LOG, ignored)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert await looked_up(name) == "can't start new thread"
    assert await looked_up(name) == ([("127.0.0.7", 7400)], True)


@in_loop
async def test_what_a_name_stood_for_last_will_do_but_a_refusal_there_proves_nothing(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(names, "PROMPT", 0.02)
    names_of = {id: f"{id}.example" for id in "abc"}
    system.means = {name: ["127.0.0.1"] for name in names_of.values()}
    with reserved_ports(3) as ports:
        at = Cluster(tmp_path, dict(zip("abc", ports, strict=True)), {})
        nodes = {id: f"{names_of[id]}:{port}" for id, port in at.ports.items()}
        config = at.config(nodes=nodes, insecure=True, timing={"lease": 60.0, "beat": 0.1})
        try:
            for id in "abc":
                await at.start(id, config)
            leader = await at.agreed()
            a, b = (host for host in at.hosts.values() if host is not leader)
            await until(lambda: a.links[leader.id].connected and b.links[leader.id].connected)
            system.stuck = set(names_of.values())
            before = a.links[leader.id].outgoing
            a.links[leader.id].drop()
            await until(lambda: a.links[leader.id].outgoing not in (None, before))

            refused: list[Place] = []
            link = a.links[leader.id]
            monkeypatch.setattr(link, "refused_elsewhere", refused.append)
            await crash(at, leader.id)
            await until(lambda: len(refused) > 3)
            assert not at.saw(a.id, "peer", peer=leader.id, state="dead")
            system.go_on()
            await at.agreed()
            assert at.saw(a.id, "peer", peer=leader.id, state="dead")
        finally:
            system.go_on()
            for id in tuple(at.hosts):
                await at.stop(id)


# --- connecting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [
        ([REFUSING], True),
        ([REFUSING, "::1"], True),
        ([REFUSING, UNREACHABLE], False),
        ([UNREACHABLE, REFUSING], False),
        ([UNREACHABLE], False),
    ],
)
def test_only_a_name_whose_addresses_all_refuse_is_refused(addresses: list[str], refused: bool) -> None:
    async def dial() -> None:
        with reserved_ports(1) as [port]:
            at = [(address, port) for address in addresses]
            await reach(asyncio.Protocol(), at, lambda place: told.append(str(place[0])))

    told: list[str] = []
    with pytest.raises(OSError) as error:
        asyncio.run(dial())
    assert isinstance(error.value, ConnectionRefusedError) == refused
    assert told == [address for address in addresses if address != UNREACHABLE]


class Visitor(asyncio.Protocol):
    """Notes where it came and what it was told; leaves at once, unless it is to stay."""

    def __init__(self, stays: bool = False) -> None:
        self.stays = stays
        self.gone = asyncio.Event()
        self.came_to: list[Any] = []
        self.heard = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.came_to.append(transport.get_extra_info("peername"))
        self.transport = cast(asyncio.Transport, transport)
        if not self.stays:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()


async def answered(visitor: Visitor, answer: bytes) -> None:
    await until(lambda: visitor.heard == answer)


@in_loop
async def test_a_later_address_will_do() -> None:
    with socket.create_server((REFUSING, 0)) as listening:
        port = listening.getsockname()[1]
        visitor = Visitor()
        await reach(visitor, [("::1", port), (REFUSING, port)], ignore)
        assert visitor.came_to == [(REFUSING, port)]
        await visitor.gone.wait()


@in_loop
async def test_an_address_that_swallows_packets_holds_up_no_other() -> None:
    with swallowing("127.0.0.2") as port, socket.create_server((REFUSING, 0)) as listening:
        visitor = Visitor()
        began = time.monotonic()
        told: list[Place] = []
        with reserved_ports(1) as [refusing]:
            at = [("127.0.0.2", port), (REFUSING, refusing), ("127.0.0.2", port), listening.getsockname()]
            await reach(visitor, at, told.append)
        here = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {here})
        assert time.monotonic() - began > names.HEAD_START, "each of the two has had its head start"
        assert visitor.came_to == [listening.getsockname()]
        assert told == [place((REFUSING, refusing))]
        await visitor.gone.wait()


@in_loop
async def test_silence_somewhere_is_no_refusal() -> None:
    with swallowing("127.0.0.2") as port, reserved_ports(1) as [refusing]:
        told: list[Place] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reach(Visitor(), [(REFUSING, refusing), ("127.0.0.2", port)], told.append)
        assert told == [place((REFUSING, refusing))]


@in_loop
async def test_who_comes_second_is_sent_away() -> None:
    visitor = Visitor(stays=True)
    prize: list[asyncio.Protocol] = [visitor]
    with bound_to("127.0.0.1") as first, bound_to("127.0.0.2") as second:
        await Entrant(prize).enter(first.getsockname(), {})
        with pytest.raises(OSError, match="another address was faster"):
            await Entrant(prize).enter(second.getsockname(), {})
        assert visitor.came_to == [first.getsockname()]
        with second.accept()[0] as sent_away:
            sent_away.settimeout(BOUND)
            with contextlib.suppress(ConnectionResetError):
                assert sent_away.recv(1) == b""
    visitor.transport.abort()
    await visitor.gone.wait()


@pytest.mark.parametrize("uvloop", [True, False])
@pytest.mark.parametrize("tls", [False, True])
def test_of_those_that_stand_one_is_used_and_the_others_are_closed(
    tmp_path: Path, uvloop: bool, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEAD_START", 0.0)
    make_authority("demo", tmp_path, 2)
    issue_certificate("a", tmp_path, 2)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "a.pem", tmp_path / "a.key")
    calling = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    calling.check_hostname = False

    async def dial() -> None:
        loop = asyncio.get_running_loop()
        hosts = [f"127.0.0.{number}" for number in range(1, 9)]
        taken: list[Visitor] = []

        def take() -> Visitor:
            taken.append(Visitor(stays=True))
            return taken[-1]

        listeners = bound([(host, 0) for host in hosts])
        servers = [
            await loop.create_server(take, sock=listener, ssl=serving if tls else None)
            for listener in listeners
        ]
        options: dict[str, Any] = {"ssl": calling, "server_hostname": ""} if tls else {}
        for _ in range(5):
            taken.clear()
            visitor = Visitor(stays=True)
            await reach(visitor, [listener.getsockname() for listener in listeners], ignore, **options)
            assert len(visitor.came_to) == 1
            visitor.transport.write(b"hello")
            await until(lambda: sum(other.heard == b"hello" for other in taken) == 1)
            await until(lambda: sum(not other.gone.is_set() for other in taken if other.came_to) == 1)
            [used] = [other for other in taken if other.came_to and not other.gone.is_set()]
            assert used.heard == b"hello"
            used.transport.write(b"welcome")
            await answered(visitor, b"welcome")
            visitor.transport.abort()
            await visitor.gone.wait()
            await until(lambda: all(other.gone.is_set() for other in taken if other.came_to))
        for server in servers:
            server.close()

    with runner() if uvloop else asyncio.Runner() as loop:
        loop.run(asyncio.wait_for(dial(), BOUND))


@in_loop
async def test_a_connection_that_ends_at_once_closes_no_file_but_its_own(tmp_path: Path) -> None:
    with socket.create_server((REFUSING, 0)) as listening:
        for _ in range(20):
            visitor = Visitor()
            await reach(visitor, [listening.getsockname()], ignore)
            await visitor.gone.wait()
            with (tmp_path / "takes-its-number").open("w") as file:
                gc.collect()
                file.write("as ever")
                file.flush()


A, B, C, D = ("10.0.0.1", 7), ("10.0.0.2", 7), ("fe::1", 7), ("fe::2", 7)


@pytest.mark.parametrize(
    ("addresses", "first", "last", "turns"),
    [
        ([A, B, C, D], None, [], [A, C, B, D]),
        ([C, D, A], None, [], [C, A, D]),
        ([A, B, C], B, [], [B, A, C]),
        ([A, B, C], None, [A, C], [B, A, C]),
        ([A, B], A, [A], [B, A]),
        ([], A, [B], []),
    ],
)
def test_families_take_turns_and_where_it_was_reached_comes_first(
    addresses: list[Address], first: Address | None, last: list[Address], turns: list[Address]
) -> None:
    assert in_turn(addresses, first and place(first), map(place, last)) == turns


@in_loop
async def test_an_address_that_takes_the_call_and_does_not_answer_is_no_dead_end(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy before nothing, one that hangs up and one that keeps silent."""
    monkeypatch.setattr(link_module, "HANDSHAKE", 0.5)
    system.means["b.example"] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with reserved_ports(2) as [a, b]:
        at = Cluster(tmp_path, {"a": a, "b": b}, {"insecure": True})
        config = at.config(nodes={"a": f"127.0.0.1:{a}", "b": f"b.example:{b}"})
        silent = await asyncio.start_server(keep_silent, "127.0.0.2", b)
        rude = await asyncio.start_server(hang_up, "127.0.0.3", b)
        try:
            await at.start("a", config)
            await at.start("b", at.config(nodes={"a": f"127.0.0.1:{a}", "b": f"127.0.0.1:{b}"}))
            await at.agreed()
            assert at.hosts["a"].links["b"].connected
        finally:
            for id in tuple(at.hosts):
                await at.stop(id)
            silent.close()
            rude.close()


@in_loop
async def test_the_systems_keep_an_idle_connection_alive_and_notice_its_end(tmp_path: Path) -> None:
    """Within the minutes after which a firewall forgets it, and both ends of it."""
    async with cluster(tmp_path) as at:
        await at.agreed()
        hosts = at.hosts.values()
        await until(lambda: all(link.connected for host in hosts for link in host.links.values()))
        await until(lambda: all(len(host.incoming) == 2 for host in hosts))
        dialled = [link.outgoing for host in hosts for link in host.links.values()]
        taken = [incoming for host in hosts for incoming in host.incoming.values()]
        assert len(dialled) == len(taken) == 6
        for end in (*dialled, *taken):
            assert end and end.transport
            sock = end.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, interval, count = (
                sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
                for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            )
            assert 10 <= idle <= 30 and interval >= 1 and count >= 2
            assert idle + interval * count <= 40


# --- listening -------------------------------------------------------------------------------------


@in_loop
async def test_a_node_listens_on_all_that_its_name_stands_for(
    tmp_path: Path, system: System, caplog: pytest.LogCaptureFixture
) -> None:
    system.means["a.example"] = ["127.0.0.2", "::1", "127.0.0.1", "192.0.2.1", "127.0.0.2"]
    config = check({"cluster": "demo", "nodes": {"a": "a.example:0"}, "insecure": True})
    host = Host(config, "a", tmp_path)
    await host.start()
    try:
        places = [listener.getsockname()[:2] for listener in host.listeners]
        _, port = host.config.address("a")
        assert places == [("127.0.0.2", port), ("::1", port), ("127.0.0.1", port)]
        assert caplog.messages == [
            "not listening on 192.0.2.1: that is no address of this machine (nodes.a.address)"
        ]
        for place in places:
            with socket.create_connection(place):
                await until(lambda: host.strangers)
            await until(lambda: not host.strangers)
        assert {listener.fileno() for listener in host.listeners} <= set(host.descriptors())
    finally:
        await host.stop()
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)


@pytest.mark.parametrize("number", ["0:0:0:0:0:0:0:1", "::FFFF:127.0.0.1", "0::0"])
@in_loop
async def test_a_number_is_listened_on_however_it_is_written(
    number: str, caplog: pytest.LogCaptureFixture
) -> None:
    for listener in await names.listen(number, 0, "nodes.a.bind", LOG):
        listener.close()
    assert not caplog.messages


def test_one_address_that_is_taken_is_one_too_many() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as error:
            bound([("127.0.0.1", port), ("127.0.0.2", port)])
        assert error.value.errno == errno.EADDRINUSE
        with socket.create_server(("127.0.0.1", port)):
            pass  # it has let go of that one


OWN_NAME = {
    "a.example": r"a\.example:7400: that name cannot be looked up here \(Name or service not known\); correct"
    r" nodes\.a\.address, or say in nodes\.a\.bind where to listen, such as 0\.0\.0\.0:7400$",
    "192.0.2.1": r"192\.0\.2\.1:7400: that is no address of this machine; correct nodes\.a\.address, or say in"
    r" nodes\.a\.bind where to listen",
    "stuck.example": r"stuck\.example:7400: that name cannot be looked up here \(no answer\); correct nodes\.a\.address, or",
}


@pytest.mark.parametrize("host", OWN_NAME)
@in_loop
async def test_an_own_name_that_cannot_be_is_told_with_the_remedy(
    tmp_path: Path,
    system: System,
    host: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "LASTS", 0.01)
    monkeypatch.setattr(names, "OWN", 0.1)
    system.means["a.example"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    system.stuck = {"stuck.example"}
    config = check({"cluster": "demo", "nodes": {"a": f"{host}:7400"}, "insecure": True})
    with pytest.raises(UserError, match=OWN_NAME[host]):
        await Host(config, "a", tmp_path).start()
    lasts = ["looking up stuck.example (nodes.a.address) takes long; see to the name server, or to the name"]
    assert caplog.messages == (lasts if host in system.stuck else [])


@contextlib.asynccontextmanager
async def forwarded(port: int, to: int) -> Any:
    """As a router or a container engine does: who calls that port talks to this one."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", to)
        except OSError:
            return writer.transport.abort()
        await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer))
        return None

    server = await asyncio.start_server(take, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


@in_loop
async def test_a_node_is_reached_at_its_address_and_listens_where_it_binds(tmp_path: Path) -> None:
    with reserved_ports(6) as ports:
        known, bound_to = dict(zip("abc", ports[:3], strict=True)), dict(zip("abc", ports[3:], strict=True))
        at = Cluster(tmp_path, known, {"proof_of_death": "none"})
        nodes = {
            id: {"address": f"127.0.0.1:{known[id]}", "bind": f"127.0.0.1:{bound_to[id]}"} for id in "abc"
        }
        async with contextlib.AsyncExitStack() as routers:
            for id in "abc":
                await routers.enter_async_context(forwarded(known[id], bound_to[id]))
            try:
                for id in "abc":
                    host = await at.start(id, at.config(nodes=nodes))
                    [listener] = host.listeners
                    assert listener.getsockname() == ("127.0.0.1", bound_to[id])
                leader = await at.agreed()
                told = at.hosts["a"].leader("main")
                assert told and told.address == f"127.0.0.1:{known[leader.id]}"
            finally:
                for id in tuple(at.hosts):
                    await at.stop(id)


@pytest.mark.parametrize(
    ("one", "same"),
    [(("::1", 7), ("0:0:0:0:0:0:0:1", 7, 0, 0)), (("::ffff:10.0.0.1", 7), ("::ffff:a00:1", 7, 0, 0))],
)
def test_a_place_is_the_same_however_it_is_written(one: tuple[Any, ...], same: tuple[Any, ...]) -> None:
    assert place(one) == place(same) != place((one[0], 8))
