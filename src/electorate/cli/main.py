"""The `elect` command: one module per subcommand, imported when it is asked for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

from electorate.cli.invocation import elect
from electorate.errors import UserError, hint
from electorate.extras import install
from electorate.version import __version__

try:
    import typer
except ModuleNotFoundError:
    print(f"elect: the command needs more than the library does: {install('cli')}", file=sys.stderr)
    sys.exit(2)

from typer.core import TyperGroup

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What is raised for words that make no command; typer names only what is derived of it."""

COMMANDS = {
    "node": "electorate.cli.node:node",
    "run": "electorate.cli.run:run",
    "status": "electorate.cli.client:status",
    "leader": "electorate.cli.client:leader",
    "elections": "electorate.cli.client:elections",
    "watch": "electorate.cli.client:watch",
    "transfer": "electorate.cli.client:transfer",
    "resign": "electorate.cli.client:resign",
    "freeze": "electorate.cli.client:freeze",
    "config": "electorate.cli.config:app",
    "secret": "electorate.cli.secret:secret",
    "certs": "electorate.cli.certs:app",
    "up": "electorate.cli.up:up",
    "sim": "electorate.cli.sim:sim",
    "check": "electorate.cli.check:check",
    "torture": "electorate.cli.torture.command:torture",
    "bench": "electorate.cli.bench_run:app",
}
"""Where each subcommand is: a function, or an application with subcommands of its own."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Whatever is wrong in the words that were typed is said so."""
    try:
        yield
    except UsageError as raised:
        error: Any = raised
        complaint = error.format_message().rstrip(".").replace("Value error, ", "")
        if not complaint or "\n" in complaint:  # nothing was typed, and help is shown
            raise
        if negative := re.search("No such option: (-[0-9].*)", complaint):
            complaint = f"{negative[1]} is less than 0: say a number from 0 on"
        called = error.ctx.find_root().info_name if error.ctx else ""
        command = error.ctx.command_path.removeprefix(called).strip() if error.ctx else ""
        more = "" if complaint.endswith("?") else f"; see `{f'{elect()} {command}'.strip()} --help`"
        raise UserError(f"{complaint[0].lower()}{complaint[1:]}{more}") from None


class Subcommands(TyperGroup):
    """A node need not import what only the laboratory uses."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(f"there is no command '{args[0]}'; {hint(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with one_sentence():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with one_sentence():
            return super().invoke(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="elect",
    cls=Subcommands,
    help="Elect one process out of many: run nodes, try a local cluster, break it all in a simulator.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def tell_version(wished: bool) -> None:
    if wished:
        print(f"electorate {__version__}")
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Elect one process out of many: run nodes, try a local cluster, break it all in a simulator."""


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"elect: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
