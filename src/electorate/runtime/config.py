"""The configuration of a cluster: one file, the same on every node.

    cluster = "demo"
    algorithm = "raft"
    [nodes.a]
    address = "10.0.0.1:7400"
    [nodes.b]
    address = "10.0.0.2:7400"

It is checked as a whole; every mistake is one sentence that names the file, the line and the key. The same
can be said by environment variables (`ELECTORATE_ALGORITHM`, `ELECTORATE_TIMING_LEASE`), which come before
the file, and by arguments, which come before both.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import EnumType
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, get_args, get_origin

import msgspec

from electorate.core.configuration import configuration, digests
from electorate.core.model import Kind, Member, Membership, NodeId, QuorumRule, Settings, Timing
from electorate.core.node import MAX_NAME, is_name
from electorate.errors import UserError, hint, meant
from electorate.runtime.sources import PREFIX, Source, read, variables
from electorate.runtime.wire import GREETING_LIMIT, MAX_METADATA, longest_greeting, size_of

T = TypeVar("T")

MAX_ID = 100
"""The longest name of a node, a group or a cluster, in bytes of UTF-8."""
MAX_HOST = 253
"""The longest name that a machine can have, in bytes."""
LONGEST = 120.0
"""No duration is longer than so many seconds; who says more has probably meant milliseconds."""
A_YEAR = 365 * 86_400.0
MOST_ELECTIONS = 1_000_000
"""No node has room for more."""

Algorithm = Literal["bully", "ring", "raft", "zab"]
RankBy = Literal["id", "position", "spread"]
Stagger = Literal["rank", "random", "none"]
Freshness = Literal["require", "prefer"]
Ring = Literal["tanenbaum", "chang-roberts", "hirschberg-sinclair"]
ProofOfDeath = Literal["attested", "refused", "none"]


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: where it is reached, and what it may do."""

    address: str
    bind: str | None = None
    """Where it listens, if not there: behind a translated address, or a port that a container publishes."""
    kind: Kind = Kind.VOTER
    priority: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] = 0
    weight: int = 1
    group: str = ""
    http: str | None = None
    """Where this node serves HTTP, instead of `[http] address`; ":8400" means 127.0.0.1:8400."""
    metadata: dict[str, str] = {}
    """Told to the other members, so that clients find the service and not only the node."""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the certificates are, relative to the cluster file; `{id}` stands for the node."""

    ca: str
    cert: str
    key: str
    crl: str | None = None
    """What has been revoked: a list of each authority in `ca`."""
    name: str | None = None
    """What names a node in a certificate without an `electorate:` URI; {cluster} and {id} stand for both."""


class HttpTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What HTTPS shows, relative to the cluster file; `{id}` stands for the node."""

    cert: str
    key: str
    client_ca: str | None = None
    """Whoever shows no certificate of this authority may only ask what probes ask."""


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str | None = None
    token_file: str | None = None
    """Whoever bears this token may transfer and resign."""
    hosts: tuple[str, ...] = ()
    """Names that requests may use for a node, beside those that it is configured with."""
    tls: HttpTls | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of cluster.toml. Durations are in seconds."""

    cluster: str
    nodes: dict[NodeId, NodeConfig]
    algorithm: Algorithm = "raft"
    elections: tuple[str, ...] = ("main",)
    """The elections that the nodes contend for; others that a member speaks of are held as well."""
    quorum: QuorumRule = QuorumRule.MAJORITY
    rank_by: RankBy = "id"
    stagger: Stagger = "rank"
    preempt: bool | None = None
    pre_vote: bool = True
    freshness: Freshness = "require"
    ring: Ring = "tanenbaum"
    max_elections: int = Settings().max_elections
    forget_after: float = Settings().forget_after
    """An election that nobody leads, and that this node does not contend for, is forgotten then; 0: never."""
    proof_of_death: ProofOfDeath | None = None
    """What proves that a process is gone, beside a newer life of its node: the word of its guardian, also a
    refused connection, or nothing."""
    timing: Timing = Timing()
    tls: Tls | None = None
    secret_file: str | None = None
    """A secret that all nodes share, instead of certificates."""
    insecure: bool = False
    """Allow addresses beyond this machine with neither."""
    http: Http | None = None
    directory: str = "."
    """What paths are relative to: where the file is."""

    @property
    def membership(self) -> Membership:
        members = (
            Member(id, node.kind, node.priority, node.weight, node.group) for id, node in self.nodes.items()
        )
        return Membership(tuple(members), self.quorum)

    @property
    def settings(self) -> Settings:
        names = ("algorithm", "rank_by", "stagger", "preempt", "pre_vote", "freshness", "ring", "timing")
        bounds = ("max_elections", "forget_after")
        return Settings(**{name: getattr(self, name) for name in (*names, *bounds)})

    def address(self, node: NodeId) -> tuple[str, int]:
        return split_address(self.nodes[node].address)

    def listens(self, node: NodeId) -> tuple[str, str, int]:
        """The key that says where this node listens, the host and the port."""
        key = "address" if self.nodes[node].bind is None else "bind"
        return f"nodes.{node}.{key}", *split_address(getattr(self.nodes[node], key))

    def http_address(self, node: NodeId) -> tuple[str, int] | None:
        """Where this node serves HTTP, if it does."""
        address = self.nodes[node].http or (self.http and self.http.address)
        return split_address(whole(address)) if address else None

    def listening(self, node: NodeId, port: int) -> Config:
        """The same, where this node has been given that port, if it was free to choose (port 0)."""
        return (
            self if self.address(node)[1] else self.with_address(node, "address", self.address(node)[0], port)
        )

    def serving(self, node: NodeId, port: int) -> Config:
        """The same for HTTP."""
        asked = self.http_address(node)
        return self.with_address(node, "http", asked[0], port) if asked and not asked[1] else self

    def with_address(self, node: NodeId, key: Literal["address", "http"], host: str, port: int) -> Config:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        changed = msgspec.structs.replace(self.nodes[node], **{key: address})
        return msgspec.structs.replace(self, nodes={**self.nodes, node: changed})

    def path(self, name: str, node: NodeId) -> Path:
        """The file that this configuration means for this node."""
        return Path(self.directory) / name.replace("{id}", node)


class Keywords(TypedDict, total=False):
    """What `Node(...)` can be told besides: each key of the file. The keys of a table bear its name before
    them; those of [timing] need not."""

    cluster: str
    nodes: str | Mapping[str, str | Mapping[str, Any] | NodeConfig]
    algorithm: Algorithm
    elections: Sequence[str]
    quorum: QuorumRule | Literal["majority", "weighted", "hierarchical", "textbook"]
    rank_by: RankBy
    stagger: Stagger
    preempt: bool
    pre_vote: bool
    freshness: Freshness
    ring: Ring
    max_elections: int
    forget_after: float
    proof_of_death: ProofOfDeath
    timing: Mapping[str, float]
    beat: float
    lease: float
    drift: float
    patience: float
    rank_slot: float
    finalize_wait: float
    timing_beat: float
    timing_lease: float
    timing_drift: float
    timing_patience: float
    timing_rank_slot: float
    timing_finalize_wait: float
    tls: Mapping[str, str]
    tls_ca: str
    tls_cert: str
    tls_key: str
    tls_crl: str
    tls_name: str
    secret_file: str
    insecure: bool
    http: Mapping[str, Any]
    http_address: str
    http_token_file: str
    http_hosts: Sequence[str]
    http_tls: Mapping[str, str]
    http_tls_cert: str
    http_tls_key: str
    http_tls_client_ca: str


def load(path: Path) -> Config:
    """Read and check a cluster file alone. Raises `UserError`."""
    return check(read(path), path.parent)


def configure(
    given: Path | str | Mapping[str, Any] | Config | None = None,
    arguments: Mapping[str, Any] = {},
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """What is configured by arguments, which come before the environment, which comes before the file (or a
    mapping like one). If no file is given, ELECTORATE_CONFIG may name one. Raises `UserError`."""
    if isinstance(given, Config):
        if arguments:
            raise UserError(
                f"{', '.join(arguments)}: the configuration was given as a whole; put it in there"
            )
        return given
    named = environ.get(f"{PREFIX}CONFIG") if given is None else given
    if isinstance(named, str | Path):
        source, directory = read(Path(named)), Path(named).parent
    else:
        source, directory = Source("the configuration", {"cluster": "electorate", **(named or {})}), Path()
    for name, value in variables(environ).items():
        apply(source, PREFIX + name, name.lower().split("_"), value)
    for name, value in arguments.items():
        apply(source, f"argument {name}", name.split("_"), value)
    return check(source, directory)


TABLES: dict[str, Any] = {"timing": Timing, "tls": Tls, "http": Http, "http.tls": HttpTls}


def apply(source: Source, place: str, words: list[str], value: Any) -> None:
    """Let a variable or an argument override what the file says. Texts stand for what the key wants."""
    name = "_".join(words)
    kinds, keys = overridable()
    if name not in keys:
        known = list(keys)
        if place.startswith(PREFIX):
            known = [PREFIX + word.upper() for word in keys if keys[word] not in TABLES]
            name = place
        raise UserError(f"{place} is not known; {hint(name, known, 'known are')}")
    key = keys[name]
    if key == "nodes":
        value = members(place, value)
    elif get_origin(kinds[key]) is tuple and isinstance(value, str):
        value = value.split(",")
    elif isinstance(value, str):
        try:
            value = msgspec.convert(value, kinds[key], strict=False)
        except msgspec.ValidationError as error:
            raise UserError(f"{place}: {sentence(str(error), key, repr(value) + ': ')}") from None
    source.set(place, key, value)


def overridable() -> tuple[dict[str, Any], dict[str, str]]:
    """The type of each key, and the key that each word means."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name != "directory"}
    kinds |= {
        f"{table}.{field.name}": field.type
        for table, type in TABLES.items()
        for field in msgspec.structs.fields(type)
    }
    words = {key.replace(".", "_"): key for key in kinds}
    return kinds, words | {key: f"timing.{key}" for key in fields(Timing)}


def members(place: str, value: Any) -> dict[str, Any]:
    """`a=10.0.0.1:7400,b=10.0.0.2:7400`, or a dictionary of addresses or of whole nodes."""
    if isinstance(value, str):
        pairs = [member.partition("=") for member in value.split(",")]
        if not all(sign for _, sign, _ in pairs):
            raise UserError(f"{place}: '{value}' is not like a=10.0.0.1:7400,b=10.0.0.2:7400")
        value = {id.strip(): address.strip() for id, _, address in pairs}
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: give each node an address, as in {{'a': '10.0.0.1:7400'}}")
    return {
        id: msgspec.to_builtins(node) if isinstance(node, NodeConfig) else node for id, node in value.items()
    }


def check(source: Source | dict[str, Any], directory: Path = Path()) -> Config:
    """Make a configuration of what was said, or raise one `UserError` that names place and key."""
    if isinstance(source, dict):
        source = Source("cluster.toml", source)
    content = {**source.content}
    nodes = content.get("nodes")
    if isinstance(nodes, Mapping):
        nodes = {id: {"address": node} if isinstance(node, str) else node for id, node in nodes.items()}
        content["nodes"] = nodes
        for id, node in nodes.items():
            suggest(source, node, NodeConfig, f"nodes.{id}.")
            convert(source, node, NodeConfig, f"nodes.{id}.")
    suggest(source, content, Config, "", hidden="directory")
    for table, type in TABLES.items():
        suggest(source, part(content, table), type, f"{table}.")
    config = convert(source, {**content, "directory": str(directory)}, Config, "")
    alike = source.is_from_file("http.address")
    for key, what in chain(*(each(config) for each in COMPLAINTS), complaints_about_ports(config, alike)):
        raise source.complaint(key, what)
    return config


def part(content: Any, table: str) -> Any:
    """What a table, perhaps within another one, holds."""
    for name in table.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def convert(source: Source, content: Any, type: type[T], prefix: str) -> T:
    """Make a `type` of it; what it is not, is said with the key where it is not."""
    try:
        return msgspec.convert(content, type)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        missing = what.removeprefix("Object missing required field ")
        if missing != what:
            where, what = f"{where.rstrip('`')}.{missing.strip('`')}", "it is missing"
        key = f"{prefix}{where.strip('`.').replace('[...]', '')}".rstrip(".")
        raise source.complaint(key, f": {sentence(what, key)}") from None


def sentence(complaint: str, key: str, value: str = "") -> str:
    """A complaint of msgspec in our words. What is none of several words is told which there are."""
    _, is_no_choice, word = complaint.partition("Invalid enum value ")
    if not is_no_choice:
        return f"{value}{complaint[0].lower()}{complaint[1:]}"
    known = CHOICES[key.rpartition(".")[2]]
    near = meant(word.strip("'"), known)
    question = f"did you mean '{near}'? " if near else ""
    return f"there is no {word}; {question}known are {', '.join(known)}"


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a value can be, if it must be one of some."""
    if isinstance(kind, EnumType):
        return tuple(kind)
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for each in get_args(kind) for word in choices(each))


CHOICES = {
    field.name: choices(field.type) for kind in (Config, NodeConfig) for field in msgspec.structs.fields(kind)
}


def suggest(source: Source, content: Any, type: Any, prefix: str, hidden: str = "") -> None:
    """An unknown key is probably a known one, misspelt."""
    if isinstance(content, Mapping):
        known = [name for name in fields(type) if name != hidden]
        for key in content:
            if key not in known and prefix and key in fields(Config):
                raise source.complaint(f"{prefix}{key}", " is not a key here; put it above the first [table]")
            if key not in known:
                raise source.complaint(f"{prefix}{key}", f" is not a key; {hint(key, known, 'known are')}")


def fields(type: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(type)]


Complaints = Iterator[tuple[str, str]]
"""Keys, and what is wrong with each."""


def complaints_about_nodes(config: Config) -> Complaints:
    if not config.cluster:
        yield "cluster", ": give the cluster a name; nodes of another one are refused by it"
    if what := hindered(config.cluster):
        yield "cluster", f": its name {what}"
    if not config.nodes:
        yield "nodes", ": name at least one, as [nodes.a] with an address"
    for id, node in config.nodes.items():
        key = f"nodes.{id}"
        if not id or "/" in id:
            yield key, ": an id has at least one character, and no slash"
        if what := hindered(id):
            yield key, f": an id {what}"
        if what := hindered(node.group):
            yield f"{key}.group", f": its name {what}"
        if node.weight < 0:
            yield f"{key}.weight", f": {node.weight} is negative; 0 means that it never counts"
        if (node.weight != 1 or node.group) and config.quorum == "majority":
            name = "group" if node.group else "weight"
            yield (
                f"{key}.{name}",
                ": it counts only with quorum = 'weighted' or 'hierarchical'; set that, too",
            )
        for what in complaints_about_metadata(node.metadata):
            yield f"{key}.metadata", what
    if config.nodes and not config.membership.candidates:
        yield "nodes", ": none of them may lead; at least one must be a voter with a weight"
    of = configuration(config.membership, config.settings, proof_of_death=config.proof_of_death)
    said = longest_greeting(config.cluster, config.nodes, *map(digests, of))
    if said > GREETING_LIMIT:
        yield (
            "nodes",
            f": a greeting, which tells a little of each of the {len(config.nodes)} nodes, would have {said}"
            f" bytes, and it has room for {GREETING_LIMIT}; name fewer nodes, or give them shorter ids",
        )


def hindered(name: str) -> str | None:
    """Why a name cannot be one that others are told, if so."""
    if not name.isprintable():
        return f"has nothing that cannot be printed: {name!a} does"
    if (size := len(name.encode())) > MAX_ID:
        return f"has at most {MAX_ID} bytes in UTF-8, and '{name[:20]}...' has {size}"
    return None


def complaints_about_addresses(config: Config) -> Complaints:
    given = {f"nodes.{id}.address": node.address for id, node in config.nodes.items()}
    given |= {f"nodes.{id}.bind": node.bind for id, node in config.nodes.items() if node.bind is not None}
    http = {f"nodes.{id}.http": node.http for id, node in config.nodes.items()}
    http["http.address"] = config.http.address if config.http else None
    for key, address in [
        *given.items(),
        *((key, whole(address)) for key, address in http.items() if address),
    ]:
        try:
            split_address(address)
        except ValueError as error:
            yield key, f": '{address}' {error}"
    seen: dict[str, NodeId] = {}
    for id, node in config.nodes.items():
        if node.address in seen:
            yield f"nodes.{id}.address", f": {node.address} is also that of node {seen[node.address]}"
        seen[node.address] = id
        if len(config.nodes) > 1 and not config.address(id)[1]:
            yield (
                f"nodes.{id}.address",
                ": port 0 is any free port, and the other nodes could not know which; only a node that is"
                " alone can have it",
            )
        if node.bind and not (config.address(id)[1] and config.listens(id)[2]):
            yield (
                f"nodes.{id}.bind",
                ": what is sent to one port is passed on to the other; neither can be 0, any that is free",
            )


def complaints_about_hosts(config: Config) -> Complaints:
    for host in config.http.hosts if config.http else ():
        if not is_host(host.removeprefix("*.")) and host != "*":
            yield (
                "http.hosts",
                f": '{host}' is no name of a host; say it without scheme, port and path, as in"
                " 'elect.example.com', or '*.example.com' for all names in there",
            )


def is_host(name: str) -> bool:
    """Whether this can be a name in the Domain Name System."""
    try:
        return all(re.fullmatch(rb"[\w-]+", label) for label in name.encode("idna").split(b"."))
    except UnicodeError:
        return False


def complaints_about_metadata(metadata: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in metadata.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            yield f": {name!r} is {value!r}; the others are told texts: {str(name)!r} could be {str(value)!r}"
            return
    try:
        size = size_of(metadata)
    except UnicodeEncodeError as error:
        yield f": {error.object!a} cannot be told to others: it is no text in UTF-8"
        return
    if size > MAX_METADATA:
        yield f": it has {size} bytes in UTF-8, and {MAX_METADATA} at most, since each node is told it"


def complaints_about_elections(config: Config) -> Complaints:
    if not len(config.elections) <= config.max_elections <= MOST_ELECTIONS:
        yield (
            "max_elections",
            f": {config.max_elections} must be from {len(config.elections)}, which are named, to"
            f" {MOST_ELECTIONS}",
        )
    if not 0 <= config.forget_after <= A_YEAR:
        yield "forget_after", f": {config.forget_after:g} must be a number of seconds from 0 to {A_YEAR:g}"
    if not config.elections:
        yield "elections", ": name at least one, or leave the key out"
    for election in config.elections:
        if not is_name(election):
            yield (
                "elections",
                f": {election!r}: the name of an election has 1 to {MAX_NAME} bytes in UTF-8, all of"
                " characters that can be printed",
            )
        if config.elections.count(election) > 1:
            yield "elections", f": '{election}' is named twice; leave one of them out"


def complaints_about_timing(config: Config) -> Complaints:
    timing = config.timing
    for name, value in msgspec.structs.asdict(timing).items():
        if name != "drift" and not 0 < value < float("inf"):
            yield f"timing.{name}", f": {value} is not a duration in seconds; it must be positive"
        if name != "drift" and value > LONGEST:
            yield (
                f"timing.{name}",
                f": {value:g} seconds are unlikely, and {LONGEST:g} the most there can be; for {value:g} ms"
                f" say {value / 1000:g}",
            )
    if not 0 <= timing.drift <= 0.05:
        yield "timing.drift", f": {timing.drift} is not in 0 to 0.05; 0.001 is a clock off by 0.1 %"
    if timing.beat >= timing.lease / 3:
        yield (
            "timing.beat",
            f": {timing.beat} must be less than a third of timing.lease ({timing.lease}), so that a leader"
            " survives the loss of two beats",
        )
    if timing.patience >= timing.lease:
        yield (
            "timing.patience",
            f": {timing.patience} must be less than timing.lease ({timing.lease}), or a candidate waits"
            " longer for answers than for a leader that is lost",
        )
    turns = len(config.membership.candidates) * timing.rank_slot
    if turns >= timing.lease and config.stagger == "rank":
        yield (
            "timing.rank_slot",
            f": {timing.rank_slot}, once for each node that may lead, is {turns:g}; it must be less than"
            f" timing.lease ({timing.lease}), or the last of them tries very late",
        )


def complaints_about_safety(config: Config) -> Complaints:
    if config.tls and config.tls.name is not None and "{id}" not in config.tls.name:
        yield (
            "tls.name",
            f": '{config.tls.name}' would be every node: say where its id stands, as in {{id}}.example.org",
        )
    if config.tls and config.secret_file:
        yield "secret_file", ": with [tls] it adds nothing; leave one of the two out"
    if config.tls or config.secret_file or config.insecure:
        return
    for id, node in config.nodes.items():
        for key, address in (("address", node.address), ("bind", node.bind or node.address)):
            if not is_loopback(split_address(address)[0]):
                yield (
                    f"nodes.{id}.{key}",
                    f": {address} can be reached from other machines: protect it by [tls] (`elect certs"
                    " init`) or secret_file, or say insecure = true if you trust the network",
                )


class Place(NamedTuple):
    """Where a node listens: the key that says so, and the machine as far as the configuration tells."""

    key: str
    node: NodeId
    machine: str
    host: str
    port: int

    def clashes(self, other: Place) -> bool:
        """Only one of the two can listen there."""
        everywhere = {"0.0.0.0", "::"} & {self.host, other.host}
        same_machine = self.node == other.node or self.machine == other.machine
        return same_machine and 0 < self.port == other.port and bool(everywhere or self.host == other.host)


def places(config: Config, alike: bool) -> Iterator[Place]:
    for id, node in config.nodes.items():
        key, host, port = config.listens(id)
        known_as = config.address(id)[0]
        machine = f"that of {id}" if node.bind else "this one" if is_loopback(known_as) else known_as
        yield Place(key, id, machine, host, port)
        http = config.http_address(id)
        if http and (node.http or alike):
            yield Place(f"nodes.{id}.http" if node.http else "http.address", id, machine, *http)


def complaints_about_ports(config: Config, alike: bool) -> Complaints:
    """`alike`: what [http] says is said to all nodes, and not to each process on its own."""
    for one, other in combinations(places(config, alike), 2):
        if one.clashes(other):
            there = "the same machine" if one.node == other.node else f"the machine of node {one.node}"
            yield (
                other.key,
                f": port {other.port} of {there} is that of {one.key}, too; give node {other.node} a port of"
                f" its own, as {other.key.replace('http.address', f'nodes.{other.node}.http')}",
            )


COMPLAINTS = (
    complaints_about_nodes,
    complaints_about_addresses,
    complaints_about_hosts,
    complaints_about_elections,
    complaints_about_timing,
    complaints_about_safety,
)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def whole(address: str) -> str:
    """An address of HTTP: without a host, it is of this machine alone."""
    return f"127.0.0.1{address}" if address.startswith(":") else address


def split_address(address: str) -> tuple[str, int]:
    """host:port, or [v6]:port. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host:
        raise ValueError("is not host:port, such as 10.0.0.1:7400 or [::1]:7400")
    if host == "*":
        raise ValueError(f"names no host; every address of a machine is 0.0.0.0:{port}, or [::]:{port}")
    try:
        if len(host.encode("idna")) > MAX_HOST:
            raise ValueError(f"names a host by more than {MAX_HOST} bytes, which cannot be")
    except UnicodeError:
        raise ValueError("names a host that cannot be") from None
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ValueError("needs a port from 1 to 65535, or 0 for any that is free")
    return host, int(port)
