"""Certificates, the shared secret, and strangers: who is not a member is refused, counted, and changes nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from electorate.errors import UserError
from electorate.runtime import authority, certificates, lobby, private
from electorate.runtime import host as host_module
from electorate.runtime import link as link_module
from electorate.runtime.certificates import Certificates
from electorate.runtime.figures import Refusal
from electorate.runtime.host import Host
from electorate.runtime.link import Incoming
from electorate.runtime.secret import LIFE, Secret, new
from electorate.runtime.tls import Credentials, identity, names, rehearse
from electorate.runtime.wire import VERSIONS, Greeting, Said, frame
from electorate.web import token
from tests.runtime_hosts import Cluster, cluster, crash, in_loop, stranger, until


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority and its nodes a, b and c; those of another authority are in `other`."""
    directory = tmp_path_factory.mktemp("certs")
    for place in (directory, directory / "other"):
        authority.make_authority("demo", place, 10)
        for id in "abc":
            authority.issue_certificate(id, place, 10)
    expire(directory, "c")
    return directory


def expire(directory: Path, id: str) -> None:
    """A certificate for the node that ended yesterday: `expired-ID`."""
    signer, key = authority.read_authority(directory)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own = ec.generate_private_key(ec.SECP256R1())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, id)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(signer.subject)
    builder = builder.public_key(own.public_key()).serial_number(7)
    builder = builder.not_valid_before(yesterday - timedelta(days=1)).not_valid_after(yesterday)
    names = [x509.UniformResourceIdentifier(identity("demo", id))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    private.write(directory / f"expired-{id}.key", authority.pem_of(own), 0o600)
    private.write(
        directory / f"expired-{id}.pem", authority.public(builder.sign(key, hashes.SHA256())), 0o644
    )


def tls(directory: Path, cert: str = "{id}", ca: Path | None = None) -> dict[str, str]:
    return {
        "ca": str((ca or directory) / "ca.pem"),
        "cert": str(directory / f"{cert}.pem"),
        "key": str(directory / f"{cert}.key"),
    }


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "secret", new())


def secret_file(path: Path, content: str) -> Path:
    path.touch(0o600)
    path.write_text(content)
    return path


@asynccontextmanager
async def two_and_one(
    tmp_path: Path, settings: dict[str, Any], of_c: dict[str, Any]
) -> AsyncIterator[Cluster]:
    """a and b elect; then c comes, with other settings."""
    async with cluster(tmp_path, absent="c", **settings) as at:
        await at.agreed()
        with calm(at):
            config = {**at.settings, **of_c}
            at.settings = {}
            await at.start(
                "c", at.config(**{key: value for key, value in config.items() if value is not None})
            )
            yield at


@contextmanager
def calm(at: Cluster) -> Iterator[None]:
    """All through this those that run have the same leader, in the same term, and its lease never ends."""
    of = list(at.hosts.values())
    ids = set(at.hosts)
    before = [(view.leader, view.term) for host in of if (view := host.view("main"))]
    seen = len(at.events)
    yield
    after = [(view.leader, view.term) for host in of if (view := host.view("main"))]
    assert before == after
    assert sum(host.is_leader("main") for host in of) == 1
    for id, kind, what in at.events[seen:]:
        if id in ids and kind in ("lease", "view", "stalled"):
            assert kind == "lease" and what["until"] is not None, (id, kind, what)


def complaints(host: Host, *words: str) -> list[str]:
    return [complaint for complaint in host.ignored() if all(word in complaint for word in words)]


def is_alone(at: Cluster) -> bool:
    """c reaches nobody, and nobody reaches c."""
    c = at.hosts["c"]
    links = [*c.links.values(), at.hosts["a"].links["c"], at.hosts["b"].links["c"]]
    return not c.incoming and not any(link.connected for link in links)


# --- certificates -----------------------------------------------------------------------------------


@in_loop
async def test_with_certificates_they_elect_and_a_crash_is_proved_as_ever(
    tmp_path: Path, certs: Path
) -> None:
    async with cluster(tmp_path, tls=tls(certs), timing={"lease": 60.0, "beat": 0.1}) as at:
        first = await at.agreed()
        ciphers = {
            link.outgoing.transport.get_extra_info("cipher")[1]
            for link in first.links.values()
            if link.outgoing
        }
        assert ciphers == {"TLSv1.3"}
        await crash(at, first.id)
        await at.agreed(but=first.id)


@pytest.mark.parametrize(
    ("case", "at_members", "at_c"),
    [
        ("another authority", ["not trusting c", "certificate"], ["certificate"]),
        ("expired", ["not trusting c", "expired"], []),
        ("another id", ["not trusting c", "that of another node"], ["refused by", "not that of node 'c'"]),
        ("none at all", [], []),
    ],
)
@in_loop
async def test_a_certificate_that_is_not_its_own_keeps_a_node_out(
    tmp_path: Path,
    certs: Path,
    case: str,
    at_members: list[str],
    at_c: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if it starts, which it would refuse to do."""
    monkeypatch.setattr(Certificates, "prove", lambda *_: 0.0)
    of_c = {
        "another authority": tls(certs / "other"),
        "expired": tls(certs, "expired-c"),
        "another id": tls(certs, "b"),
        "none at all": None,
    }[case]
    async with two_and_one(tmp_path, {"tls": tls(certs)}, {"tls": of_c}) as at:
        members = (at.hosts["a"], at.hosts["b"])
        refused: tuple[Refusal, ...] = ("certificate",) if of_c else ("certificate", "no_greeting")
        await until(lambda: all(any(host.figures.refusals[why] for why in refused) for host in members))
        await until(lambda: not at_members or all(complaints(host, *at_members) for host in members))
        await until(lambda: not at_c or complaints(at.hosts["c"], *at_c))
        assert is_alone(at)


@pytest.mark.parametrize(
    ("cert", "why"),
    [
        ("expired-c", "would be refused by other nodes: certificate has expired"),
        ("b", "names electorate:demo/b, and not node 'c' of cluster 'demo'"),
        ("elsewhere/c", "names electorate:elsewhere/c, and not node 'c' of cluster 'demo'"),
        ("mixed/c", "would be refused by other nodes: [^;]+"),
    ],
)
@in_loop
async def test_a_node_does_not_start_with_a_certificate_that_all_would_refuse(
    tmp_path: Path, certs: Path, cert: str, why: str
) -> None:
    elsewhere, mixed = certs / "elsewhere", certs / "mixed"
    if not elsewhere.exists():
        authority.make_authority("elsewhere", elsewhere, 20)
        authority.issue_certificate("c", elsewhere, 20)
        shutil.copytree(certs / "other", mixed)
    ca = certs if cert == "mixed/c" else (certs / cert).parent
    async with cluster(tmp_path, absent="abc", tls=tls(certs, cert, ca)) as at:
        with pytest.raises(UserError, match=f"{why}; `elect certs issue c --force` makes one"):
            Host(at.config(), "c", tmp_path / "c")
        assert not (tmp_path / "c").exists()


@in_loop
async def test_who_is_trusted_by_another_authority_alone_is_refused_by_the_acceptor(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c trusts the members' authority, but shows what another has signed."""
    monkeypatch.setattr(Certificates, "prove", lambda *_: 0.0)
    of_c = tls(certs / "other", ca=certs)
    async with two_and_one(tmp_path, {"tls": tls(certs)}, {"tls": of_c}) as at:
        await until(
            lambda: complaints(at.hosts["a"], "refusing a stranger", "must be in the ca of the other")
        )
        await until(lambda: complaints(at.hosts["c"], "not welcomed by a", "its log tells"))
        assert is_alone(at)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@in_loop
async def test_older_tls_or_no_client_certificate_ends_the_handshake(
    tmp_path: Path, certs: Path, version: ssl.TLSVersion
) -> None:
    async with cluster(tmp_path, ids="a", tls=tls(certs)) as at:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(certs / "ca.pem")
        context.maximum_version = version
        if version is ssl.TLSVersion.TLSv1_2:
            context.load_cert_chain(certs / "b.pem", certs / "b.key")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.ports["a"], ssl=context)
            try:
                if not await reader.read(1):
                    raise ConnectionResetError
            finally:
                writer.transport.abort()
        await until(lambda: at.hosts["a"].figures.refusals["certificate"])


def serial_of(port: int, certs: Path) -> int:
    """The serial number of the certificate that is served there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certs / "ca.pem")
    context.load_cert_chain(certs / "b.pem", certs / "b.key")
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as wrapped:
        shown = wrapped.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


@in_loop
async def test_new_certificates_are_used_without_a_restart(
    tmp_path: Path, certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    caplog.set_level("INFO")
    async with cluster(tmp_path, ids="a", tls=tls(mine)) as at:
        port = at.ports["a"]
        first = await asyncio.to_thread(serial_of, port, certs)
        authority.issue_certificate("a", mine, 10, force=True)
        second = await asyncio.to_thread(serial_of, port, certs)
        assert second != first
        (mine / "a.pem").write_text("no certificate")
        assert await asyncio.to_thread(serial_of, port, certs) == second
        assert await asyncio.to_thread(serial_of, port, certs) == second
        assert caplog.text.count("the one that was read before stays in use") == 1
        for kind in ("pem", "key"):
            shutil.copy(certs / f"b.{kind}", mine / f"a.{kind}")
        assert await asyncio.to_thread(serial_of, port, certs) == second
        assert "names electorate:demo/b, and not node 'a' of cluster 'demo'" in caplog.text
        assert caplog.text.count("the one that was read before stays in use") == 2
        assert "in use now, as it has become: " in caplog.text


@in_loop
async def test_a_caller_who_is_cut_off_meanwhile_keeps_no_certificate_from_being_read(
    tmp_path: Path, certs: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    config = Cluster(tmp_path, {"a": 1}, {"tls": tls(mine)}).config()
    kept = Certificates(config, "a", logging.getLogger())
    authority.issue_certificate("a", mine, 10, force=True)
    caller = asyncio.ensure_future(kept.refresh())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await kept.refresh()
    assert kept.credentials.cert == (mine / "a.pem").read_text()


@pytest.mark.parametrize("kind", ["secret", "tls"])
@in_loop
async def test_what_could_not_be_used_is_used_as_soon_as_it_can_be(
    tmp_path: Path, certs: Path, secret: Path, kind: str
) -> None:
    """It was open to everybody, and its mode is mended as the error says; or there were no descriptors left."""
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    settings: dict[str, Any] = {"tls": tls(mine)} if kind == "tls" else {"secret_file": str(secret)}
    config = Cluster(tmp_path, {"a": 1}, settings).config()
    kept = Certificates(config, "a", logging.getLogger())
    path = mine / "a.key" if kind == "tls" else secret

    def change() -> None:
        if kind == "tls":
            authority.issue_certificate("a", mine, 10, force=True)
        else:
            secret_file(secret, new())

    async def refused(why: str) -> None:
        before = kept.credentials
        await kept.refresh()
        assert why in kept.complaint and kept.credentials == before

    async def used() -> None:
        before = kept.credentials
        await kept.refresh()
        assert not kept.complaint and kept.credentials != before

    change()
    path.chmod(0o644)
    await refused("is open to everybody: chmod 6")
    path.chmod(0o600)
    await used()
    change()
    await asyncio.to_thread(time.time)  # there is a thread that needs no descriptors
    for free in (0, 1):
        with descriptors(free):
            await refused("oo many open files" if not free else "")
            assert kept.complaint
    await used()


@contextmanager
def descriptors(free: int) -> Iterator[None]:
    """No more than so many files can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(free + 1)]
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@in_loop
async def test_what_was_read_first_does_not_come_last(tmp_path: Path, secret: Path) -> None:
    """A pass-phrase takes ten times as long as random bytes."""
    config = Cluster(tmp_path, {"a": 1}, {"secret_file": str(secret)}).config()
    kept = Certificates(config, "a", logging.getLogger())
    secret_file(secret, f"passphrase: {new()}")
    first = asyncio.ensure_future(kept.refresh())
    await until(lambda: bool(kept.source.doubt))  # it has been read
    secret_file(secret, new())
    await asyncio.gather(first, kept.refresh())
    await kept.refresh()
    assert kept.credentials.ca == Secret(secret, "demo", "a").read().ca


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda at: (at / "a.key").unlink(), "a.key cannot be read: No such file"),
        (lambda at: (at / "a.pem").write_text("x"), "are no certificate that can be used"),
        (lambda at: shutil.copy(at / "b.key", at / "a.key"), "are no certificate that can be used"),
    ],
)
def test_unusable_certificates_are_said_at_the_start(
    tmp_path: Path, certs: Path, spoil: Any, sentence: str
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    spoil(mine)
    at = Cluster(tmp_path, {"a": 1}, {"tls": tls(mine)})
    with pytest.raises(UserError, match=sentence) as error:
        Host(at.config(), "a", tmp_path / "a")
    assert "elect certs issue a" in str(error.value)
    assert not (tmp_path / "a").exists()


# --- certificates that others have made -----------------------------------------------------------------


def made(directory: Path, id: str, names: list[x509.GeneralName], purposes: tuple[Any, ...] = ()) -> None:
    """A certificate that the authority signs for somebody with these names: ID.pem and ID.key."""
    signer, key = authority.read_authority(directory)
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, id)])
    builder = authority.certificate(subject, signer.subject, own, key, *authority.validity(10))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    private.write(directory / f"{id}.key", authority.pem_of(own), 0o600, force=True)
    private.write(directory / f"{id}.pem", authority.public(authority.sign(builder, key)), 0o644, force=True)


def url(name: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(name)


def host_name(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


@pytest.mark.parametrize(
    ("template", "subjects", "is_theirs"),
    [
        (None, [("URI", "electorate:demo/a")], True),
        (None, [("URI", "electorate:other/a"), ("URI", "electorate:demo/a")], True),
        (None, [("DNS", "a")], False),
        ("{id}", [("DNS", "a")], True),
        ("{id}", [("URI", "electorate:other/a"), ("DNS", "a")], False),
        ("{id}", [("URI", "electorate:demo/b"), ("DNS", "a")], False),
        ("{id}", [("URI", "electorate:demo/a"), ("DNS", "b")], True),
        ("{id}.svc.example", [("DNS", "a.svc.example")], True),
        ("{id}.svc.example", [("DNS", "a")], False),
        ("{id}.svc.example", [("DNS", "*.svc.example")], False),
        ("{id}.{cluster}.example", [("DNS", "a.demo.example"), ("DNS", "x")], True),
        ("{id}.{cluster}.example", [("DNS", "a.other.example")], False),
        (
            "spiffe://example.org/ns/prod/{cluster}/{id}",
            [("URI", "spiffe://example.org/ns/prod/demo/a")],
            True,
        ),
        (
            "spiffe://example.org/ns/prod/{cluster}/{id}",
            [("URI", "spiffe://example.org/ns/prod/other/a")],
            False,
        ),
        ("spiffe://example.org/{id}", [("DNS", "spiffe://example.org/a")], False),
        ("spiffe://example.org/{id}", [], False),
    ],
)
def test_whom_a_certificate_names(
    template: str | None, subjects: list[tuple[str, str]], is_theirs: bool
) -> None:
    assert names({"subjectAltName": tuple(subjects)}, "demo", "a", template) == is_theirs


@in_loop
async def test_a_certificate_of_another_cluster_is_not_let_in_for_the_name_of_its_host(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id in "ab":
        made(certs, f"dns-{id}", [host_name(id)])
    made(certs, "dns-c", [url("electorate:other/c"), host_name("c")])
    settings = {"tls": {**tls(certs, "dns-{id}"), "name": "{id}"}}
    config = Cluster(tmp_path, {"c": 1}, settings).config()
    with pytest.raises(
        UserError, match=r"names electorate:other/c, c, and not node 'c' of cluster 'demo' \(c\)"
    ):
        Host(config, "c", tmp_path / "c")
    monkeypatch.setattr(Certificates, "prove", lambda *_: 0.0)
    async with two_and_one(tmp_path, settings, {}) as at:
        await until(lambda: complaints(at.hosts["a"], "not trusting c", "that of another node"))
        assert is_alone(at)


@in_loop
async def test_the_names_of_a_platform_are_told_by_a_template(tmp_path: Path, certs: Path) -> None:
    for id in "abc":
        made(certs, f"spiffe-{id}", [url(f"spiffe://example.org/ns/prod/demo/{id}")])
    name = "spiffe://example.org/ns/prod/{cluster}/{id}"
    async with cluster(tmp_path, tls={**tls(certs, "spiffe-{id}"), "name": name}) as at:
        await at.agreed()


def test_a_template_says_where_the_id_stands(tmp_path: Path, certs: Path) -> None:
    at = Cluster(tmp_path, {"a": 1}, {"tls": {**tls(certs), "name": "node.example"}})
    with pytest.raises(UserError, match=r"tls\.name: 'node.example' would be every node"):
        at.config()


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_what_is_for_servers_alone_is_refused_at_the_start(tmp_path: Path, certs: Path, purpose: Any) -> None:
    """As public authorities issue it."""
    made(certs, "server", [url("electorate:demo/a")], (purpose,))
    at = Cluster(tmp_path, {"a": 1}, {"tls": tls(certs, "server")})
    with pytest.raises(
        UserError, match="a node is a server and a client, so its certificate must be for both"
    ):
        Host(at.config(), "a", tmp_path / "a")


@in_loop
async def test_an_authority_is_changed_while_the_nodes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two authorities of one name: first all trust both, then all show what the new one has signed, then
    nobody trusts the old one."""
    monkeypatch.setattr(certificates, "LOOK", 0.05)
    monkeypatch.setattr(link_module, "AGAIN", 0.05)
    monkeypatch.setattr(host_module, "SPREAD", 0.1)
    at_first, later, mine = tmp_path / "first", tmp_path / "later", tmp_path / "mine"
    for place in (at_first, later):
        authority.make_authority("demo", place, 10)
        for id in "abc":
            authority.issue_certificate(id, place, 10)
    shutil.copytree(at_first, mine)
    old, young = ((place / "ca.pem").read_text() for place in (at_first, later))

    async def give(ca: str, place: Path | None = None) -> None:
        before = [host.certificates.credentials for host in at.hosts.values() if host.certificates]
        for id in "abc" if place else "":
            for kind in ("key", "pem"):
                assert place
                (mine / f"{id}.{kind}.new").write_bytes((place / f"{id}.{kind}").read_bytes())
                (mine / f"{id}.{kind}.new").chmod(0o600)
            for kind in ("key", "pem"):
                (mine / f"{id}.{kind}.new").replace(mine / f"{id}.{kind}")
        private.write(mine / "ca.pem", ca.encode(), 0o644, force=True)
        await until(
            lambda: all(
                host.certificates and host.certificates.credentials != shown and all_anew(host)
                for host, shown in zip(at.hosts.values(), before, strict=True)
            )
        )

    async with cluster(tmp_path / "data", tls=tls(mine)) as at:
        await at.agreed()
        with calm(at):
            for both in (old + young, young + old):
                await give(both)
            await give(old + young, later)
            for ca in (young + old, young):
                await give(ca)
        assert not sum(host.figures.refusals["certificate"] for host in at.hosts.values())


def all_anew(host: Host) -> bool:
    """All connections of this node, both ways, have been made with what it trusts and shows now."""
    certificates = host.certificates
    assert certificates
    return all(
        link.outgoing and link.outgoing.context is certificates.client for link in host.links.values()
    ) and all(
        peer in host.incoming and host.incoming[peer].context is certificates.server for peer in host.links
    )


@in_loop
async def test_connections_are_made_anew_and_no_lease_is_lost_by_it(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred times, with ten beats in a lease and many elections: nobody notices."""
    monkeypatch.setattr(link_module, "AGE", 0.1)
    monkeypatch.setattr(link_module, "AGAIN", 0.02)
    made = list[link_module.Outgoing]()
    opened = link_module.Outgoing.connection_made

    def count(self: link_module.Outgoing, transport: asyncio.BaseTransport) -> None:
        made.append(self)
        opened(self, transport)

    elections = [f"shard-{number}" for number in range(20)]
    async with cluster(tmp_path, tls=tls(certs), elections=["main", *elections]) as at:
        leader = await at.agreed()
        await until(lambda: all(link.connected for host in at.hosts.values() for link in host.links.values()))

        def led() -> dict[tuple[str, str], tuple[str | None, int]]:
            views = ((host.id, host.view(name)) for host in at.hosts.values() for name in elections)
            return {(id, view.election): (view.leader, view.term) for id, view in views if view}

        await until(
            lambda: all(
                (view := host.view(name)) and view.leader and at.hosts[view.leader].is_leader(name)
                for host in at.hosts.values()
                for name in elections
            )
        )
        terms = led()
        monkeypatch.setattr(link_module.Outgoing, "connection_made", count)
        seen = len(at.events)
        with calm(at):
            await until(lambda: len(made) > 100)
            assert leader.is_leader("main")
        assert led() == terms
        assert not [event for event in at.events[seen:] if event[1] == "peer"], "nobody was lost"
        assert not any(host.figures.refusals for host in at.hosts.values())


@pytest.mark.parametrize("whom", ["a leader", "a follower"])
@in_loop
async def test_who_is_revoked_is_cut_off_though_it_was_connected(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch, whom: str
) -> None:
    """And the others go on."""
    monkeypatch.setattr(certificates, "LOOK", 0.05)
    monkeypatch.setattr(host_module, "SPREAD", 0.1)
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    authority.issue_certificate("nobody", mine, 10)
    authority.revoke_certificates(["nobody"], mine, 10)
    settings: dict[str, Any] = {"tls": {**tls(mine), "crl": str(mine / "crl.pem")}}
    async with cluster(tmp_path / "data", **settings) as at:
        leader = await at.agreed()
        cast_out = leader if whom == "a leader" else next(h for h in at.hosts.values() if h is not leader)
        others = [host for host in at.hosts.values() if host is not cast_out]
        term = leader.view("main").term  # type: ignore[union-attr]
        authority.revoke_certificates([cast_out.id], mine, 10)
        await until(
            lambda: (
                not cast_out.incoming
                and not any(link.connected for link in cast_out.links.values())
                and not any(
                    host.links[cast_out.id].connected or cast_out.id in host.incoming for host in others
                )
            )
        )
        second = await at.agreed(*(host.id for host in others))
        if whom == "a follower":
            assert second is leader and leader.view("main").term == term  # type: ignore[union-attr]
        assert any(complaints(host, f"not trusting {cast_out.id}", "revoked") for host in others)


@in_loop
async def test_a_connection_does_not_outlive_the_certificate_that_it_was_made_with(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "AGAIN", 0.1)
    signer = authority.read_authority(certs)
    end = datetime.now(UTC) + timedelta(seconds=4)
    cert, key = signer.issue("demo", "c", end - timedelta(days=1), end)
    private.write(certs / "short-c.pem", cert, 0o644, force=True)
    private.write(certs / "short-c.key", key, 0o600, force=True)
    async with two_and_one(tmp_path, {"tls": tls(certs)}, {"tls": tls(certs, "short-c")}) as at:
        c = at.hosts["c"]
        await until(
            lambda: all(at.hosts[id].links["c"].connected and "c" in at.hosts[id].incoming for id in "ab")
        )
        assert datetime.now(UTC) < end
        await until(lambda: is_alone(at))
        assert datetime.now(UTC) >= end - timedelta(seconds=1)
        assert complaints(at.hosts["a"], "not trusting c", "expired") and not c.is_leader("main")


@in_loop
async def test_when_a_list_ends_it_is_said_what_to_do_whoever_dials(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    end = datetime.now(UTC) + timedelta(seconds=4)
    issued = end - timedelta(days=1) + timedelta(hours=1)
    monkeypatch.setattr(authority, "datetime", SimpleNamespace(now=lambda zone: issued))
    authority.revoke_certificates([], mine, 1)
    monkeypatch.undo()
    async with cluster(tmp_path, ids="ab", absent="b", tls=tls(mine)) as at:
        await at.start("b", at.config(tls={**tls(mine), "crl": str(mine / "crl.pem")}))
        a, b = at.hosts["a"], at.hosts["b"]
        await at.agreed()
        await until(lambda: datetime.now(UTC) > end)
        for link in (a.links["b"], b.links["a"]):
            link.drop()
        said = "its certificate is not to be trusted: CRL has expired; get a new list from its authority"
        for how in ("not trusting a", "refusing a stranger"):
            await until(lambda how=how: bool(complaints(b, f"{how}: {said}")))  # type: ignore[misc]


@in_loop
async def test_a_node_says_that_its_certificate_has_expired(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, though nobody calls."""
    monkeypatch.setattr(certificates, "LOOK", 0.01)
    async with cluster(tmp_path, ids="a", tls=tls(certs)) as at:
        kept = at.hosts["a"].certificates
        assert kept
        kept.end = time.time() - 1
        await until(lambda: kept.complaint)
        looks = 0
        refresh = Certificates.refresh

        async def count(self: Certificates) -> None:
            nonlocal looks
            looks += 1
            await refresh(self)

        monkeypatch.setattr(Certificates, "refresh", count)
        await until(lambda: looks > 3)
        said = "a.pem has expired, and other nodes refuse it; `elect certs issue a --force` makes one"
        assert caplog.text.count(said) == 1


def test_a_bundle_may_have_comments_and_no_file_is_needed_in_memory(
    certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Credentials(*(Path(path).read_text() for path in tls(certs, "a").values()))
    mine = mine._replace(ca=f"# Autorité\n{mine.ca}")
    for can in (True, False):
        if not can:
            monkeypatch.delattr(os, "memfd_create", raising=False)
        contexts = (mine.context(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
        assert names(rehearse(*contexts), "demo", "a")


def test_a_session_is_not_resumed(certs: Path) -> None:
    """By that an expired certificate would be welcome for hours."""
    mine = Credentials(*(Path(path).read_text() for path in tls(certs, "a").values()))
    server, client = (mine.context(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    left, right = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(right, server_side=True) as accepted:
            accepted.sendall(b"x")
            accepted.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(left) as dialled:
        assert dialled.recv(1) == b"x"
        assert dialled.session is None or not dialled.session.has_ticket
    thread.join()


# --- the shared secret ------------------------------------------------------------------------------


@in_loop
async def test_with_a_secret_they_elect_and_all_is_said_in_tls(tmp_path: Path, secret: Path) -> None:
    timing = {"lease": 60.0, "beat": 0.1}
    async with cluster(tmp_path, secret_file=str(secret), timing=timing) as at:
        first = await at.agreed()
        for link in first.links.values():
            assert link.outgoing and link.outgoing.transport.get_extra_info("cipher")[1] == "TLSv1.3"
        await crash(at, first.id)
        await at.agreed(but=first.id)


@pytest.mark.parametrize(
    ("case", "at_a", "at_c"),
    [
        (
            "another",
            ["not trusting c", "give every node the same secret_file"],
            ["not trusting", "secret_file"],
        ),
        (
            "none",
            ["refusing a stranger", "it does not speak TLS, and I do"],
            ["refusing a stranger", "it speaks TLS", "does not speak TLS"],
        ),
        (
            "certificates",
            ["not trusting c", "give every node the same secret_file"],
            ["not trusting", "ca of"],
        ),
        ("another cluster's", ["not trusting c", "secret_file"], ["not trusting", "secret_file"]),
    ],
)
@in_loop
async def test_without_the_secret_a_node_is_kept_out(
    tmp_path: Path, certs: Path, secret: Path, case: str, at_a: list[str], at_c: list[str]
) -> None:
    cases: dict[str, dict[str, Any]] = {
        "another": {"secret_file": str(secret_file(tmp_path / "other", new()))},
        "none": {"secret_file": None},
        "certificates": {"secret_file": None, "tls": tls(certs / "other")},
        "another cluster's": {"cluster": "other"},
    }
    async with two_and_one(tmp_path, {"secret_file": str(secret)}, cases[case]) as at:
        members = (at.hosts["a"], at.hosts["b"])
        await until(lambda: all(host.figures.refusals["certificate"] for host in members))
        await until(lambda: not at_a or complaints(at.hosts["a"], *at_a))
        await until(lambda: not at_c or complaints(at.hosts["c"], *at_c))
        assert is_alone(at)


def test_where_the_package_is_missing_it_is_named(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "electorate.runtime.authority")
    monkeypatch.delattr("electorate.runtime.authority")
    at = Cluster(tmp_path, {"a": 1}, {"secret_file": str(secret)})
    with pytest.raises(UserError, match=r"not installed \(cryptography\): .*pip install .*cryptography"):
        Host(at.config(), "a", tmp_path / "a")


def test_a_secret_stands_for_one_authority_on_every_node(tmp_path: Path, secret: Path) -> None:
    a, b = (Secret(secret, "demo", id).read() for id in "ab")
    assert a.ca == b.ca and a.cert != b.cert and a.key != b.key
    assert Secret(secret, "other", "a").read().ca != a.ca, "of one cluster alone"
    made = x509.load_pem_x509_certificate(a.cert.encode())
    [said] = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert said.value == "electorate:demo/a"
    assert b"PRIVATE" not in a.ca.encode() and new() not in a


@in_loop
async def test_a_secret_is_changed_while_the_nodes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First all trust the new one, then all show it, then nobody trusts the old one."""
    monkeypatch.setattr(certificates, "LOOK", 0.05)
    old, young = new(), new()
    files = {id: secret_file(tmp_path / f"secret-{id}", old) for id in "abc"}
    settings: dict[str, Any] = {"secret_file": str(tmp_path / "secret-{id}")}
    async with cluster(tmp_path, **settings) as at:
        await at.agreed()
        with calm(at):
            for lines in (f"{old}\n{young}\n", f"{young}\n{old}\n", f"{young}\n"):
                for id, host in at.hosts.items():
                    assert host.certificates
                    shown = host.certificates.credentials
                    secret_file(files[id], lines)
                    await until(lambda host=host, shown=shown: host.certificates.credentials != shown)  # type: ignore[misc]
                    for link in host.links.values():
                        link.drop()
                    await until(
                        lambda: all(
                            link.connected for host in at.hosts.values() for link in host.links.values()
                        )
                    )
        only = Secret(files["a"], "demo", "a").read().ca
        assert all(
            host.certificates.credentials.ca == only for host in at.hosts.values() if host.certificates
        )


@in_loop
async def test_what_a_node_makes_for_itself_is_renewed_in_time(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its guardian is told."""
    monkeypatch.setattr(certificates, "LOOK", 0.05)
    async with cluster(tmp_path, ids="a", secret_file=str(secret)) as at:
        host = at.hosts["a"]
        assert host.certificates
        first, end = host.testimony, host.certificates.end
        assert time.time() + 89 * 86400 < end < time.time() + 91 * 86400
        passed = 31 * 86400
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + passed)
        await until(lambda: host.testimony != first)
        assert host.certificates.end == pytest.approx(end + passed, abs=60)
        assert host.testimony.credentials == host.certificates.credentials
        assert at.saw("a", "testimony")


RANDOM_SECRET = "9f412c887331dd95f0dbf2d348c1510fbd1fdf9edae30148bca81fe193146b4d"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("correct horse battery staple", "line 1: a secret is 32 random bytes or more"),
        (64 * "a", "line 1: a secret is 32 random bytes or more"),
        (16 * "a", "line 1: a secret is 32 random bytes or more"),
        ("0123456789abcdef", "line 1: a secret is 32 random bytes or more"),
        ("passphrase: hunter2", "line 1: a pass-phrase has 16 characters or more"),
        (f"passphrase: {20 * 'a'}", "line 1: a pass-phrase has 16 characters or more, 8 of them different"),
        (f"{RANDOM_SECRET}\n\nhunter2", "line 3: a secret is 32 random bytes or more"),
        ("\n", "has no secret: `elect secret` prints one"),
        ("\n".join(9 * [RANDOM_SECRET]), "has 9 secrets, more than 8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_secret_must_be_one(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        secret_file(path, content)
    with pytest.raises(UserError, match=sentence) as error:
        Secret(path, "demo", "a").read()
    assert "hunter2" not in str(error.value) and "horse" not in str(error.value)


@in_loop
async def test_a_pass_phrase_says_at_the_start_what_it_is_worth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phrase = secret_file(tmp_path / "phrase", "passphrase: correct horse battery staple")
    async with cluster(tmp_path, ids="ab", secret_file=str(phrase)) as at:
        await at.agreed()
        assert "can take its certificate home and guess there" in caplog.text
        assert "horse" not in caplog.text


def test_elect_secret_writes_one_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    def elect(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "electorate", "secret", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    printed = elect()
    assert len(bytes.fromhex(printed.stdout)) == 32
    assert elect("secret").returncode == 0
    path = tmp_path / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    Secret(path, "demo", "a").read()
    before, again = path.read_text(), elect("secret")
    assert again.returncode == 2 and "is there already" in again.stderr
    assert path.read_text() == before != printed.stdout


def test_a_file_that_cannot_even_be_looked_for_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        private.write(tmp_path / (300 * "a"), b"", 0o600)


@pytest.mark.parametrize("today", [0.0, -86400.0, 946684800 - LIFE])
def test_before_there_can_be_certificates_the_clock_is_to_be_set(
    secret: Path, monkeypatch: pytest.MonkeyPatch, today: float
) -> None:
    """A machine without a clock of its own begins in 1970."""
    monkeypatch.setattr(time, "time", lambda: today)
    with pytest.raises(UserError, match=r"cannot be made on (1970|1969|1999)-\d\d-\d\d: set the clock"):
        Secret(secret, "demo", "a").read()


@pytest.mark.parametrize(
    ("mode", "owner", "me", "excess"),
    [
        (0o600, 7, 7, 0),
        (0o400, 7, 7, 0),
        (0o640, 7, 7, 0o040),
        (0o440, 7, 7, 0o040),
        (0o644, 7, 7, 0o044),
        (0o640, 0, 7, 0),
        (0o440, 0, 7, 0),
        (0o660, 0, 7, 0o020),
        (0o644, 0, 7, 0o004),
        (0o640, 8, 7, 0),
        (0o640, 0, 0, 0),
        (0o644, 0, 0, 0o004),
    ],
)
def test_one_rule_for_who_may_read_what_is_private(mode: int, owner: int, me: int, excess: int) -> None:
    """Root's, or another user's, may be read by its group: that is how it is given to this user."""
    assert mode & ~private.allowed(owner, me) == excess


def test_keys_secrets_and_tokens_are_kept_by_the_same_rule(tmp_path: Path, certs: Path, secret: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(certs, mine)
    config = Cluster(tmp_path, {"a": 1}, {"tls": tls(mine)}).config()
    cases: list[tuple[Callable[[], object], Path]] = [
        (lambda: Certificates(config, "a", logging.getLogger()), mine / "a.key"),
        (lambda: authority.issue_certificate("x", mine, 1), mine / "ca.key"),
        (lambda: Secret(secret, "demo", "a").read(), secret),
        (lambda: token.read(secret), secret),
    ]
    for read, path in cases:
        for mode, whom in ((0o644, "everybody: chmod 6"), (0o620, "its group: chmod 600")):
            path.chmod(mode)
            with pytest.raises(UserError, match=f"{path} is open to {whom}"):
                read()
            path.chmod(0o600)


# --- strangers --------------------------------------------------------------------------------------

KINDS = ("plain", "secret", "tls")


def protection(kind: str, certs: Path, secret: Path) -> dict[str, Any]:
    if kind == "secret":
        return {"secret_file": str(secret)}
    return {"tls": tls(certs)} if kind == "tls" else {}


GREETING = Greeting(VERSIONS, "demo", "b", "a", Said((1, 1)))

JUNK = {
    "a frame of 1 GiB": (1 << 30).to_bytes(4) + bytes(1000),
    "a long greeting": (70_000).to_bytes(4) + bytes(5004),
    "no message": (10).to_bytes(4) + bytes(10),
    "an empty frame": bytes(4),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two greetings": frame(GREETING) + frame(GREETING),
}


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_junk_disturbs_nobody(tmp_path: Path, certs: Path, secret: Path, kind: str) -> None:
    async with cluster(tmp_path, **protection(kind, certs, secret)) as at:
        await at.agreed()
        with calm(at):
            a = at.hosts["a"]
            for junk in JUNK.values():
                if kind == "plain" and junk == JUNK["two greetings"]:
                    continue
                before = sum(a.figures.refusals.values())
                async with stranger(at.ports["a"]) as caller:
                    caller.say(junk)
                    await caller.closed()
                assert sum(a.figures.refusals.values()) > before
            assert not a.strangers


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_ten_thousand_calls_cost_nothing_and_keep_nobody_out(
    tmp_path: Path, certs: Path, secret: Path, kind: str
) -> None:
    calls = 10_000 if kind == "plain" else 2_000
    async with cluster(tmp_path, **protection(kind, certs, secret)) as at:
        await at.agreed()
        a, port = at.hosts["a"], at.ports["a"]
        with calm(at):
            await call(port, 500)
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            await call(port, calls // 2)
            a.links["b"].drop()  # a member comes back in the middle of it
            at.hosts["b"].links["a"].drop()
            await call(port, calls // 2)
            await until(lambda: a.links["b"].connected and at.hosts["b"].links["a"].connected)
            await until(lambda: not a.strangers)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
        assert grown < 4 << 20  # each that stayed would cost some kilobytes
        assert sum(a.figures.refusals.values()) >= calls // 2
        assert len(a.ignored()) < 20


@in_loop
async def test_who_is_cut_off_before_anything_was_said_leaves_no_socket(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a") as at:
        mine, theirs = socket.socketpair()
        incoming = Incoming(at.hosts["a"], theirs)
        at.hosts["a"].strangers.enter(incoming, b"", ())
        incoming.abort()
        await until(lambda: incoming.opening.done())
        await until(lambda: theirs.fileno() == -1)
        assert not at.hosts["a"].strangers
        mine.close()


async def call(port: int, times: int) -> None:
    """So many strangers, a hundred at a time: each says something and is cut off, or hangs up."""

    async def once(number: int) -> None:
        try:
            async with stranger(port) as caller:
                caller.say(b"\xff\xff\xff\xff junk" if number % 2 else b"\0")
                if number % 2:
                    await caller.closed()
        except OSError:
            return

    for start in range(0, times, 100):
        await asyncio.gather(*(once(number) for number in range(start, start + 100)))


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_who_is_slow_or_silent_keeps_no_member_out(
    tmp_path: Path, certs: Path, secret: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "AT_HOME", 8)
    async with cluster(tmp_path, **protection(kind, certs, secret)) as at:
        await at.agreed()
        a = at.hosts["a"]
        with calm(at):
            opened = [await asyncio.open_connection("127.0.0.1", at.ports["a"]) for _ in range(40)]
            for _, writer in opened[::2]:
                writer.write(b"\0")
            await until(lambda: len(a.strangers) == 8)
            link = at.hosts["b"].links["a"]
            before = link.outgoing
            link.drop()
            await until(lambda: link.outgoing not in (None, before))
            assert a.figures.refusals["too_many"] >= 32
            for _, writer in opened:
                writer.transport.abort()
            await until(lambda: not a.strangers)


@in_loop
async def test_who_speaks_no_tls_where_it_is_spoken_is_told_apart(tmp_path: Path, certs: Path) -> None:
    async with cluster(tmp_path, "ab", absent="b", tls=tls(certs)) as at:
        a = at.hosts["a"]
        _, writer = await asyncio.open_connection("127.0.0.1", at.ports["a"])
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: complaints(a, "refusing a stranger: it speaks HTTP", "nodes.a.http is not set"))
        writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", at.ports["b"]):
            await until(lambda: "it does not speak TLS" in a.status()["unreached"].get("b", ""))
        at.settings = {}
        b = await at.start("b")
        await until(lambda: a.status()["unreached"].get("b") == "it hangs up")
        await until(lambda: complaints(b, "refusing a stranger: it speaks TLS", "node b does not speak TLS"))
