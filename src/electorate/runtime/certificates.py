"""What one node shows to the others, and whom it trusts: from files, or made from a secret that all share.

Both are looked at before each handshake and every second, and read again when they have changed, or when what
was made from a secret has had a third of its time. If they are unusable then, that is said, those that were
read before stay in use, and each look tries again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

from electorate.core.model import NodeId
from electorate.errors import UserError
from electorate.runtime import private
from electorate.runtime.config import Config
from electorate.runtime.secret import Secret
from electorate.runtime.tls import Credentials, expiry, named, names, rehearse

LOOK = 1.0
"""Seconds between two looks at whether something has changed."""

REMEDIES = {
    3: "tls.crl must have a list of each authority in tls.ca: leave it out, or add what is missing",
    12: "get a new list from its authority, or leave tls.crl out",
    26: (
        "a node is a server and a client, so its certificate must be for both (extendedKeyUsage), which those"
        " of public authorities are not: take one of your own, as `elect certs issue` makes it"
    ),
}
"""What to do about what OpenSSL finds (X509_V_ERR_…): no list, one that has ended, another purpose."""
THEIRS = {
    9: "compare the clocks",
    10: "compare the clocks, or give it a new certificate",
    23: "give it a new certificate, if it is a member yet",
}
"""What to do if it finds that in what another shows: not yet good, expired, revoked."""


class Source(Protocol):
    """Where credentials come from."""

    named: str
    """What it is called in a sentence."""
    remedy: str
    """What to do if others would refuse what is shown."""
    distrust: str
    """What to do if another node shows what is not to be trusted."""
    doubt: str | None
    """What deserves a second thought, though it can be used."""

    def stamp(self) -> Hashable:
        """What tells whether it has changed."""

    def read(self) -> Credentials:
        """Raises `UserError` if it cannot be used."""

    def wears_out(self, end: float) -> bool:
        """It is time to read it again: what was read ends then."""


class Files:
    """Where the certificates of a node are."""

    def __init__(self, config: Config, node: NodeId) -> None:
        assert config.tls is not None
        self.ca, self.cert, self.key = (
            config.path(name, node) for name in (config.tls.ca, config.tls.cert, config.tls.key)
        )
        self.crl = config.path(config.tls.crl, node) if config.tls.crl else None
        self.named = str(self.cert)
        self.remedy = f"`elect certs issue {node} --force` makes one"
        self.distrust = "what signs it must be in the ca of the other"
        self.doubt: str | None = None
        list = ", and `elect certs revoke` the list" if self.crl else ""
        self.making = f"`elect certs issue {node}` makes what is needed{list}"

    def stamp(self) -> Hashable:
        return tuple(private.stamp(path) for path in (self.ca, self.cert, self.key, self.crl) if path)

    def read(self) -> Credentials:
        try:
            ca, cert, crl = (text(path) if path else "" for path in (self.ca, self.cert, self.crl))
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}; {self.making}") from None
        key = private.read(self.key, "the key", f"; {self.making}")
        credentials = Credentials(ca, cert, key.decode("ascii", "replace"), crl)
        try:
            credentials.context(ssl.PROTOCOL_TLS_SERVER)
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or str(error)
            also = f" and {self.crl}" if self.crl else ""
            raise UserError(
                f"{self.cert} and {self.key}, with {self.ca}{also}, are no certificate that can be used"
                f" ({why}); {self.making}"
            ) from None
        return credentials

    def wears_out(self, end: float) -> bool:
        return False


class Certificates:
    """Those of one node. Raises `UserError` if they cannot be used at first, or if every other node would
    refuse them."""

    def __init__(self, config: Config, node: NodeId, log: logging.Logger) -> None:
        self.log = log
        self.cluster, self.node = config.cluster, node
        self.template = config.tls.name if config.tls else None
        self.source: Source = Files(config, node) if config.tls else Secret.of(config, node)
        self.seen: Hashable = self.source.stamp()
        self.use(self.source.read())
        self.complaint = ""
        """What the log has told of last, until all is well."""
        self.reading = False
        self.changed: Callable[[bool], None] = lambda trust: None
        """Is called when others are in use, and told whether they trust others than before."""

    def use(self, credentials: Credentials) -> None:
        """Raises `UserError` if other nodes would refuse them."""
        try:
            server = credentials.context(ssl.PROTOCOL_TLS_SERVER)
            client = credentials.context(ssl.PROTOCOL_TLS_CLIENT)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.source.named} cannot be used: {error}") from None
        self.end = self.prove(server, client)
        """Of the certificate that this node shows, in seconds since 1970."""
        self.credentials, self.server, self.client = credentials, server, client

    def prove(self, server: ssl.SSLContext, client: ssl.SSLContext) -> float:
        """When my certificate ends, in seconds since 1970, as another node sees it. Raises `UserError` if
        that one would refuse it."""
        try:
            certificate = rehearse(server, client)
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            remedy = REMEDIES.get(getattr(error, "verify_code", 0), self.source.remedy)
            raise UserError(f"{self.source.named} would be refused by other nodes: {why}; {remedy}") from None
        if not self.names(certificate, self.node):
            said = ", ".join(name for _, name in (certificate or {}).get("subjectAltName", ())) or "nobody"
            wanted = f" ({named(self.template, self.cluster, self.node)[1]})" if self.template else ""
            raise UserError(
                f"{self.source.named} names {said}, and not node '{self.node}' of cluster"
                f" '{self.cluster}'{wanted}; {self.source.remedy}"
            )
        return expiry(certificate)

    def names(self, certificate: Mapping[str, Any] | None, node: NodeId) -> bool:
        """Whether the certificate (as `getpeercert` gives it) is that of this node of the cluster."""
        return names(certificate, self.cluster, node, self.template)

    def doubt(self, error: ssl.SSLCertVerificationError) -> str:
        """Why what another has shown is not to be trusted, and what to do."""
        code = error.verify_code
        return f"{error.verify_message}; {THEIRS.get(code) or REMEDIES.get(code) or self.source.distrust}"

    def left(self, end: float) -> float:
        """For how many seconds more a certificate is good that ends then."""
        return end - time.time()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self.refresh()
            if self.left(self.end) < 0 and not self.complaint:
                self.complaint = f"{self.source.named} has expired, and other nodes refuse it"
                self.log.error("%s; %s", self.complaint, self.source.remedy)

    async def refresh(self) -> None:
        """If they have changed, or could not be used, use them as they are now. What takes long is done in a
        thread, one after the other: what was read first must not come last."""
        seen = self.source.stamp()
        if self.reading or (seen == self.seen and not self.source.wears_out(self.end)):
            return
        self.seen, before = seen, self.credentials
        self.reading = True
        try:
            self.use(await asyncio.to_thread(self.source.read))
        except asyncio.CancelledError:
            self.seen = None  # whoever comes next reads it
            raise
        except UserError as error:
            self.seen = None
            if str(error) != self.complaint:
                self.log.error("%s; the one that was read before stays in use", error)
            self.complaint = str(error)
        else:
            self.complaint = ""
            self.log.info("in use now, as it has become: %s", self.source.named)
            now = self.credentials
            self.changed((now.ca, now.crl) != (before.ca, before.crl))
        finally:
            self.reading = False


def text(path: Path) -> str:
    """PEM is ASCII; whatever else there is are comments."""
    return path.read_text("utf-8", errors="replace")
