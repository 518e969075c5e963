"""A secret that all nodes share, for those without certificates of their own: it stands for an authority.

Whoever knows the secret derives the same authority from it, by scrypt, and signs itself a certificate with a
new key. From there on all is as with certificates that `elect certs` makes.

A secret is a line of its file. The first one signs, and all of them are trusted, so it can be changed while
the nodes run: add the new one below, on each node; put it first, on each; take the old one out of each.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from electorate.errors import UserError
from electorate.extras import install
from electorate.runtime import private
from electorate.runtime.tls import Credentials

if TYPE_CHECKING:
    from electorate.core.model import NodeId
    from electorate.runtime.authority import Authority
    from electorate.runtime.config import Config

RANDOM = 32
"""So many random bytes at least a secret has."""
PHRASE = "passphrase:"
"""Begins a line whose secret people have thought of."""
SHORTEST = 16
"""So many characters at least that one has."""
MOST = 8
"""So many secrets at most are in use at one time."""
COSTS = {False: 1 << 14, True: 1 << 17}
"""Of scrypt: 16 MB and some 50 ms for random bytes; 128 MB and 0.5 s, for each guess, for a pass-phrase."""
LIFE = 90 * 86400.0
"""Seconds for which a certificate is good that a node makes for itself."""
WORN = 2 / 3
"""It makes another one when so much of that is left."""
GUESSES = (
    "whoever reaches a node can take its certificate home and guess there, a few times a second on each"
    " core, so it is worth what that costs; `elect secret` makes one that cannot be guessed"
)


class Line(NamedTuple):
    """One secret, and whether it is a pass-phrase."""

    secret: bytes
    is_phrase: bool


def new() -> str:
    return secrets.token_hex(RANDOM)


class Secret:
    """The secrets of a cluster, in the file of one node."""

    def __init__(self, path: Path, cluster: str, node: NodeId) -> None:
        self.path, self.cluster, self.node = path, cluster, node
        self.named = f"the certificate made from secret_file {path}"
        self.remedy = "set the clock of this machine"
        self.doubt: str | None = None
        self.distrust = "give every node the same secret_file"

    @classmethod
    def of(cls, config: Config, node: NodeId) -> Secret:
        assert config.secret_file
        return cls(config.path(config.secret_file, node), config.cluster, node)

    def stamp(self) -> Hashable:
        return private.stamp(self.path)

    def lines(self) -> list[Line]:
        """The secrets in the file, that which signs first. Raises `UserError`, which tells none of them."""
        said = private.read(self.path, "secret_file").decode("utf-8", "replace").splitlines()
        lines = [self.parse(number, line.strip()) for number, line in enumerate(said, 1) if line.strip()]
        if not 1 <= len(lines) <= MOST:
            how_many = "no secret" if not lines else f"{len(lines)} secrets, more than {MOST}"
            raise UserError(f"secret_file {self.path} has {how_many}: `elect secret` prints one")
        if any(line.is_phrase for line in lines):
            self.doubt = f"secret_file {self.path} has a pass-phrase: {GUESSES}"
        return lines

    def parse(self, number: int, line: str) -> Line:
        if line.startswith(PHRASE):
            phrase = line.removeprefix(PHRASE).strip()
            if len(phrase) < SHORTEST or len(set(phrase)) < SHORTEST // 2:
                raise UserError(
                    f"secret_file {self.path}, line {number}: a pass-phrase has {SHORTEST} characters or"
                    f" more, {SHORTEST // 2} of them different"
                )
            return Line(phrase.encode(), True)
        try:
            drawn = bytes.fromhex(line)
        except ValueError:
            drawn = b""
        if len(drawn) < RANDOM or len(set(drawn)) < RANDOM // 2:
            raise UserError(
                f"secret_file {self.path}, line {number}: a secret is {RANDOM} random bytes or more, in"
                f" hexadecimal digits, as `elect secret` prints it (or a pass-phrase, in a line that begins"
                f" with '{PHRASE}')"
            )
        return Line(drawn, False)

    def read(self) -> Credentials:
        """A certificate for this node, made now. Raises `UserError`."""
        try:
            from electorate.runtime import authority
        except ModuleNotFoundError as error:
            raise UserError(
                f"secret_file needs a package that is not installed ({error.name}): {install('tls')}"
            ) from None
        authorities = [derived(line, self.cluster) for line in self.lines()]
        today = time.time()
        end = datetime.fromtimestamp(today + LIFE, UTC)
        if end <= authority.BEGIN:
            when = f"{datetime.fromtimestamp(today, UTC):%Y-%m-%d}"
            raise UserError(f"{self.named} cannot be made on {when}: {self.remedy}")
        cert, key = authorities[0].issue(self.cluster, self.node, authority.BEGIN, end)
        return Credentials("".join(each.pem for each in authorities), cert.decode(), key.decode())

    def wears_out(self, end: float) -> bool:
        return end - time.time() < WORN * LIFE


@lru_cache(maxsize=MOST)
def derived(line: Line, cluster: str) -> Authority:
    """The authority that this secret stands for: the same on every node."""
    from electorate.runtime.authority import Authority

    cost = COSTS[line.is_phrase]
    salt = b"electorate\0" + cluster.encode()
    seed = hashlib.scrypt(line.secret, salt=salt, n=cost, r=8, p=1, dklen=32, maxmem=2048 * cost)
    return Authority.of(seed)
