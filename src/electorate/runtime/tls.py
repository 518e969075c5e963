"""Mutual TLS 1.3: both sides show a certificate of the cluster's own authority, which names the node.

A certificate names node `a` of cluster `demo` by the URI `electorate:demo/a` among its subject alternative
names, because an id may be any text; where the id is a host name, that name as a DNS entry will do, so that
certificates of a platform's own making can be used.

The files are looked at before each handshake, and read again when they have changed. If they are unusable
then, that is said, and those that were read before stay in use.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from electorate.errors import UserError

if TYPE_CHECKING:  # a guardian, which must be small, takes nothing but the files from here
    import logging

    from electorate.core.model import NodeId
    from electorate.runtime.config import Config

Stamp = tuple[tuple[int, int], ...]


class Files(NamedTuple):
    """Where the certificates of a node are."""

    ca: str
    cert: str
    key: str

    def stamp(self) -> Stamp:
        """What tells whether they have changed."""
        return tuple(stamp(path) for path in self)

    def absolute(self) -> Files:
        """The same, for a process that may be elsewhere."""
        return Files(*map(os.path.abspath, self))

    def context(self, side: int) -> ssl.SSLContext:
        """Raises `OSError` or `ValueError` if they cannot be used."""
        context = ssl.SSLContext(side)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name is that of a node, and checked with its greeting
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.cert, self.key, password=no_password)
        return context


def identity(cluster: str, node: NodeId) -> str:
    """The URI by which a certificate names a node."""
    from urllib.parse import quote

    return f"electorate:{quote(cluster, safe='')}/{quote(node, safe='')}"


def names(certificate: Mapping[str, Any] | None, cluster: str, node: NodeId) -> bool:
    """Whether the certificate (as `getpeercert` gives it) is that of this node."""
    subjects = (certificate or {}).get("subjectAltName", ())
    return ("URI", identity(cluster, node)) in subjects or ("DNS", node) in subjects


def expiry(certificate: Mapping[str, Any] | None) -> float:
    """When the certificate ends, in seconds since 1970: to be shown, for nothing here reads that clock."""
    return ssl.cert_time_to_seconds((certificate or {})["notAfter"])


class Certificates:
    """The certificate, key and authority of one node. Raises `UserError` if they cannot be used at first, or
    if every other node would refuse them."""

    def __init__(self, config: Config, node: NodeId, log: logging.Logger) -> None:
        assert config.tls is not None
        self.log = log
        self.cluster, self.node = config.cluster, node
        named = (config.path(name, node) for name in (config.tls.ca, config.tls.cert, config.tls.key))
        self.files = Files(*map(str, named))
        self.stamp = self.files.stamp()
        try:
            self.server, self.client = self.read()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.trouble(error)}; `elect certs issue {node}` makes what is needed"
            ) from None
        self.end = self.prove()
        """Of the certificate that this node shows, in seconds since 1970."""

    def read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return self.files.context(ssl.PROTOCOL_TLS_SERVER), self.files.context(ssl.PROTOCOL_TLS_CLIENT)

    def prove(self) -> float:
        """When my certificate ends, in seconds since 1970, as another node sees it. Raises `UserError` if
        that one would refuse it."""
        mine, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        dialler = self.client.wrap_bio(mine, theirs)
        acceptor = self.server.wrap_bio(theirs, mine, server_side=True)
        remedy = f"`elect certs issue {self.node} --force` makes one"
        try:
            for side in (dialler, acceptor, dialler, acceptor):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            raise UserError(f"{self.files.cert} would be refused by other nodes: {why}; {remedy}") from None
        certificate: Mapping[str, Any] | None = dialler.getpeercert()
        if not names(certificate, self.cluster, self.node):
            named = ", ".join(name for _, name in (certificate or {}).get("subjectAltName", ())) or "nobody"
            raise UserError(
                f"{self.files.cert} names {named}, and not node '{self.node}' of cluster '{self.cluster}';"
                f" {remedy}"
            )
        return expiry(certificate)

    def refresh(self) -> None:
        """Before a handshake: if the files have changed, use them as they are now."""
        seen = self.files.stamp()
        if seen != self.stamp:
            self.stamp, before = seen, (self.server, self.client)
            try:
                self.server, self.client = self.read()
                self.end = self.prove()
                self.log.info("using the new certificate in %s", self.files.cert)
            except (OSError, ValueError, UserError) as error:
                self.server, self.client = before
                why = str(error) if isinstance(error, UserError) else self.trouble(error)
                self.log.error("%s; the one that was read before stays in use", why)

    def trouble(self, error: OSError | ValueError) -> str:
        ca, cert, key = self.files
        if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
            why = getattr(error, "reason", None) or str(error)
            return f"{cert} and {key}, with {ca}, are no certificate that can be used ({why})"
        missing = next((path for path in self.files if stamp(path) == (0, 0)), cert)
        return f"{missing} cannot be read: {error.strerror}"


def stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (pathlib is slow to import)
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)


def no_password() -> str:
    raise ValueError("its key needs a password; store it without one, readable by its owner alone")
