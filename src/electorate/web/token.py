"""Who may command this node over HTTP: whoever bears the token of a file."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from electorate.errors import UserError

LONGEST = 4096
"""The most bytes that a token file may have."""


def read(path: Path) -> bytes:
    """The token in this file, as it is now. Raises `UserError` if it cannot be read, others can read it, or
    there is nothing in it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                raise UserError(f"token file {path} is open to everybody: chmod o= {path}")
            token = file.read(LONGEST + 1).strip()
    except OSError as error:
        raise UserError(
            f"token file {path} cannot be read ({error.strerror}): make it, or leave token_file out"
        ) from None
    if not 0 < len(token) <= LONGEST:
        raise UserError(
            f"token file {path} holds no token: write one with (umask 077; openssl rand -hex 32 > {path})"
        )
    return token


def bears(authorization: str, token: bytes) -> bool:
    """Whether this Authorization header bears the token; how long that takes does not tell how near it is."""
    scheme, _, credentials = authorization.partition(" ")
    given = credentials.strip().encode("latin-1", "replace")
    return hmac.compare_digest(given, token) and scheme.lower() == "bearer"
