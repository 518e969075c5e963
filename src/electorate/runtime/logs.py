"""What the command writes to standard error: one line for each thing that happened, for people or as JSON.

A thread of its own writes the lines. Whoever logs only puts a line in a queue: a pipe that nobody reads takes
no more after a while, and a node that waited for it would stand still. What finds no room in the queue is
dropped and counted, and the count is written where the lines are missing.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest was given by `extra=`."""


ROOM = 4 << 20
"""So many bytes of lines may wait to be written: those of ten thousand elections that all change hands."""
FAREWELL = 1.0
"""For so many seconds the end of the process waits for what is not written yet."""


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


class Queued(logging.Handler):
    """Writes to a file by its descriptor, in a thread of its own, so that whoever logs never waits."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.lines: deque[bytes] = deque()
        self.size = 0
        """Bytes of the lines that wait, or are being written."""
        self.dropped = 0
        self.turn = threading.Condition()
        threading.Thread(target=self.work, name="electorate-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.line(record)
        with self.turn:
            if self.size + len(line) > ROOM:
                self.dropped += 1
            else:
                self.lines.append(line)
                self.size += len(line)
            self.turn.notify_all()

    def line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # a line that is wrong must not end what it tells of
            why = f"a line could not be written ({type(error).__name__}): {record.msg!r}"
            text = self.format(note(why))
        return text.encode(errors="backslashreplace") + b"\n"

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        with self.turn:
            self.turn.wait_for(lambda: not self.size, FAREWELL)

    def work(self) -> None:
        while True:
            with self.turn:
                self.turn.wait_for(lambda: self.lines or self.dropped)
                lines, self.lines = b"".join(self.lines), deque()
                dropped, self.dropped = self.dropped, 0
            try:
                self.write(lines)
                if dropped:
                    gap = f"{dropped} lines are missing here: nobody read them in time"
                    self.write(self.line(note(gap, dropped=dropped)))
            except OSError:
                pass  # nobody will ever read it
            with self.turn:
                self.size -= len(lines)
                self.turn.notify_all()

    def write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            try:
                left = left[os.write(self.descriptor, left) :]
            except BlockingIOError:
                room = select.poll()
                room.register(self.descriptor, select.POLLOUT)
                room.poll()


def note(text: str, **extra: Any) -> logging.LogRecord:
    """A line of the log about itself."""
    level = {"levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({"name": "electorate.log", "msg": text, **level, **extra})


def write_logs(form: Literal["text", "json"], level: str) -> None:
    """Raises `ValueError` for what is no level."""
    handler = Queued(sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY))
    handler.setFormatter(Json() if form == "json" else logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
