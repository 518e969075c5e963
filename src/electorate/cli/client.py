"""`elect status`, `leader`, `watch`, `elections`, `transfer`, `resign`, `freeze`: ask or command a node.

The node is found by its data directory on this machine, or by the URL of its HTTP anywhere.
"""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias

import typer

from electorate.cli.invocation import elect
from electorate.engines.url import shown
from electorate.errors import UserError
from electorate.runtime.config import configure
from electorate.runtime.contact import explain
from electorate.runtime.control import WISHES, address
from electorate.runtime.hearsay import SENTENCE, heard
from electorate.runtime.tls import no_password
from electorate.runtime.wishes import LONGEST
from electorate.web.token import only
from electorate.work import Call

FOUND, NONE, USAGE, UNREACHABLE, REFUSED = range(5)
"""The exit codes: it is so, or there is a leader; there is none; a wrong use of the command; no node answers;
the node refuses."""

Word: TypeAlias = str | bool | float | None
"""Of a question or a command."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", envvar="ELECTORATE_CONFIG", help="The cluster file.")
]
IdOption = Annotated[str | None, typer.Option("--id", envvar="ELECTORATE_ID", help="Which node to ask.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="ELECTORATE_DATA", readable=False, help="The data directory of the node."),
]
UrlOption = Annotated[str | None, typer.Option("--url", help="Its HTTP, such as https://10.0.0.1:8400.")]
CaOption = Annotated[Path | None, typer.Option("--ca", help="Who signed the certificate of its HTTPS.")]
CertOption = Annotated[
    Path | None, typer.Option("--cert", help="The certificate to show, where its HTTPS wants one.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="The key of --cert, if in a file of its own.")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", help="The token that commands over HTTP.")]
ElectionOption = Annotated[
    str | None, typer.Option("--election", help="Which election (default: the first of the file).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]


def seconds_from(least: float) -> Callable[[typer.CallbackParam, float], float]:
    """What an option or argument is that is a number of seconds. Raises `UserError`."""

    def check(parameter: typer.CallbackParam, seconds: float) -> float:
        if not least <= seconds <= LONGEST:
            name = parameter.opts[0]
            raise UserError(f"{name} {seconds:g}: say a number of seconds from {least:g} to {LONGEST:.0f}")
        return seconds

    return check


TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", help="Seconds to wait for an answer.", callback=seconds_from(0.001)),
]


class Unreachable(Exception):
    """No node answers there."""


class Refused(Exception):
    """The node does not do it."""


class OnThisMachine:
    """The node with this data directory."""

    def __init__(self, directory: Path, timeout: float) -> None:
        self.directory = directory
        self.timeout = timeout

    def ask(self, what: str, **words: Word) -> Any:
        return next(self.lines({"ask": what, **words}))

    def watch(self, election: str | None) -> Iterator[Any]:
        return self.lines({"ask": "watch", "election": election}, None)

    def lines(self, question: dict[str, Word], then: float | None = 0.0) -> Iterator[Any]:
        try:
            with closing(socket.socket(socket.AF_UNIX)) as connection:
                connection.settimeout(self.timeout)
                with address(self.directory) as path:
                    connection.connect(path)
                connection.sendall(json.dumps(question).encode() + b"\n")
                if then is None:
                    connection.settimeout(None)
                with connection.makefile() as answers:
                    for line in answers:
                        yield understood(json.loads(line))
        except TimeoutError:
            why = late(self.timeout, question["ask"])
            raise Unreachable(f"the node in {self.directory} does not answer: {why}") from None
        except PermissionError:
            raise Unreachable(
                f"the node in {self.directory} can be asked by its user alone: ask as that user, or over HTTP"
                " (--url)"
            ) from None
        except OSError as error:
            raise Unreachable(f"no node runs in {self.directory}: {error.strerror}") from None
        if then is not None:
            raise Unreachable(f"the node in {self.directory} hung up without an answer")


class OverHttp:
    """The node whose HTTP this is."""

    def __init__(
        self, url: str, token: str | None, timeout: float, trust: ssl.SSLContext | None = None
    ) -> None:
        scheme, sign, place = url.partition("://")
        if scheme.lower() not in ("http", "https") or not sign or not place.strip("/"):
            raise UserError(f"--url {shown(url)} is not a URL such as http://10.0.0.1:8400")
        if "@" in place:
            raise UserError(
                f"--url {shown(url)}: a node asks for no password; leave out what is before the @"
            )
        self.url = url.rstrip("/")
        https = [urllib.request.HTTPSHandler(context=trust)] if trust else []
        self.opener = urllib.request.build_opener(*https)
        self.token = token
        self.timeout = timeout

    def ask(self, what: str, **words: Word) -> Any:
        given = {name: word for name, word in words.items() if word is not None}
        if what in WISHES:
            if "election" not in given:
                given["election"] = self.ask("leader")["election"]
            with self.open(f"/{what}", json.dumps(given).encode()) as answer:
                return understood(json.load(answer) | {"done": answer.status == 200})
        if what == "elections":
            return {"elections": list(self.pages())}
        query = f"?{urllib.parse.urlencode(given)}" if given else ""
        with self.open(f"/{what}{query}") as answer:
            return understood(json.load(answer))

    def pages(self) -> Iterator[Any]:
        after = ""
        while True:
            with self.open(f"/elections?limit=1000&after={urllib.parse.quote(after)}") as answer:
                page = understood(json.load(answer))
            yield from page["elections"]
            after = page["next"]
            if not after:
                return

    def watch(self, election: str | None) -> Iterator[Any]:
        query = "" if election is None else f"?{urllib.parse.urlencode({'election': election})}"
        with self.open(f"/events{query}", timeout=None) as events:
            for line in events:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def open(self, path: str, body: bytes | None = None, timeout: float | None = -1.0) -> Any:
        request = urllib.request.Request(self.url + path, body)
        if body is not None:
            request.add_header("Content-Type", "application/json")
            if self.token:
                request.add_header("Authorization", f"Bearer {self.token}")
        patience = self.timeout if timeout == -1.0 else timeout
        asking = Call(partial(self.opener.open, request, timeout=patience))
        asking.begin()
        try:
            return asking.done.result(self.timeout)  # a name server is not bound by any patience
        except urllib.error.HTTPError as error:
            if error.code == 503 and path.startswith("/leader"):
                return error  # it does not lead, but says who does
            with error:
                hint = "; give it by --token-file" if error.code == 401 and not self.token else ""
                raise Refused(reason(error) + hint) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            why = explain(cause) if isinstance(cause, OSError) else str(cause)
            if isinstance(cause, TimeoutError):
                why = late(self.timeout, path[1:])
            if isinstance(cause, ssl.SSLCertVerificationError):
                why += "; --ca names who signed it"
            raise Unreachable(f"no node answers at {self.url}: {why}") from None


def late(timeout: float, asked: Word) -> str:
    """What is known of a node that takes its time."""
    still = "; it may do so yet: see who leads, or give it longer (--timeout)" if asked in WISHES else ""
    return f"not in {timeout:g} s{still}"


def reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def understood(answer: Any) -> Any:
    if "error" in answer:
        raise Refused(answer["error"])
    return answer


def node(
    config: Path | None,
    id: str | None,
    data: Path | None,
    url: str | None,
    token_file: Path | None,
    timeout: float,
    *proofs: Path | None,
) -> OnThisMachine | OverHttp:
    """The node that the options mean; the proofs are those of HTTPS."""
    if any(proofs) and not (url or "").lower().startswith("https://"):
        raise UserError("--ca, --cert and --key are for HTTPS: give the node by --url https://...")
    if url is not None:
        try:
            token = read(token_file) if token_file else None
        except OSError as error:
            raise UserError(f"--token-file {token_file}: {error.strerror}") from None
        return OverHttp(url, token, timeout, trust(*proofs) if any(proofs) else None)
    if data is None and config is not None and id is not None:
        cluster = configure(config)
        if id not in cluster.nodes:
            raise UserError(f"node '{id}' is not in {config}; it has {', '.join(cluster.nodes)}")
        data = Path(f"electorate-{cluster.cluster}-{id}")
    if data is None:
        raise UserError("say which node: --data DIRECTORY, or --config FILE and --id NODE, or --url URL")
    return OnThisMachine(data, timeout)


def trust(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Whom to believe over HTTPS (without an authority: those that this machine trusts), and what to show."""
    if key and not cert:
        raise UserError("--key is that of --cert: give both")
    for option, file in (("--ca", ca), ("--cert", cert), ("--key", key)):
        if file and not file.is_file():
            raise UserError(f"{option} {file}: there is no such file")
    option = f"--ca {ca}"
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            option = f"--cert {cert}" + (f" --key {key}" if key else "")
            context.load_cert_chain(cert, key, password=no_password)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise UserError(f"{option} cannot be used ({why}): PEM files are needed") from None
    return context


def read(file: Path) -> str:
    """The token of this user."""
    return only(file, file.read_bytes()).decode("latin-1")


def end(code: int, complaint: object = "") -> NoReturn:
    if complaint:
        print(f"elect: {heard(str(complaint), SENTENCE)}", file=sys.stderr)
    raise typer.Exit(code)


def status(
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """What a node knows: its elections, its peers, and whom it has refused."""
    answer = asked(node(config, id, data, url, None, timeout, ca, cert, key), "status")
    if as_json:
        print(json.dumps(answer))
        return
    print(f"node {answer['node']} of cluster {answer['cluster']}, {answer['algorithm']}, {answer['version']}")
    show(answer["elections"])
    if answer["waiting"]:
        print(answer["waiting"])
    for row in answer["elections"]:
        if row["frozen"]:
            print(f"frozen: it does not contend for '{row['election']}' for another {row['frozen']:g} s")
    for trouble in (answer["no_quorum"], answer["no_store"], answer["resists"]):
        if trouble:
            print(trouble)
    for peer, state in answer["peers"].items():
        keys = answer["differs"].get(peer)
        lost = answer["lost_since"].get(peer)
        why = answer["unreached"].get(peer)
        how = {"lost": f"was lost at {since(lost)}", "never reached": "was never reached"}
        said = how.get(state, f"is {state}") + (f": {why}" if why else "")
        oldest, newest = answer["speaks"]
        if (spoken := answer["versions"].get(peer, newest)) != newest:
            said += f", by version {spoken} of the protocol (this node speaks {oldest} to {newest})"
        print(f"node {peer} {said}" + (f", and configured otherwise: {', '.join(keys)}" if keys else ""))
    for why, count in answer["ignored"].items():
        print(f"{count:5} time{'' if count == 1 else 's'}: {why}")


def elections(
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Each election that a node holds, and who leads it."""
    answer = asked(node(config, id, data, url, None, timeout, ca, cert, key), "elections")
    if as_json:
        print(json.dumps(answer))
    else:
        show(answer["elections"])


def show(rows: list[dict[str, Any]]) -> None:
    """A table on a terminal, columns elsewhere."""
    titles = ("election", "role", "leader", "term", "since", "changes", "lease left")
    cells = [
        (
            *(row["election"], row["role"], row["leader"] or "-", str(row["term"])),
            *(since(row["since"]), str(row["changes"]), left(row["lease_left"])),
        )
        for row in rows
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*titles)
        for cell in cells:
            table.add_row(*map(Text, cell))
        Console().print(table)
    else:
        widths = [max(len(row[i]) for row in (titles, *cells)) for i in range(len(titles))]
        for row in (titles, *cells):
            print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def left(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds else "-"


def since(seconds: float | None) -> str:
    """When that was, on the clock of the wall here."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}" if seconds is not None else "-"


def leader(
    election: Annotated[
        str | None, typer.Argument(help="Which election (default: the first of the file).")
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Print the id of the leader. Exit code 0: there is one. 1: there is none. 3: no node answers."""
    answer = asked(node(config, id, data, url, None, timeout, ca, cert, key), "leader", election=election)
    if as_json:
        print(json.dumps(answer))
    elif answer["leader"]:
        print(answer["leader"])
    end(FOUND if answer["leader"] else NONE)


def watch(
    election: ElectionOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Print who leads, and each change of that, until Ctrl-C or until the node stops (exit code 3)."""
    last: dict[str, Any] = {}
    try:
        for view in node(config, id, data, url, None, timeout, ca, cert, key).watch(election):
            told = (view["leader"], view["term"] if view["leader"] else None)
            if as_json:
                print(json.dumps(view), flush=True)
            elif last.get(view["election"]) != told:
                who = f"{view['leader']} leads" if view["leader"] else "nobody leads"
                print(f"{view['election']}: {who}, term {view['term']}", flush=True)
            last[view["election"]] = told
    except Unreachable as error:
        end(UNREACHABLE, error)
    except Refused as error:
        end(REFUSED, error)
    except (KeyboardInterrupt, BrokenPipeError):
        end(FOUND)
    end(UNREACHABLE, "the node has stopped")


def transfer(
    to: Annotated[str, typer.Argument(help="The node that is to lead.")],
    election: ElectionOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    token_file: TokenOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
    force: Annotated[bool, typer.Option("--force", help="Even if its data is behind.")] = False,
) -> None:
    """Let the leader hand over to another node, once that has caught up, and say who leads then.

    Any node can be asked; it passes this on to the one that leads. Exit code 0: the other leads. 1: not yet;
    work has to end first. 3: no node answers. 4: refused; nobody leads, or the other is behind.
    """
    of = node(config, id, data, url, token_file, timeout, ca, cert, key)
    wish(of, "transfer", as_json, election=election, to=to, force=force)


def resign(
    election: ElectionOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    token_file: TokenOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
    seconds: Annotated[
        float,
        typer.Option(
            show_default=False, help="Nor let that one contend for so long.", callback=seconds_from(0)
        ),
    ] = 0.0,
) -> None:
    """Let the leader hand over to whoever is next, and say who leads then.

    Any node can be asked; it passes this on to the one that leads. Exit code 0: another leads. 1: not yet;
    work has to end first, or nobody else contends. 3: no node answers. 4: refused; nobody leads.
    """
    of = node(config, id, data, url, token_file, timeout, ca, cert, key)
    wish(of, "resign", as_json, election=election, seconds=seconds)


def freeze(
    seconds: Annotated[float, typer.Argument(help="For so long; 0 ends that.", callback=seconds_from(0))],
    election: ElectionOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    id: IdOption = None,
    url: UrlOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    token_file: TokenOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Keep a node from contending for a while, and say who leads.

    Exit code 0: so it is. 3: no node answers. 4: refused; a leader can resign for so many seconds.
    """
    of = node(config, id, data, url, token_file, timeout, ca, cert, key)
    try:
        tell(ask(of, "freeze", election=election, seconds=seconds), as_json)
    except Refused as error:
        where = {"--election": election, "--config": config, "--id": id, "--data": data, "--url": url}
        files = {"--token-file": token_file, "--ca": ca, "--cert": cert, "--key": key}
        given = [(name, str(word)) for name, word in {**where, **files}.items() if word]
        again = f"{elect()} resign --seconds {seconds:g} {shlex.join(chain(*given))}"
        end(REFUSED, f"{error}: `{again}`" if leads(of, election) else error)


def leads(of: OnThisMachine | OverHttp, election: str | None) -> bool:
    """Whether the node that was asked leads this election, by default the first."""
    standings = asked(of, "status")["elections"]
    chosen = election or asked(of, "leader")["election"]
    return any(each["role"] == "leader" for each in standings if each["election"] == chosen)


def wish(of: OnThisMachine | OverHttp, what: str, as_json: bool, **words: Word) -> None:
    tell(asked(of, what, **words), as_json)


def tell(answer: dict[str, Any], as_json: bool) -> NoReturn:
    """Say who leads now, and whether what was wished is done."""
    if as_json:
        print(json.dumps(answer))
    elif answer["leader"]:
        print(f"{answer['leader']} leads, term {answer['term']}")
    else:
        print("nobody leads")
    end(FOUND if answer["done"] else NONE)


def asked(of: OnThisMachine | OverHttp, what: str, **words: Word) -> Any:
    try:
        return ask(of, what, **words)
    except Refused as error:
        end(REFUSED, error)


def ask(of: OnThisMachine | OverHttp, what: str, **words: Word) -> Any:
    """Raises `Refused`."""
    try:
        return of.ask(what, **words)
    except Unreachable as error:
        end(UNREACHABLE, error)
