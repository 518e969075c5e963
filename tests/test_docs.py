"""What the pages say is so: files exist, modules are named, commands can be typed, keys and metrics are told."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import click
import msgspec
import pytest
import typer

from electorate.cli.main import app
from electorate.core.model import Timing
from electorate.runtime.config import Config, Http, HttpTls, NodeConfig, Tls

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@named
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            there = page.parent / name if name else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@named
def test_python_is_python(page: Path) -> None:
    for _, language, code in BLOCK.findall(page.read_text()):
        if language == "python":
            ast.parse(f"async def example():\n{textwrap.indent(textwrap.dedent(code), '    ')}")


def options(words: list[str]) -> None:
    """Raise KeyError for a subcommand or an option that the command does not know."""
    context = click.Context(click.Group("elect"))
    command: object = typer.main.get_command(app)
    for word in words:
        if word == "--":
            return
        if hasattr(command, "get_command") and not word.startswith("-"):
            command = command.get_command(context, word)
            if command is None:
                raise KeyError(word)
        elif word.startswith("--"):
            known = {name for parameter in command.params for name in parameter.opts}  # type: ignore[attr-defined]
            if word.partition("=")[0] not in {*known, "--help", "--install-completion", "--show-completion"}:
                raise KeyError(word)


@named
def test_commands_can_be_typed(page: Path) -> None:
    lines = [
        line
        for _, language, code in BLOCK.findall(page.read_text())
        if not language
        for line in code.split("\n")
    ]
    for line in lines:
        said = re.match(r"\s*(?:\$ )?elect ([a-z].*)", line.partition("  #")[0])
        if said:
            options(
                [word for word in said[1].partition("|")[0].split() if not re.fullmatch(r"[A-Z]+|…", word)]
            )


def test_every_module_has_its_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = text[text.index("src/electorate/") : text.index("\ntests/")]
    files = {file.name for file in (ROOT / "src" / "electorate").rglob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\b(\w+\.py)\b", rooms)) == files


def test_every_key_is_explained() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    keys = [
        f.name
        for type in (Config, NodeConfig, Timing, Tls, Http, HttpTls)
        for f in msgspec.structs.fields(type)
    ]
    keys = [key for key in keys if key not in ("directory", "nodes")]
    assert [key for key in keys if f"`{key}`" not in text and f"[{key}]" not in text] == []


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    source = (ROOT / "src" / "electorate" / "web" / "metrics.py").read_text()
    metrics = set(re.findall(r'"(electorate_\w+)"', source))
    metrics |= {f"electorate_elections_{outcome}" for outcome in ("started", "won", "lost")}
    assert metrics
    assert [metric for metric in sorted(metrics) if f"`{metric}`" not in text] == []
