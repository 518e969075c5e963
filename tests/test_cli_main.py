"""The command itself: how it can be called, and what it says when it cannot go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from electorate.version import __version__

BIN = Path(sys.executable).parent
ELECT = str(BIN / "elect")
MODULE = (sys.executable, "-m", "electorate")
WITHOUT = (
    "import sys, runpy; sys.modules.update(dict.fromkeys({packages}));"
    "runpy.run_module('electorate', run_name='__main__', alter_sys=True)"
)
"""A program in which these packages cannot be imported."""


def said(*command: str, cwd: Path | None = None, path: str = "/usr/bin:/bin") -> tuple[int, str, str]:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", [(ELECT,), MODULE], ids=["elect", "python -m"])
def test_it_tells_its_version(command: tuple[str, ...]) -> None:
    assert said(*command, "--version") == (0, f"electorate {__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("stauts", "there is no command 'stauts'; did you mean 'status'?"),
        ("xyzzy", "there is no command 'xyzzy'; there are node, run, status, leader,"),
    ],
)
def test_a_misspelt_command_is_told_the_known_ones(word: str, sentence: str) -> None:
    code, output, complaint = said(*MODULE, word, "--config", "cluster.toml")
    assert (code, output) == (2, "")
    assert complaint.startswith(f"elect: {sentence}")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("packages", "words", "remedy"),
    [
        (["typer"], ["--version"], "pip install 'rich>=13' 'typer>=0.15'"),
        (["cryptography"], ["certs", "init", "--cluster", "x"], "pip install 'cryptography>=42'"),
    ],
)
def test_what_is_not_installed_is_named_in_one_sentence(
    tmp_path: Path, packages: list[str], words: list[str], remedy: str
) -> None:
    program = WITHOUT.format(packages=packages)
    code, output, complaint = said(sys.executable, "-c", program, *words, cwd=tmp_path)
    assert (code, output) == (2, "")
    assert complaint.startswith("elect: ")
    assert complaint.endswith(f": {sys.executable} -m {remedy}\n")
    assert said(sys.executable, "-c", program, *words, cwd=tmp_path, path=str(BIN))[2].endswith(
        f": {remedy}\n"
    )
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "path", "typed"),
    [
        ((ELECT,), "/usr/bin:/bin", ELECT),
        (("elect",), f"{BIN}:/usr/bin:/bin", "elect"),
        (MODULE, "/usr/bin:/bin", f"{sys.executable} -m electorate"),
        (MODULE, f"{BIN}:/usr/bin:/bin", f"{Path(sys.executable).name} -m electorate"),
    ],
    ids=["by its path", "on the path", "as a module", "as a module of the python on the path"],
)
def test_a_hint_can_be_typed_where_it_is_read(
    tmp_path: Path, command: tuple[str, ...], path: str, typed: str
) -> None:
    program = (str(BIN / "elect"), *command[1:]) if command == ("elect",) else command
    code, output, _ = said(*program, "config", "init", cwd=tmp_path, path=path)
    assert code == 0
    assert output.splitlines()[-1] == f"  {typed} node --config cluster.toml --id c"
