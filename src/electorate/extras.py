"""What is needed beyond the library: named by its packages, which can be installed however this one was."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires


def install(extra: str) -> str:
    """The command that installs what this extra of ours stands for."""
    try:
        stated = requires("electorate") or []
    except PackageNotFoundError:
        stated = []
    marked = re.compile(rf"""extra == ['"]{extra}['"]""")
    packages = [need.partition(";")[0].strip() for need in stated if marked.search(need)]
    return shlex.join(["pip", "install", *(packages or [f"electorate[{extra}]"])])
