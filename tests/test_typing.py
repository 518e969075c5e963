"""The types that users see, as mypy sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent / "typing"


def mypy(file: Path, cache: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    return subprocess.run(
        [*command, f"--cache-dir={cache}", "--hide-error-context", str(file)], capture_output=True, text=True
    ).stdout


def test_a_service_written_by_the_book_is_typed(tmp_path: Path) -> None:
    assert mypy(HERE / "user.py", tmp_path) == ""


def test_mistakes_are_found_where_they_are(tmp_path: Path) -> None:
    mistakes = HERE / "mistakes.py"
    lines = mistakes.read_text().splitlines()
    expected = {number: line.partition("# ")[2] for number, line in enumerate(lines, 1) if "  # " in line}
    found = {}
    for line in mypy(mistakes, tmp_path).splitlines():
        if ": error: " in line:
            found[int(line.split(":")[1])] = line.rpartition("[")[2].rstrip("]")
    assert found == expected
