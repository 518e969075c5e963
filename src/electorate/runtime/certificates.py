"""What one node shows to the others, and whom it trusts: from files, or made from a secret that all share.

Both are looked at before each handshake and every second, and read again when they have changed, or when what
was made from a secret has had a third of its time. If they are unusable then, that is said, and those that
were read before stay in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

from electorate.core.model import NodeId
from electorate.errors import UserError
from electorate.runtime import private
from electorate.runtime.config import Config
from electorate.runtime.secret import Secret
from electorate.runtime.tls import Credentials, expiry, names

LOOK = 1.0
"""Seconds between two looks at whether something has changed."""


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
        self.named = str(self.cert)
        self.remedy = f"`elect certs issue {node} --force` makes one"
        self.distrust = "what signs it must be in the ca of the other"
        self.doubt: str | None = None
        self.making = f"`elect certs issue {node}` makes what is needed"

    def stamp(self) -> Hashable:
        return tuple(stamp(path) for path in (self.ca, self.cert, self.key))

    def read(self) -> Credentials:
        try:
            texts = self.ca.read_text(), self.cert.read_text()
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}; {self.making}") from None
        except ValueError:
            raise UserError(f"{self.ca} and {self.cert} are no certificates in PEM; {self.making}") from None
        key = private.read(self.key, "the key", f"; {self.making}")
        credentials = Credentials(*texts, key.decode("ascii", "replace"))
        try:
            credentials.context(ssl.PROTOCOL_TLS_SERVER)
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or str(error)
            raise UserError(
                f"{self.cert} and {self.key}, with {self.ca}, are no certificate that can be used ({why});"
                f" {self.making}"
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
        self.source: Source = Files(config, node) if config.tls else Secret.of(config, node)
        self.seen = self.source.stamp()
        self.use(self.source.read())
        self.changed: Callable[[], None] = lambda: None
        """Is called when others are in use."""

    def use(self, credentials: Credentials) -> None:
        """Raises `UserError` if other nodes would refuse them."""
        server = credentials.context(ssl.PROTOCOL_TLS_SERVER)
        client = credentials.context(ssl.PROTOCOL_TLS_CLIENT)
        self.end = self.prove(server, client)
        """Of the certificate that this node shows, in seconds since 1970."""
        self.credentials, self.server, self.client = credentials, server, client

    def prove(self, server: ssl.SSLContext, client: ssl.SSLContext) -> float:
        """When my certificate ends, in seconds since 1970, as another node sees it. Raises `UserError` if
        that one would refuse it."""
        mine, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        dialler = client.wrap_bio(mine, theirs)
        acceptor = server.wrap_bio(theirs, mine, server_side=True)
        try:
            for side in (dialler, acceptor, dialler, acceptor):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            raise UserError(
                f"{self.source.named} would be refused by other nodes: {why}; {self.source.remedy}"
            ) from None
        certificate: Mapping[str, Any] | None = dialler.getpeercert()
        if not names(certificate, self.cluster, self.node):
            named = ", ".join(name for _, name in (certificate or {}).get("subjectAltName", ())) or "nobody"
            raise UserError(
                f"{self.source.named} names {named}, and not node '{self.node}' of cluster '{self.cluster}';"
                f" {self.source.remedy}"
            )
        return expiry(certificate)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self.refresh()

    async def refresh(self) -> None:
        """If they have changed, use them as they are now. What takes long is done in a thread."""
        seen = self.source.stamp()
        if seen == self.seen and not self.source.wears_out(self.end):
            return
        self.seen = seen
        try:
            self.use(await asyncio.to_thread(self.source.read))
        except UserError as error:
            self.log.error("%s; the one that was read before stays in use", error)
        else:
            self.log.info("using the new certificate in %s", self.source.named)
            self.changed()


def stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)
