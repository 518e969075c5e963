"""A secret that all nodes share, for those without certificates: who dials and who answers each prove that
they know it, and every message after that bears a code that only they can make. Nothing is encrypted.

    dialler                                  acceptor
    Greeting(…, nonce)
                                             Challenge(nonce, proof)
    Proof(proof)
                                             Welcome or Refused, sealed
    messages, sealed

A proof is the HMAC-SHA256, under the secret, of the prover's side, the whole greeting and the acceptor's
nonce: with fresh nonces nothing can be replayed, and with the side nothing can be sent back. The keys of the
seals are made in the same way, one for each direction, and a seal covers the number of its message.
"""

from __future__ import annotations

import hmac
import secrets
import stat
from hashlib import blake2b, sha256
from pathlib import Path

from electorate.core.identity import Start
from electorate.errors import UserError
from electorate.runtime import attestation

NONCE = 32
SEAL = 16
SHORTEST = 16
"""So many bytes at least the secret must have."""


def nonce() -> bytes:
    return secrets.token_bytes(NONCE)


class Secret:
    """Read from a file that its owner alone can read. Raises `UserError`."""

    def __init__(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
            self.key = path.read_bytes().strip()
        except OSError as error:
            raise UserError(f"secret_file {path} cannot be read: {error.strerror}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise UserError(f"secret_file {path} can be read by others: chmod 600 {path}")
        if len(self.key) < SHORTEST:
            raise UserError(
                f"secret_file {path} has {len(self.key)} bytes, and needs {SHORTEST}:"
                f" head -c 32 /dev/urandom | base64 > {path}"
            )

    def derive(self, purpose: str, greeting: bytes, nonce: bytes) -> bytes:
        """What only those who know the secret can make of this greeting and this nonce."""
        text = purpose.encode() + b"\0" + sha256(greeting).digest() + nonce
        return hmac.digest(self.key, text, "sha256")

    def key_of_exit(self, start: Start) -> bytes:
        """What a guardian needs to attest the end of this life, and can use for nothing else."""
        return self.derive("exited", repr(tuple(start)).encode(), b"")

    def is_proof_of_exit(self, proof: bytes, start: Start, greeting: bytes) -> bool:
        return hmac.compare_digest(proof, attestation.proof(self.key_of_exit(start), greeting))

    def is_proof(self, proof: bytes, purpose: str, greeting: bytes, nonce: bytes) -> bool:
        return len(nonce) == NONCE and hmac.compare_digest(proof, self.derive(purpose, greeting, nonce))


class Seal:
    """The codes of the messages that go in one direction, one after the other."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.number = 0

    def code(self, body: bytes) -> bytes:
        """Of the next message."""
        self.number += 1
        return blake2b(self.number.to_bytes(8) + body, key=self.key, digest_size=SEAL).digest()

    def holds(self, body: bytes, code: bytes) -> bool:
        return hmac.compare_digest(code, self.code(body))
