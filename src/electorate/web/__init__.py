"""HTTP: who leads, whether this node is well, what happens, what it measures, and handing over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from electorate.errors import UserError
from electorate.extras import install
from electorate.runtime.host import Host


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[None]:
    """Serve HTTP for a host that has started, in a thread beside its loop, if its configuration says
    where; nothing otherwise. At the end all answers end, event streams too.

    Raises `UserError` if the address is taken, the token file is unfit, or the extra `web` is missing."""
    if host.config.http_address(host.id) is None:
        yield
        return
    try:
        from electorate.web.server import serve
    except ModuleNotFoundError as error:
        raise UserError(
            f"HTTP needs a package that is not installed ({error.name}): {install('web')},"
            " or leave http out of the cluster file"
        ) from None
    async with serve(host):
        yield
