"""What is needed beyond the library: named by its packages, which can be installed however this one was."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path


def install(extra: str) -> str:
    """The command that installs what this extra of ours stands for."""
    try:
        stated = requires("electorate") or []
    except PackageNotFoundError:
        stated = []
    marked = re.compile(rf"""extra == ['"]{extra}['"]""")
    packages = [need.partition(";")[0].strip() for need in stated if marked.search(need)]
    found = shutil.which("pip")
    ours = found is not None and Path(found).parent == Path(sys.executable).parent
    pip = ["pip"] if ours else [sys.executable, "-m", "pip"]
    return shlex.join([*pip, "install", *(packages or [f"electorate[{extra}]"])])
