"""How this command was called, so that a hint is something that the user can type."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def elect() -> str:
    """What stands for `elect` in this shell."""
    called = Path(sys.argv[0])
    if called.name == "elect":
        return on_path(called)
    return f"{on_path(Path(sys.executable))} -m electorate"


def on_path(program: Path) -> str:
    """Its name, if the shell finds this very program by it."""
    found = shutil.which(program.name)
    return program.name if found and Path(found).absolute() == program.absolute() else str(program)
