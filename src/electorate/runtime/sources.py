"""Where a configuration comes from: a file, the environment or arguments; and who said what."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from electorate.errors import UserError

PREFIX = "ELECTORATE_"
OTHERS = {"CONFIG", "ID", "DATA", "TERM", "ELECTION", "NODE"}
"""Variables that are no keys: which node this is, and what `elect run` tells its command."""

LINK = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)|(?P<url>(.*_)?PORT)"
)
"""Variables that Kubernetes sets in each container for each service (service links), of ours if one is called
electorate: ELECTORATE_SERVICE_HOST, ELECTORATE_PORT_7400_TCP, and ELECTORATE_PORT, which then is a URL."""

PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
KEY = re.compile(rf"\s*({PART}(?:\s*\.\s*{PART})*)\s*=")
TABLE = re.compile(rf"\s*\[\[?\s*({PART}(?:\s*\.\s*{PART})*)\s*\]")


class Source:
    """What was said, as one nested dictionary, and the place where each key was said."""

    def __init__(self, name: str, content: dict[str, Any] | None = None) -> None:
        self.name = name
        """Where that belongs which nobody has said."""
        self.content = content or {}
        self.places: dict[str, str] = {}

    def set(self, place: str, key: str, value: Any) -> None:
        """This place says so, and overrides what was said before. Tables are merged."""
        self.places[key] = place
        *tables, last = key.split(".")
        table = self.content
        for name in tables:
            inner = table.get(name)
            table[name] = table = dict(inner) if isinstance(inner, Mapping) else {}
        table[last] = value

    def place(self, key: str) -> str:
        """Where the key was said, or the table that it is in or should be in."""
        known = key
        while known and known not in self.places:
            known = known.rpartition(".")[0]
        return self.places.get(known, self.name)

    def is_from_file(self, key: str) -> bool:
        """Whether a line of a file says so, and nothing since."""
        return self.place(key).startswith(f"{self.name}:")

    def complaint(self, key: str, what: str) -> UserError:
        """An error that names the place of the key."""
        return UserError(f"{self.place(key)}: {key}{what}")


def read(path: Path) -> Source:
    """What a TOML file says, line by line. Raises `UserError`."""
    try:
        text = path.read_text("utf-8")
        source = Source(str(path), tomllib.loads(text))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a cluster file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for number, key in keys(text):
        source.places.setdefault(key, f"{path}:{number}")
    return source


def keys(text: str) -> Iterator[tuple[int, str]]:
    """The keys and tables of a TOML text that is known to be one, with their lines; what is inside of inline
    tables is left out."""
    table = ""
    until = ""
    for number, line in enumerate(text.splitlines(), 1):
        if until:
            until = "" if until in line else until
            continue
        if found := TABLE.match(line):
            table = undotted(found[1]) + "."
            yield number, table[:-1]
        elif found := KEY.match(line):
            yield number, table + undotted(found[1])
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                until = quotes


def undotted(key: str) -> str:
    """`nodes . "a"` as it is written elsewhere: nodes.a."""
    return ".".join(part.strip("\"'") for part in re.findall(PART, key))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be keys, without their prefix."""
    ours = {name.removeprefix(PREFIX): value for name, value in environ.items() if name.startswith(PREFIX)}
    return {name: value for name, value in ours.items() if name not in OTHERS and not is_link(name, value)}


def is_link(name: str, value: str) -> bool:
    found = LINK.fullmatch(name)
    return bool(found and (found["url"] is None or "://" in value))
