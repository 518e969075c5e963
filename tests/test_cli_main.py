"""The command itself: how it can be called, and what it says when it cannot go on."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from electorate.check.question import gallery
from electorate.cli.check import remedies
from electorate.cli.colour import style
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


def test_what_it_advises_to_type_can_be_typed() -> None:
    code, _, complaint = said(*MODULE, "config", "check", "--bogus")
    assert (code, complaint) == (
        2,
        f"elect: no such option: --bogus; see `{sys.executable} -m electorate config check --help`\n",
    )


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
        (["typer"], ["--version"], "pip install 'rich>=13' 'typer>=0.16'"),
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


def on_a_terminal(*command: str, **environ: str) -> str:
    """What it prints where somebody looks."""
    master, slave = pty.openpty()
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**given, "TERM": "xterm-256color", **environ}
    )
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 65536):
            output += chunk
    except OSError:
        pass  # the other side is closed
    os.close(master)
    assert process.wait() == 0
    return output.decode().replace("\r\n", "\n")


def test_a_story_is_coloured_on_a_terminal_and_nowhere_else() -> None:
    story = (*MODULE, "sim", "raft", "--nodes", "3")
    _, plain, _ = said(*story)
    assert "\x1b" not in plain
    coloured = on_a_terminal(*story)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    green = re.findall(r"\x1b\[32m(.*?)\x1b\[0m", coloured)
    assert [line for line in green if "becomes LEADER" in line]
    assert "violations    none" in green
    assert "\x1b[32m" not in on_a_terminal(*story, NO_COLOR="1")


def test_what_is_wrong_is_red_and_what_befalls_them_yellow() -> None:
    red = [
        "VIOLATED      I2 at 19.3806 s: e and b hold a lease on main at the same time",
        "     ** I2: a and c hold a lease at the same time",
        "   19.3806  ** I2 is violated: e and b hold a lease",
        "raft, 3 nodes: I1: a and b both became leader of term 1 (12 states)",
    ]
    assert {style(line) for line in red} == {"bold red"}
    assert style("    1.0000  -- resign c") == "yellow"
    assert style("    1.0000  c -> a  Resign term=1 heir=b wished=True") == "dim"


def test_each_remedy_is_said_in_words() -> None:
    for question in gallery().values():
        [remedy] = remedies(question)
        assert "''" not in remedy
    said = {name: next(remedies(question)) for name, question in gallery().items()}
    assert said["raft-without-pre-vote"] == "pre_vote = True"
    assert said["raft-votes-not-saved"] == "the guard that --flaw votes-not-saved takes away"
