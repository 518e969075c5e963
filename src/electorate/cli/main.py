"""The `elect` command: one module per subcommand."""

from __future__ import annotations

import sys

try:
    import typer
except ModuleNotFoundError:
    print("elect: the command needs more than the library: pip install 'electorate[cli]'", file=sys.stderr)
    sys.exit(2)

from electorate.cli import bench, bench_run, config, node, run, sim, up
from electorate.errors import UserError

app = typer.Typer(
    name="elect",
    help="Elect one process out of many: run nodes, try a local cluster, break it all in a simulator.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("node")(node.node)
app.command("run")(run.run)
app.add_typer(config.app, name="config")
app.command("up")(up.up)
app.command("sim")(sim.sim)
bench.app.command("run")(bench_run.bench_run)
app.add_typer(bench.app, name="bench")


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"elect: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
