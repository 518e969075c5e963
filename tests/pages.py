"""What the pages print is what is printed: their sessions, played again.

A block that has lines with `$ ` is a session: what is typed, and what came of it. Where nothing in it is real (only
`elect sim`, `elect check`, `elect config` and tools that print), it must come out to the letter, but for the seconds
that it took; `python -m tests.pages` (`make pages`) writes such sessions anew. Where real processes are at work, times
and process numbers vary, and who leads does: there the shape of each line must be so (`tests/test_pages.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "operate.md"]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAKEN = re.compile(r"[\d.]+ s, [\d,]+ states/s")
REAL = re.compile(r"elect (up|node|run|status|leader|transfer)\b")


class Session(NamedTuple):
    page: Path
    text: str

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Each command, and what is printed then."""
        parts = re.split(r"^\$ (.*)\n", self.text, flags=re.MULTILINE)[1:]
        return list(zip(parts[::2], parts[1::2], strict=True))

    @property
    def is_real(self) -> bool:
        return any(REAL.search(command) for command, _ in self.steps)

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.steps[0][0]}"


def sessions(page: Path) -> list[Session]:
    blocks = BLOCK.findall(page.read_text())
    return [Session(page, text) for language, text in blocks if not language and text.startswith("$ ")]


def toml(page: Path) -> str:
    """The first cluster file of a page."""
    found: list[tuple[str, str]] = BLOCK.findall(page.read_text())
    return next(text for language, text in found if language == "toml")


def furnish(page: Path, directory: Path) -> None:
    """The files that the sessions of this page begin with."""
    if "cluster = " in toml(page):
        (directory / "cluster.toml").write_text(toml(page))
    else:
        run("elect config init", directory)


def run(command: str, directory: Path) -> str:
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def play(session: Session) -> str:
    """What the session looks like now."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        furnish(session.page, directory)
        return "".join(f"$ {command}\n{run(command, directory)}" for command, _ in session.steps)


def lasting(text: str) -> str:
    """Without the seconds that a search has taken."""
    return TAKEN.sub("0.0 s, 0 states/s", text)


def shapes(text: str) -> list[str]:
    """Each line without what varies: numbers and times, and which of the nodes it is."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"\d[\d.,:]*(-\d\d-\d\d [\d:,]+)?", "N", line)
        lines.append(re.sub(r"\b[abc]\b", "x", re.sub(r"\s+", " ", line)).strip())
    return lines


def main() -> None:
    for page in PAGES:
        text = page.read_text()
        for session in sessions(page):
            if not session.is_real:
                now = play(session)
                assert "Traceback" not in now, now
                if lasting(now) != lasting(session.text):
                    print(f"new: {session}")
                    text = text.replace(f"```\n{session.text}```", f"```\n{now}```")
        page.write_text(text)


if __name__ == "__main__":
    main()
