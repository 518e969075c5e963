"""`elect secret`: a secret for all nodes of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from electorate.runtime.private import write
from electorate.runtime.secret import new


def secret(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it, for its owner alone; by default it is printed.")
    ] = None,
) -> None:
    """Make a secret: 32 random bytes, the same for every node of a cluster (`secret_file`).

    To change it while the nodes run: add a new one as the last line of each node's file, then put it first in
    each, then take the old one out of each.
    """
    if file is None:
        print(new())
        return
    write(file, f"{new()}\n".encode(), 0o600)
    print(f"Wrote {file}. Give each node a copy that its user alone can read, and put into the cluster file:")
    print(f'  secret_file = "{file}"')
