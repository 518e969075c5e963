"""The threat model of SECURITY.md: each cell names tests that show it; and those that stand nowhere else."""

from __future__ import annotations

import ast
import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import reserved_ports
from electorate.core.identity import Start
from electorate.runtime import authority
from electorate.runtime.secret import Secret, new
from electorate.runtime.tls import Credentials
from electorate.runtime.wire import Refused, Welcome
from tests.runtime_hosts import Cluster, Stranger, cluster, in_loop, stranger, until

ROOT = Path(__file__).parent.parent
MODES = ("nothing", "secret", "certificates")
KEYED = MODES[1:]


def tables() -> Iterator[list[list[str]]]:
    """The tables of the threat model: rows of cells."""
    text = (ROOT / "SECURITY.md").read_text().partition("## Threat model")[2].partition("\n## ")[0]
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def named(cell: str) -> list[str]:
    return re.findall(r"`(test_\w+)`", cell)


def test_each_cell_of_the_threat_model_names_tests_and_each_of_these_exists() -> None:
    there = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found = list(tables())
    assert [len(table) for table in found] == [8, 5, 6], "a head, a rule, and a row for each attacker"
    for head, _, *rows in found:
        for row in rows:
            assert len(row) == len(head)
            for mode, cell in zip(head[1:], row[1:], strict=True):
                assert named(cell), f"{row[0]}, {mode}: no test is named"
                assert set(named(cell)) <= there, f"{row[0]}, {mode}: {set(named(cell)) - there}"


# --- what each mode is worth --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certs")
    authority.make_authority("demo", directory, 10)
    for id in "abc":
        authority.issue_certificate(id, directory, 10)
    return directory


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(new())
    return path


def protected(mode: str, secret: Path, certs: Path) -> dict[str, Any]:
    tls = {"ca": f"{certs}/ca.pem", "cert": f"{certs}/{{id}}.pem", "key": f"{certs}/{{id}}.key"}
    modes: dict[str, dict[str, Any]] = {"secret": {"secret_file": str(secret)}, "certificates": {"tls": tls}}
    return modes.get(mode, {})


def credentials(mode: str, secret: Path, certs: Path, node: str) -> Credentials:
    """What this node shows, as somebody has it who holds the secret, or its certificate and key."""
    if mode == "secret":
        return Secret(secret, "demo", node).read()
    return Credentials(*((certs / name).read_text() for name in ("ca.pem", f"{node}.pem", f"{node}.key")))


@asynccontextmanager
async def in_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[Stranger]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()


async def welcomed(caller: Stranger, at: Cluster, name: str) -> bool:
    """Whether a is ready to take this caller for that node."""
    try:
        answer = await caller.greet(at.greeting(name, "a", Start(1, 1)))
    except (AssertionError, ConnectionError, ssl.SSLError):
        return False
    assert isinstance(answer, Welcome | Refused)
    return isinstance(answer, Welcome)


@pytest.mark.parametrize("mode", MODES)
@in_loop
async def test_who_has_no_key_takes_part_only_where_there_is_none(
    tmp_path: Path, secret: Path, certs: Path, mode: str
) -> None:
    async with cluster(tmp_path, absent="c", **protected(mode, secret, certs)) as at:
        await at.agreed()
        async with stranger(at.ports["a"]) as caller:
            assert await welcomed(caller, at, "c") == (mode == "nothing")
        if mode != "nothing":
            blank = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            blank.check_hostname, blank.verify_mode = False, ssl.CERT_NONE
            async with in_tls(at.ports["a"], blank) as caller:
                assert not await welcomed(caller, at, "c")
            assert not at.hosts["a"].incoming.keys() & {"c"}
        await at.agreed()


@pytest.mark.parametrize("mode", KEYED)
@in_loop
async def test_a_secret_is_every_node_and_a_certificate_is_one(
    tmp_path: Path, secret: Path, certs: Path, mode: str
) -> None:
    """Whoever holds what c shows can be c; but who holds the secret can make what any node shows."""
    async with cluster(tmp_path, absent="bc", **protected(mode, secret, certs)) as at:
        of_c = credentials(mode, secret, certs, "c").context(ssl.PROTOCOL_TLS_CLIENT)
        async with in_tls(at.ports["a"], of_c) as caller:
            assert not await welcomed(caller, at, "b"), "what is shown names c"
        async with in_tls(at.ports["a"], of_c) as caller:
            assert await welcomed(caller, at, "c")
        if mode == "secret":
            of_b = credentials(mode, secret, certs, "b").context(ssl.PROTOCOL_TLS_CLIENT)
            async with in_tls(at.ports["a"], of_b) as caller:
                assert await welcomed(caller, at, "b")


class Wires:
    """All that is said to one node passes here: it is kept, and altered while that is asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.kept: list[bytearray] = []
        self.altering = False

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.kept.append(kept)
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(self.pass_on(reader, far_writer, kept), self.pass_on(far_reader, writer))
        writer.close()

    async def pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray | None = None
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if kept is not None:
                    kept += data
                    data = data[:-1] + bytes([data[-1] ^ self.altering])
                sink.write(data)
        sink.close()


@pytest.mark.parametrize("mode", KEYED)
@in_loop
async def test_what_is_replayed_or_altered_on_its_way_is_not_believed(
    tmp_path: Path, secret: Path, certs: Path, mode: str
) -> None:
    with reserved_ports(1) as [between]:
        async with cluster(tmp_path, "ab", absent="ab", **protected(mode, secret, certs)) as at:
            wires = Wires(at.ports["b"])
            at.settings["nodes"] = {
                "a": {"address": f"127.0.0.1:{at.ports['a']}"},
                "b": {"address": f"127.0.0.1:{between}", "bind": f"127.0.0.1:{at.ports['b']}"},
            }
            server = await asyncio.start_server(wires.take, "127.0.0.1", between)
            for id in "ab":
                await at.start(id)
            await at.agreed()
            b = at.hosts["b"]
            before = b.incoming["a"]
            async with stranger(at.ports["b"]) as replayed:
                replayed.say(bytes(wires.kept[-1]))
                await replayed.closed()
            assert b.incoming["a"] is before and not b.node.ignored
            dialled = len(wires.kept)
            wires.altering = True
            await until(lambda: len(wires.kept) > dialled)
            wires.altering = False
            await at.agreed()
            assert not b.node.ignored, "no message was taken for one that was not sent"
            assert not any("junk" in complaint for complaint in b.counts)
            for id in "ab":
                await at.stop(id)
            server.close()


def key_lines(path: Path) -> list[str]:
    """What no other file may hold: the lines of a secret, or of a key in PEM but for its first and last one."""
    return [line for line in path.read_text().splitlines() if not line.startswith("--")]


@pytest.mark.parametrize("mode", KEYED)
@in_loop
async def test_no_key_is_in_a_data_directory(
    tmp_path: Path, secret: Path, certs: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    keys = [*key_lines(secret), *key_lines(certs / "a.key"), "PRIVATE KEY"]
    async with cluster(tmp_path / "nodes", **protected(mode, secret, certs)) as at:
        await at.agreed()
        written = [path.read_bytes() for path in (tmp_path / "nodes").rglob("*") if path.is_file()]
    assert written
    for key in keys:
        assert all(key.encode() not in content for content in written)
        assert key not in caplog.text
