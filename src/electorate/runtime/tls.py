"""Mutual TLS 1.3: both sides show a certificate of an authority that the other trusts, which names the node.

A certificate names node `a` of cluster `demo` by the URI `electorate:demo/a` among its subject alternative
names, because an id may be any text. One that has no such URI may name it as `tls.name` says, so that
certificates of a platform's own making can be used: `spiffe://example.org/{cluster}/{id}`, `{id}.example`.

This is imported by a guardian, which must be small: it takes nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from electorate.core.model import NodeId


SCHEME = "electorate:"


class Credentials(NamedTuple):
    """What a node trusts, and what it shows, as PEM."""

    ca: str
    cert: str
    key: str
    crl: str = ""
    """What is not to be trusted any more, though the authorities have signed it; "" if nobody tells."""

    def context(self, side: int) -> ssl.SSLContext:
        """Raises `OSError` or `ValueError` if they cannot be used."""
        context = ssl.SSLContext(side)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name is that of a node, and checked with its greeting
        context.verify_mode = ssl.CERT_REQUIRED
        with file_of(self.ca) as ca:
            context.load_verify_locations(ca)
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # who resumes a session shows no certificate
        if self.crl:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            with file_of(self.crl) as crl:
                context.load_verify_locations(crl)
        with file_of(self.cert) as cert, file_of(self.key) as key:
            context.load_cert_chain(cert, key, password=no_password)
        return context


def rehearse(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any] | None:
    """Shake hands with oneself, which makes later handshakes faster. Returns the certificate that is shown;
    raises `ssl.SSLError` if it would be refused."""
    mine, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialler = client.wrap_bio(mine, theirs)
    acceptor = server.wrap_bio(theirs, mine, server_side=True)
    for side in (dialler, acceptor, dialler, acceptor):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return dialler.getpeercert()


@contextlib.contextmanager
def file_of(content: str) -> Iterator[str]:
    """The name of a file with this content, for what reads nothing else: in memory, if the system can."""
    if hasattr(os, "memfd_create") and os.access("/proc/self/fd", os.X_OK):
        with os.fdopen(os.memfd_create("electorate"), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        import tempfile

        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as temporary:
            temporary.write(content)
            temporary.flush()
            yield temporary.name


def no_password() -> str:
    raise ValueError("its key needs a password; store it without one, readable by its owner alone")


def identity(cluster: str, node: NodeId) -> str:
    """The URI by which a certificate names a node."""
    from urllib.parse import quote

    return f"{SCHEME}{quote(cluster, safe='')}/{quote(node, safe='')}"


def names(
    certificate: Mapping[str, Any] | None, cluster: str, node: NodeId, template: str | None = None
) -> bool:
    """Whether the certificate (as `getpeercert` gives it) is that of this node. One of our own making says it
    by its URI, and by nothing else; any other must bear the name that the template stands for."""
    subjects = (certificate or {}).get("subjectAltName", ())
    if any(kind == "URI" and name.startswith(SCHEME) for kind, name in subjects):
        return ("URI", identity(cluster, node)) in subjects
    return template is not None and named(template, cluster, node) in subjects


def named(template: str, cluster: str, node: NodeId) -> tuple[str, str]:
    """The subject alternative name that is meant: a URI, or else the name of a host."""
    from urllib.parse import quote

    if ":" not in template:
        return "DNS", template.replace("{cluster}", cluster).replace("{id}", node)
    quoted = quote(cluster, safe=""), quote(node, safe="")
    return "URI", template.replace("{cluster}", quoted[0]).replace("{id}", quoted[1])


def expiry(certificate: Mapping[str, Any] | None) -> float:
    """When the certificate ends, in seconds since 1970."""
    return ssl.cert_time_to_seconds((certificate or {})["notAfter"])
