"""HTTPS of a node's own: what it shows, whom it asks to show something, and `elect status --url https://...`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from electorate.cli.plan import reserved_ports
from electorate.errors import UserError
from electorate.runtime.config import configure
from electorate.runtime.host import Host
from electorate.web import server, serving
from tests.runtime_hosts import BOUND, in_loop, stranger, until
from tests.web_nodes import WebCluster, web_cluster

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
TOKEN = "a token for the tests"
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """Signs certificates for 127.0.0.1, and for clients."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.own = ec.generate_private_key(ec.SECP256R1())
        builder = self.builder(self.name, self.own, 10)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        signs = dict.fromkeys(("key_cert_sign", "crl_sign"), True)
        usage = x509.KeyUsage(**{**dict.fromkeys(USAGES, False), **signs})
        builder = builder.add_extension(usage, critical=True)
        self.file = self.written(f"{name}.pem", builder.sign(self.own, hashes.SHA256()))

    def builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        mine = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.own.public_key())
        builder = builder.add_extension(mine, critical=False).add_extension(signer, critical=False)
        return builder.not_valid_before(NOW - 9 * DAY).not_valid_after(NOW + days * DAY)

    def issue(
        self, name: str, days: float = 5, usage: x509.ObjectIdentifier | None = None
    ) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self.builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, days)
        here = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.directory / f"{name}.key").write_bytes(pem)
        return self.written(
            f"{name}.pem", builder.sign(self.own, hashes.SHA256())
        ), self.directory / f"{name}.key"

    def written(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.directory / name
        new = path.with_suffix(".new")
        new.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return new.replace(path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    return Authority(tmp_path, "authority")


def trusting(authority: Authority, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if shown:
        context.load_cert_chain(*shown)
    return context


@asynccontextmanager
async def encrypted(tmp_path: Path, authority: Authority, **tls: str) -> AsyncIterator[WebCluster]:
    """A node that speaks HTTPS, and leads."""
    if "cert" not in tls:
        authority.issue("a")
    http = {"token_file": "token", "tls": {"cert": "{id}.pem", "key": "{id}.key", **tls}}
    async with web_cluster(tmp_path, "a", http=http) as cluster:
        await cluster.agreed()
        yield cluster


@asynccontextmanager
async def asking(cluster: WebCluster, context: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    url = f"https://127.0.0.1:{cluster.http['a']}"
    async with httpx.AsyncClient(base_url=url, verify=context, timeout=BOUND, trust_env=False) as client:
        yield client


async def elect(directory: Path, *words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "electorate.cli.main", *words),
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, complaint = await asyncio.wait_for(process.communicate(), BOUND)
    return process.returncode, output.decode(), complaint.decode()


@in_loop
async def test_all_is_answered_over_https_to_who_trusts_it_and_nothing_over_http(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with encrypted(tmp_path, authority) as cluster, asking(cluster, trusting(authority)) as client:
        for path in ("/leader", "/health", "/ready", "/status", "/elections", "/metrics", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        async with client.stream("GET", "/events") as events:
            async for line in events.aiter_lines():
                if line.startswith("data:"):
                    assert msgspec.json.decode(line[5:])["leader"] == "a"
                    break
        origin = {"authorization": f"Bearer {TOKEN}", "origin": str(client.base_url).rstrip("/")}
        answer = await client.post("/resign", json={"election": "main"}, headers=origin)
        assert answer.status_code == 202
        origin["origin"] = origin["origin"].replace("https", "http")
        answer = await client.post("/resign", json={"election": "main"}, headers=origin)
        assert answer.status_code == 403, "what stands there unencrypted is another site"
        assert (await client.get("/status", headers={"host": "evil.example"})).status_code == 421
        with pytest.raises(httpx.TransportError):
            await cluster.get("a", "/leader")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            async with asking(cluster, ssl.create_default_context()) as stranger_to_it:
                await stranger_to_it.get("/leader")
        await until(lambda: cluster.hosts["a"].figures.refusals["https"])
        [expiry] = [
            float(line.split()[1])
            for line in (await client.get("/metrics")).text.splitlines()
            if line.startswith("electorate_http_certificate_expiry_timestamp_seconds ")
        ]
        assert abs(expiry - (NOW + 5 * DAY).timestamp()) < 2
    lines = [record.getMessage() for record in caplog.records if record.name == "electorate.a.http"]
    assert "no handshake with 127.0.0.1: http request" in lines
    assert not [record for record in caplog.records if record.name == "asyncio"]


@in_loop
async def test_older_tls_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with encrypted(tmp_path, authority) as cluster:
        context = trusting(authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with asking(cluster, context) as client:
            assert (await client.get("/leader")).status_code == 200
        context = trusting(authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            async with asking(cluster, context) as client:
                await client.get("/leader")


@in_loop
async def test_a_new_certificate_is_used_from_the_next_connection_on_and_an_unfit_one_never(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "electorate.a.http")

    async def shown(cluster: WebCluster) -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", cluster.http["a"], ssl=trusting(authority))
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return certificate

    async with encrypted(tmp_path, authority) as cluster, asking(cluster, trusting(authority)) as client:
        assert (await client.get("/leader")).status_code == 200
        first = await shown(cluster)
        begun = {path: path.read_bytes() for path in (tmp_path / "a.pem", tmp_path / "a.key")}
        authority.issue("a")
        second = await shown(cluster)
        assert second != first
        (tmp_path / "a.pem").write_text("no certificate")
        assert await shown(cluster) == second
        authority.issue("a", usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        assert await shown(cluster) == second
        (tmp_path / "a.pem").unlink()
        assert await shown(cluster) == second
        authority.issue("a")
        assert await shown(cluster) not in (first, second)
        for path, content in begun.items():
            status = path.stat()
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert await shown(cluster) == first, (
            "though the times are those of the ones before, as `cp -p` leaves them"
        )
        assert (await client.get("/leader")).status_code == 200, "the connection has stood all the while"
    said = [record.getMessage() for record in caplog.records if record.name == "electorate.a.http"]
    said = [re.sub("unsuitable|unsupported", "un…", line.replace(str(tmp_path), "")) for line in said]
    assert [line for line in said if "handshake" not in line] == [
        "using the new certificate in /a.pem",
        "http.tls: /a.pem and /a.key are nothing that HTTPS can use (PEM lib): PEM files are needed; what was read"
        " before stays in use",
        "http.tls: /a.pem and /a.key are nothing that HTTPS can use (certificate verify failed: un… certificate"
        " purpose): PEM files are needed; what was read before stays in use",
        "http.tls: /a.pem cannot be read (No such file or directory): make it, or leave [http.tls] out; what was"
        " read before stays in use",
        *2 * ["using the new certificate in /a.pem"],
    ]


@in_loop
async def test_without_a_certificate_of_the_client_authority_only_probes_are_answered(
    tmp_path: Path, authority: Authority
) -> None:
    clients = Authority(tmp_path, "clients")
    async with encrypted(tmp_path, authority, client_ca="clients.pem") as cluster:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        async with asking(cluster, trusting(authority)) as probe:
            for path in ("/leader", "/health", "/ready"):
                assert (await probe.get(path)).status_code == 200
            for path in (
                "/status",
                "/elections",
                "/events",
                "/metrics",
                "/openapi.json",
                "/none",
                "/leader/",
            ):
                answer = await probe.get(path)
                assert answer.status_code == 403
                assert answer.json()["error"].startswith(
                    "without a certificate of this node's client authority only"
                )
            assert (await probe.post("/resign", json={"election": "main"}, headers=bearer)).status_code == 403
        async with asking(cluster, trusting(authority, clients.issue("operator"))) as operator:
            assert (await operator.get("/status")).status_code == 200
            assert (await operator.post("/resign", json={"election": "main"})).status_code == 401
            answer = await operator.post("/resign", json={"election": "main"}, headers=bearer)
            assert answer.status_code == 202
        for shown in (authority.issue("stranger"), clients.issue("late", days=-1)):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                async with asking(cluster, trusting(authority, shown)) as stranger_to_it:
                    await stranger_to_it.get("/leader")


@in_loop
async def test_who_does_not_shake_hands_is_cut_off_and_keeps_nobody_out(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    monkeypatch.setattr(server, "PATIENCE", BOUND)
    async with encrypted(tmp_path, authority) as cluster:
        async with contextlib.AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(stranger(cluster.http["a"])) for _ in range(4)]
            async with asking(cluster, trusting(authority)) as client:
                assert (await client.get("/leader")).status_code == 200
            await silent[0].closed()
        monkeypatch.setattr(server, "PATIENCE", 0.2)
        async with stranger(cluster.http["a"]) as slow:
            slow.say(b"\x16\x03\x01")
            await slow.closed()


@in_loop
async def test_a_node_stops_though_a_handshake_is_under_way(tmp_path: Path, authority: Authority) -> None:
    async with encrypted(tmp_path, authority) as cluster, stranger(cluster.http["a"]):
        async with asking(cluster, trusting(authority)) as client:
            assert (await client.get("/leader")).status_code == 200
        began = time.monotonic()
        await cluster.stop("a")
        assert time.monotonic() - began < server.PARTING + server.LEFT + BOUND / 10


@in_loop
async def test_elect_asks_and_commands_over_https(tmp_path: Path, authority: Authority) -> None:
    clients = Authority(tmp_path, "clients")
    clients.issue("operator")
    (tmp_path / "both.pem").write_text(
        (tmp_path / "operator.pem").read_text() + (tmp_path / "operator.key").read_text()
    )
    async with encrypted(tmp_path, authority, client_ca="clients.pem") as cluster:
        url = f"https://127.0.0.1:{cluster.http['a']}"
        here = ("--url", url, "--ca", "authority.pem")
        assert await elect(tmp_path, "leader", *here) == (0, "a\n", "")
        code, output, _ = await elect(
            tmp_path, "status", *here, "--cert", "operator.pem", "--key", "operator.key"
        )
        assert (code, output.splitlines()[0][:24]) == (0, "node a of cluster demo, ")
        code, output, _ = await elect(
            tmp_path, "resign", *here, "--cert", "both.pem", "--token-file", "token"
        )
        assert (code, output[:15]) == (1, "a leads, term 2")
        code, _, complaint = await elect(tmp_path, "status", *here)
        assert (code, complaint[:49]) == (4, "elect: without a certificate of this node's clien")
        code, output, complaint = await elect(tmp_path, "status", "--url", url)
        assert (code, output) == (3, "")
        assert complaint == (
            f"elect: no node answers at {url}: its certificate is not to be trusted (unable to get local issuer"
            " certificate); --ca names who signed it\n"
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--url", "http://127.0.0.1:1", "--ca", "authority.pem"), "--ca, --cert and --key are for HTTPS"),
        (
            ("--data", ".", "--ca", "authority.pem"),
            "--ca, --cert and --key are for HTTPS: give the node by --url",
        ),
        (("--url", "https://127.0.0.1:1", "--ca", "none"), "--ca none: there is no such file"),
        (("--url", "https://127.0.0.1:1", "--ca", "token"), "--ca token cannot be used ("),
        (("--url", "https://127.0.0.1:1", "--key", "token"), "--key is that of --cert: give both"),
        (
            ("--url", "https://127.0.0.1:1", "--cert", "authority.pem"),
            "--cert authority.pem cannot be used (",
        ),
    ],
)
@in_loop
async def test_wrong_use_is_one_sentence(
    tmp_path: Path, authority: Authority, words: tuple[str, ...], says: str
) -> None:
    code, output, complaint = await elect(tmp_path, "status", *words)
    assert (code, output, complaint.count("\n")) == (2, "", 1)
    assert complaint.startswith(f"elect: {says}")


CLUSTER = """cluster = "demo"
[nodes.a]
address = "127.0.0.1:{port}"
http = "127.0.0.1:{http}"
[http.tls]
cert = "a.pem"
key = "{key}"
"""


@in_loop
async def test_unfit_files_are_one_sentence_at_the_start_and_in_config_check(
    tmp_path: Path, authority: Authority
) -> None:
    with reserved_ports(2) as (port, http):

        async def troubled(key: str = "a.key", more: str = "") -> str:
            (tmp_path / "cluster.toml").write_text(CLUSTER.format(port=port, http=http, key=key) + more)
            code, _, complaint = await elect(tmp_path, "config", "check", "cluster.toml", "--id", "a")
            started = await elect(tmp_path, "node", "--config", "cluster.toml", "--id", "a") if code else None
            if started:
                assert started[0] == 2
                assert started[2].splitlines()[-1] == complaint.splitlines()[0]
            assert complaint.count("\n") == bool(code)
            return complaint.removeprefix("elect: ").strip()

        assert await troubled() == (
            "http.tls: a.pem cannot be read (No such file or directory): make it, or leave [http.tls] out"
        )
        authority.issue("a")
        assert await troubled() == ""
        assert await troubled("authority.pem") == (
            "http.tls: a.pem and authority.pem are nothing that HTTPS can use (PEM lib): PEM files are needed"
        )
        assert await troubled(more='client_ca = "token"') == (
            "http.tls: a.pem and a.key, with token, are nothing that HTTPS can use (no certificate or crl found):"
            " PEM files are needed"
        )
        assert (await troubled(more="client = 1")).endswith(
            "http.tls.client is not a key; did you mean 'client_ca'?"
        )
        (tmp_path / "cluster.toml").write_text(CLUSTER.format(port=port, http=http, key="a.key"))
        day = f"{NOW + 5 * DAY:%Y-%m-%d}"
        shown = await elect(tmp_path, "config", "check", "cluster.toml")
        assert f"note: the certificate of node a's HTTP ends on {day}" in shown[1]


@in_loop
async def test_an_expired_certificate_is_told_and_keeps_no_node_from_starting(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    authority.issue("a", days=-2)
    async with encrypted(tmp_path, authority, cert="a.pem"):
        assert "a.pem has ended, and clients refuse it: put a new one in its place" in caplog.text


@in_loop
async def test_a_node_that_cannot_serve_says_so(tmp_path: Path, authority: Authority) -> None:
    http = {"tls": {"cert": "none.pem", "key": "none.key"}}
    async with web_cluster(tmp_path, "a", absent="a", http=http) as cluster:
        host: Host = await cluster.start("a")
        with pytest.raises(UserError, match=r"http\.tls: .*none\.pem cannot be read"):
            async with serving(host):
                pass


def test_keys_may_be_arguments() -> None:
    arguments: dict[str, Any] = {"nodes": {"a": "127.0.0.1:1"}, "http_tls_cert": "c"}
    config = configure(
        None, arguments, {"ELECTORATE_HTTP_TLS_KEY": "k", "ELECTORATE_HTTP_TLS_CLIENT_CA": "e"}
    )
    assert config.http and config.http.tls
    assert (config.http.tls.cert, config.http.tls.key, config.http.tls.client_ca) == ("c", "k", "e")
