"""Who may command this node over HTTP: whoever bears the token of a file."""

from __future__ import annotations

import hmac
from pathlib import Path

from electorate.errors import UserError
from electorate.runtime import private

LONGEST = 4096
"""The most bytes that a token file may have."""


def read(path: Path) -> bytes:
    """The token in this file of a node, as it is now. Raises `UserError` if it cannot be read, others can
    read it, or there is not one token in it."""
    return only(path, private.read(path, "token file", "; make it, or leave token_file out"))


def only(path: Path, content: bytes) -> bytes:
    """The one token in this content of a file. Raises `UserError`, which never tells what is in it."""
    token = content.strip()
    if not 0 < len(token) <= LONGEST:
        raise UserError(
            f"token file {path} holds no token: write one with (umask 077; openssl rand -hex 32 > {path})"
        )
    if len(token.splitlines()) > 1:
        raise UserError(f"token file {path} holds several lines: leave the token in it, alone, in one line")
    if any(byte < 0x20 or byte == 0x7F for byte in token):
        raise UserError(f"token file {path} holds what is not text: write the token in one line of text")
    return token


def bears(authorization: str, token: bytes) -> bool:
    """Whether this Authorization header bears the token; how long that takes does not tell how near it is."""
    scheme, _, credentials = authorization.partition(" ")
    given = credentials.strip().encode("latin-1", "replace")
    return hmac.compare_digest(given, token) and scheme.lower() == "bearer"
