"""Lines of a story in colour, where they go to a terminal: what is wrong, who leads, what befalls whom."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Any

STYLES = {
    r"^ *\*\* |^ *[\d.]+  \*\* |^VIOLATED|^NOT AS EXPECTED|: I\d+: ": "bold red",
    r"becomes LEADER|has its lease|^violations +none|no violation|nothing is wrong|^leader ": "green",
    r"^ *[\d.]+  -- ": "yellow",
    r"^ *[\d.]+  \S+ -> \S+ ": "dim",
}
"""The first that is found in a line is its style."""


def say(line: str, *, flush: bool = False) -> None:
    """Print it; without colour where NO_COLOR is set, or where nobody looks."""
    if sys.stdout.isatty():
        from rich.text import Text

        console().print(Text(line, style(line)))
    else:
        print(line, flush=flush)


@cache
def console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def style(line: str) -> str:
    return next((style for pattern, style in STYLES.items() if re.search(pattern, line)), "")
