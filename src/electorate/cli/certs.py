"""`elect certs`: certificates for the nodes of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from electorate.cli.invocation import elect
from electorate.errors import UserError
from electorate.extras import install

app = typer.Typer(
    help="Make certificates for the nodes of a cluster.", no_args_is_help=True, add_completion=False
)

Directory = Annotated[Path, typer.Option("--dir", help="Where the files are.")]


def authority() -> Any:
    """What makes certificates; a node needs none of it."""
    try:
        from electorate.runtime import authority
    except ModuleNotFoundError:
        raise UserError(f"certificates are made by another package: {install('tls')}") from None
    return authority


@app.command()
def init(
    cluster: Annotated[str, typer.Option(help="The name of the cluster, as in its file.")],
    directory: Directory = Path("certs"),
    days: Annotated[int, typer.Option(help="For how long it is valid.")] = 3650,
) -> None:
    """Make the authority: ca.pem, which every node gets, and ca.key, which none does."""
    authority().make_authority(cluster, directory, days)
    print(f"Made {directory}/ca.pem and {directory}/ca.key. Keep the key away from the nodes.")
    print(f"Next: {elect()} certs issue a b c --dir {directory}")


@app.command()
def revoke(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="The nodes, as in the cluster file.")
    ] = None,
    directory: Directory = Path("certs"),
    days: Annotated[int, typer.Option(help="For how long the list is valid; then nobody trusts.")] = 3650,
) -> None:
    """Put the certificates of these nodes, as they are in the directory, on the list of what is revoked.

    Without any, only make the list anew.

    A running node that has the list (`crl` in [tls]) reads it again within a second.
    """
    authority().revoke_certificates(ids or [], directory, days)
    for id in ids or []:
        print(f"Revoked {directory}/{id}.pem.")
    print(f"Made {directory}/crl.pem, valid for {lasting(days)}.")
    print("Give every node the list, and put this into the cluster file:")
    print("  [tls]")
    print(f'  crl = "{directory}/crl.pem"')


@app.command()
def issue(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The nodes, as in the cluster file.")],
    directory: Directory = Path("certs"),
    days: Annotated[int, typer.Option(help="For how long they are valid.")] = 825,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Make a certificate and a key for each of these nodes, signed by the authority.

    A running node uses a new certificate from its next connection on.
    """
    for id in ids:
        authority().issue_certificate(id, directory, days, force)
        print(f"Made {directory}/{id}.pem and {directory}/{id}.key, valid for {lasting(days)}.")
    print("Give each node its own two files and ca.pem, and put this into the cluster file:")
    print("  [tls]")
    for key, name in (("ca", "ca.pem"), ("cert", "{id}.pem"), ("key", "{id}.key")):
        print(f'  {key} = "{directory}/{name}"')


def lasting(days: int) -> str:
    return f"{days} day{'' if days == 1 else 's'}"
