"""HTTPS: the certificate that this node shows to whoever asks, and whose certificates it wants to see.

Where `[http.tls] client_ca` names an authority, whoever shows no certificate of it may only ask what probes
and load balancers ask, for most of them have none. A certificate of another authority is refused.

The files are looked at before each handshake, and read again when they have changed. If they are unusable
then, that is said, those that were read before stay in use, and each handshake tries again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Hashable
from pathlib import Path

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from electorate.core.model import NodeId
from electorate.errors import UserError
from electorate.runtime.config import Config
from electorate.runtime.private import stamp
from electorate.runtime.tls import expiry, no_password, rehearse
from electorate.web.answers import Complaint

PROBES = ("/leader", "/health", "/ready")
"""What may be asked without a certificate, where one is wanted."""
NO_CHECK_TIME = 0x200000
"""OpenSSL's flag for a look at a certificate whenever it ends, which Python has no name for."""


class Certificate:
    """The certificate of one node's HTTP. Raises `UserError` if it cannot be used at first."""

    def __init__(self, config: Config, node: NodeId, log: logging.Logger) -> None:
        assert config.http and config.http.tls
        tls, self.log = config.http.tls, log
        self.cert, self.key = (str(config.path(name, node)) for name in (tls.cert, tls.key))
        self.client_ca = str(config.path(tls.client_ca, node)) if tls.client_ca else None
        self.complaint = ""
        """What the log has told of last, until all is well."""
        self.seen = self.look()
        self.use()

    @property
    def files(self) -> tuple[str, ...]:
        return (self.cert, self.key, *([self.client_ca] if self.client_ca else ()))

    def look(self) -> Hashable:
        """What tells whether they have changed."""
        return tuple(stamp(Path(path)) for path in self.files)

    def use(self) -> None:
        """The files as they are now. Raises `UserError` if they cannot be used; then all is as before."""
        try:
            context = self.read()
            end = self.prove(context)
        except (OSError, ValueError) as error:
            raise UserError(self.trouble(error)) from None
        self.context = context
        self.end = end
        """When it ends, in seconds since 1970."""

    def read(self) -> ssl.SSLContext:
        """Raises `OSError` or `ValueError` if the files cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.num_tickets = 0  # each connection shows its certificate anew
        context.options |= ssl.OP_NO_TICKET
        context.load_cert_chain(self.cert, self.key, password=no_password)
        if self.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self.client_ca)
        return context

    def prove(self, context: ssl.SSLContext) -> float:
        """Shake hands as a client would, and tell when the certificate ends, in seconds since 1970. Raises
        `OSError` if none would."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(self.cert)
        client.verify_flags = ssl.VerifyFlags(ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME)
        return expiry(rehearse(context, client))

    def refresh(self) -> None:
        """Before a handshake: if the files have changed, or could not be used, use them as they are now."""
        seen = self.look()
        if seen != self.seen:
            try:
                self.use()
                self.seen, self.complaint = seen, ""
                self.log.info("using the new certificate in %s", self.cert)
            except UserError as error:
                if str(error) != self.complaint:
                    self.log.error("%s; what was read before stays in use", error)
                self.complaint = str(error)

    def trouble(self, error: OSError | ValueError) -> str:
        if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
            what = f"{self.cert} and {self.key}" + (f", with {self.client_ca}," if self.client_ca else "")
            return f"http.tls: {what} are nothing that HTTPS can use ({plain(error)}): PEM files are needed"
        missing = next((path for path in self.files if not stamp(Path(path))), self.key)
        return f"http.tls: {missing} cannot be read ({error.strerror}): make it, or leave [http.tls] out"

    def is_satisfied(self, transport: asyncio.BaseTransport) -> bool:
        """Whether who calls has shown what is wanted."""
        return not self.client_ca or bool(transport.get_extra_info("peercert"))


def plain(error: Exception) -> str:
    """What OpenSSL says, without where in the code of Python that was."""
    return re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error))


class OnlyProbes:
    """What those who have shown no certificate may ask."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            return await self.app(scope, receive, send)
        complaint = Complaint(
            f"without a certificate of this node's client authority only {', '.join(PROBES)} are answered"
        )
        answer = Response(msgspec.json.encode(complaint), 403, media_type="application/json")
        return await answer(scope, receive, send)
