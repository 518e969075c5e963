"""Who may read what is to be kept from others, by one rule for keys, secrets and tokens: nobody but the owner
writes it, and nobody but the owner reads it, and its group, where it is not this user's own. So root may give
a key to a group (as Kubernetes does with `fsGroup`), and a user's own is for that user alone, as PostgreSQL
has it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from pathlib import Path

from electorate.errors import UserError

LONGEST = 1 << 20
"""The most bytes that such a file may have."""


def read(path: Path, what: str, otherwise: str = "") -> bytes:
    """The content of this file. Raises `UserError`, which never tells what is in it, and says what else to do
    if it cannot be read."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}{otherwise}") from None
    mode = stat.S_IMODE(status.st_mode)
    if excess := mode & ~allowed(status.st_uid, os.geteuid()):
        whom = "everybody" if excess & stat.S_IRWXO else "its group"
        raise UserError(f"{what} {path} is open to {whom}: chmod {mode & ~excess:o} {path}")
    if len(content) > LONGEST:
        raise UserError(f"{what} {path} has more than {LONGEST} bytes: it cannot be what is meant")
    return content


def allowed(owner: int, me: int) -> int:
    """The mode that it may have at most."""
    return 0o700 if owner == me != 0 else 0o750


def stamp(path: Path) -> Hashable:
    """What tells whether this file, or who may read it, has changed: when it was modified does not."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ctime_ns, status.st_ino, status.st_size)


def write(path: Path, content: bytes, mode: int, force: bool = False, otherwise: str = "") -> None:
    """Never over what is there, unless that is wished; whoever reads it meanwhile sees the old or the new."""
    new = path.with_name(path.name + ".new")
    try:
        if path.exists() and not force:
            raise UserError(f"{path} is there already; move it away{otherwise}")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
