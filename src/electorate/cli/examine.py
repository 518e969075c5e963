"""All that a node looks at when it starts, looked at without starting it: files, keys, ports, packages."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from electorate.errors import InUse, UserError
from electorate.extras import install
from electorate.runtime.certificates import Certificates
from electorate.runtime.config import Config
from electorate.runtime.directory import inspect, nearest, usable
from electorate.runtime.names import bound, hindrance, stands_for
from electorate.runtime.secret import Secret
from electorate.runtime.store import lock, look
from electorate.web import token

SOON = 30 * 86400
"""Whose certificate ends within so many seconds is told."""


def troubles(config: Config, id: str, data: Path) -> Iterator[str]:
    """Why this node could not start here and now."""
    yield from unfit_files(config, id)
    try:
        if config.tls or config.secret_file:
            certificate_end(config, id)
    except UserError as error:
        yield str(error)
    if config.http_address(id):
        try:
            import electorate.web.server  # noqa: F401

            http_certificate_end(config, id)
        except UserError as error:
            yield str(error)
        except ModuleNotFoundError as error:
            yield f"HTTP needs a package that is not installed ({error.name}): {install('web')}"
    try:
        look_at_directory(config.cluster, id, data)
    except InUse as error:
        yield str(error)
        return  # whoever uses the directory has the ports, too
    except UserError as error:
        yield str(error)
    yield from taken_ports(config, id)


def doubts(config: Config) -> Iterator[str]:
    """What of all nodes can be seen from here, and deserves a second thought."""
    yield from unfit_files(config, "")
    for id in config.nodes:
        if config.tls and config.path(config.tls.cert, id).exists():
            yield from late(f"the certificate of node {id}", partial(certificate_end, config, id))
        https = config.http and config.http.tls
        if https and config.http_address(id) and config.path(https.cert, id).exists():
            with suppress(ModuleNotFoundError):
                yield from late(
                    f"the certificate of node {id}'s HTTP", partial(http_certificate_end, config, id)
                )


def late(what: str, end: Callable[[], float | None]) -> Iterator[str]:
    """That it ends soon, or cannot be used."""
    try:
        ends = end()
    except UserError as error:
        yield str(error)
    else:
        if ends and ends < time.time() + SOON:
            yield f"{what} ends on {time.strftime('%Y-%m-%d', time.gmtime(ends))}"


def unfit_files(config: Config, id: str) -> Iterator[str]:
    """The secret and the token, unless they are of a node that is not named."""
    if config.secret_file and not id and "{id}" not in config.secret_file:
        secret = Secret.of(config, id)
        try:
            secret.lines()
        except UserError as error:
            yield str(error)
        if secret.doubt:
            yield secret.doubt
    token_file = config.http and config.http.token_file
    if token_file and (id or "{id}" not in token_file):
        try:
            token.read(config.path(token_file, id))
        except UserError as error:
            yield str(error)


def certificate_end(config: Config, id: str) -> float:
    """Until when its certificate is good, in seconds since 1970. Raises `UserError` if it is not."""
    return Certificates(config, id, logging.getLogger("electorate")).end


def http_certificate_end(config: Config, id: str) -> float | None:
    """The same of what its HTTP shows, if it shows one."""
    from electorate.web.tls import Certificate

    encrypted = config.http and config.http.tls
    return Certificate(config, id, logging.getLogger("electorate")).end if encrypted else None


def look_at_directory(cluster: str, id: str, data: Path) -> None:
    """Raises `UserError` if it is in use, or cannot be used."""
    with usable(data):
        if data.is_dir():
            inspect(data)
        if (data / "lock").exists():
            os.close(lock(data))
        look(data, cluster, id)
        with tempfile.TemporaryDirectory(prefix=".electorate-", dir=nearest(data)):
            pass  # as a user that may do all, one sees only so what cannot be written


def taken_ports(config: Config, id: str) -> Iterator[str]:
    places = [config.listens(id)]
    if address := config.http_address(id):
        places.append((f"nodes.{id}.http", *address))
    for key, host, port in places:
        try:
            for listener in bound(stands_for(host, port)):
                listener.close()
        except OSError as error:
            yield f"node {id} cannot listen on {host}:{port}: {hindrance(error, key, port)}"
