"""`elect config`: write a cluster file to begin with, and check one before it is deployed."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer

from electorate.cli.examine import doubts, troubles
from electorate.cli.invocation import elect
from electorate.cli.plan import ALGORITHMS, MOST_NODES
from electorate.cli.serve import DataOption
from electorate.core.model import Membership, QuorumRule
from electorate.errors import UserError, hint
from electorate.runtime.config import Config, configure, is_loopback
from electorate.runtime.directory import doubt

app = typer.Typer(help="Write or check a cluster file.", no_args_is_help=True, add_completion=False)


HEAD = """\
# The cluster file: the same on every node. Durations are in seconds.
cluster = "{cluster}"
algorithm = "{algorithm}"       # bully, ring, raft or zab
elections = ["main"]     # what `elect node` contends for

# Addresses that other machines can reach need one of these three, the third being [tls]:
# secret_file = "secret" # a secret that all nodes share: `elect secret secret` writes one
# insecure = true        # the network is trusted

[timing]
lease = 0.5              # who is cut off leads no longer than this
beat = 0.1               # less than a third of the lease

# [tls]                  # `elect certs init` and `elect certs issue` make the files
# ca = "certs/ca.pem"
# cert = "certs/{{id}}.pem"
# key = "certs/{{id}}.key"

# [http]
# token_file = "token"   # who bears it may transfer and resign over HTTP
"""

NODE = """
[nodes.{id}]
address = "127.0.0.1:{port}"
# http = "127.0.0.1:{http}"  # /leader, /health, /status, /metrics
"""


@app.command("init")
def init(
    output: Annotated[Path, typer.Option(help="Where to write it.")] = Path("cluster.toml"),
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 3,
    algorithm: Annotated[str, typer.Option(help="bully, ring, raft or zab")] = "raft",
    cluster: Annotated[str, typer.Option(help="Its name.")] = "demo",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a cluster file that works on this machine, with a comment for what to change."""
    if algorithm not in ALGORITHMS:
        raise UserError(
            f"there is no algorithm '{algorithm}'; {hint(algorithm, ALGORITHMS, 'choose one of')}"
        )
    if not 1 <= nodes <= MOST_NODES:
        raise UserError(f"--nodes {nodes}: a file to begin with has 1 to {MOST_NODES} nodes")
    names = [chr(ord("a") + number) for number in range(nodes)]
    text = HEAD.format(cluster=cluster, algorithm=algorithm)
    text += "".join(
        NODE.format(id=id, port=7400 + number, http=8400 + number) for number, id in enumerate(names)
    )
    if not cluster.isprintable() or {'"', "\\"} & {*cluster} or not cluster:
        raise UserError(f"--cluster {cluster!r}: a cluster has a name, without quotes and backslashes")
    try:
        with output.open("w" if force else "x") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{output} is there already; name another with --output, or add --force") from None
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from None
    print(f"Wrote {output}. Start each node, in a terminal of its own:")
    for id in names:
        print(f"  {elect()} node --config {output} --id {id}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(envvar="ELECTORATE_CONFIG", help="The cluster file.")],
    id: Annotated[
        str | None,
        typer.Option(envvar="ELECTORATE_ID", help="Look at all that this node would look at when it starts."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Check a cluster file, with the environment of this shell, and tell what it means. With --id also
    whether that node could start here: its files, keys, ports and directory.

    Exit code 0: it can be used; what deserves a second thought is noted. 2: it cannot be used.
    """
    config = configure(file)
    if id is not None and id not in config.nodes:
        raise UserError(f"node '{id}' is not in {file}; it has {', '.join(config.nodes)}")
    print(f"{file}: cluster '{config.cluster}', {config.algorithm}, elections {', '.join(config.elections)}")
    for name, node in config.nodes.items():
        if id in (None, name):
            http = config.http_address(name)
            serves = f", http {http[0]}:{http[1]}" if http else ""
            listens = f", listens on {node.bind}" if node.bind else ""
            print(f"  {name:12} {node.kind:9} {node.address}{listens}{serves}")
    print(f"quorum: {quorum(config.membership)}")
    timing = config.timing
    proven = config.proof_of_death != "none"
    print(
        f"fail-over: {'milliseconds after a crash, ' if proven else ''}at most {timing.lease:g} s and a few"
        f" round trips after {'' if proven else 'a crash, '}a hang or a partition"
    )
    directory = data or Path(f"electorate-{config.cluster}-{id}")
    found = list(troubles(config, id, directory)) if id else []
    notes = [*warnings(config), *doubts(config)]
    if id and (fear := doubt(directory)):
        notes.append(fear)
    for note in dict.fromkeys(notes):
        if note not in found:
            print(f"note: {note}")
    for trouble in found:
        print(f"elect: {trouble}", file=sys.stderr)
    if found:
        raise typer.Exit(2)
    if id:
        print(f"node {id} could start here")


def quorum(membership: Membership) -> str:
    """How many voters may fail."""
    survived = losses(membership)
    lost = f"any {survived} of them" if survived > 1 else "any one of them" if survived else "none of them"
    count = f"{len(membership.voters)} voter{'' if len(membership.voters) == 1 else 's'}"
    return f"{membership.rule} of {count}; it survives the loss of {lost}"


def losses(membership: Membership) -> int:
    """So many voters may be lost, whichever they are: there is still a quorum, and one that may lead."""
    voters = set(membership.voters)
    dearest = sorted(voters, key=lambda id: membership.by_id[id].weight, reverse=True)
    weighs_alone = membership.rule is not QuorumRule.HIERARCHICAL
    survived = 0
    while survived + 1 < len(membership.candidates):
        lost = [dearest[: survived + 1]] if weighs_alone else combinations(dearest, survived + 1)
        if not all(membership.is_quorum(voters.difference(each)) for each in lost):
            break
        survived += 1
    return survived


def warnings(config: Config) -> list[str]:
    notes = []
    voters = config.membership.voters
    if config.quorum == "textbook":
        notes.append("quorum = 'textbook' elects two leaders in a partition: it is for the laboratory alone")
    elif len(voters) == 2:
        notes.append("two voters survive no failure: a third one, perhaps a witness, would change that")
    elif len(voters) % 2 == 0 and config.quorum == "majority":
        notes.append(f"{len(voters)} voters survive no more failures than {len(voters) - 1}")
    if config.insecure and not (config.tls or config.secret_file):
        notes.append("insecure = true: whoever reaches the addresses can take part in elections")
    if config.proof_of_death == "none":
        notes.append("proof_of_death = 'none': a crash costs a lease, too")
    if config.proof_of_death == "refused":
        notes.append(
            "proof_of_death = 'refused': whatever refuses in place of a node that lives, such as a rejecting"
            " firewall or a proxy, ends its lease for the others; 'attested' does not rest on that"
        )
    for id in config.nodes:
        http = config.http_address(id)
        if http and not is_loopback(http[0]) and not (config.http and config.http.tls):
            notes.append(
                f"node {id} serves HTTP on {http[0]}, without encryption; tokens can be read there, unless"
                " [http.tls] is set"
            )
    if config.http and "*" in config.http.hosts:
        notes.append(
            "http.hosts = '*': a web page in an operator's browser can read what the nodes answer (DNS"
            " rebinding)"
        )
    return notes
