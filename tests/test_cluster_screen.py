"""The live table of `elect up`, on a terminal and with keys that are really pressed."""

import os
import pty
import re
import select
import sys
import time
from pathlib import Path

BOUND = 60.0
"""Seconds: far more than anything here takes."""
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A process on a terminal of its own, as one who sits there meets it."""

    def __init__(self, scratch: Path, *command: str) -> None:
        environment = {**os.environ, "TMPDIR": str(scratch), "TERM": "xterm", "COLUMNS": "110", "LINES": "30"}
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, environment)
        self.shown = b""

    def wait_for(self, *words: str) -> list[re.Match[bytes]]:
        """Until all of these have been shown, in whatever order, since last time."""
        deadline = time.monotonic() + BOUND
        while True:
            found = [match for each in words if (match := re.search(each.encode(), self.shown))]
            if len(found) == len(words):
                self.shown = self.shown[max(match.end() for match in found) :]
                return found
            assert time.monotonic() < deadline, f"never shown: {words}; last shown: {self.shown[-2000:]!r}"
            if select.select([self.screen], [], [], 1.0)[0]:
                self.shown = ESCAPES.sub(b"", self.shown + os.read(self.screen, 65536))

    def type(self, words: str) -> None:
        os.write(self.screen, words.encode())

    def exit_code(self) -> int:
        while select.select([self.screen], [], [], BOUND)[0]:
            try:
                os.read(self.screen, 65536)
            except OSError:  # the other end is closed
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_nodes_can_be_maltreated_from_the_keyboard(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, sys.executable, "-m", "electorate.cli.main", "up")
    [first] = terminal.wait_for(r"(\w) leads, term (\d+)")
    leader, term = first.group(1).decode(), int(first.group(2))
    terminal.type(f"kill {leader}\r")
    _, second = terminal.wait_for(rf"{leader} +│[^\n]* down ", rf"(\w) leads, term [{term + 1}-9]")
    assert second.group(1).decode() != leader
    terminal.type(f"kill {leader}\r")
    terminal.wait_for(f"{leader} is down; restart it first")
    terminal.type(f"r {leader}\r")
    terminal.wait_for(rf"{leader} +│[^\n]* running ")
    terminal.type("dance a\r")
    terminal.wait_for("there is no command 'dance'")
    terminal.type("quit\r")
    assert terminal.exit_code() == 0
    assert list(tmp_path.iterdir()) == []
