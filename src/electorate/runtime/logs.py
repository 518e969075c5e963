"""What the command writes to standard error: one line for each thing that happened, for people or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest was given by `extra=`."""


class Json(logging.Formatter):
    """One object a line, with whatever the record bears besides."""

    def format(self, record: logging.LogRecord) -> str:
        what: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        what |= {name: value for name, value in vars(record).items() if name not in PLAIN}
        if record.exc_info:
            what["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(what, enc_hook=str).decode()


def write_logs(form: Literal["text", "json"], level: str) -> None:
    """Raises `ValueError` for what is no level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
