"""The configuration of a cluster: one file, the same on every node.

    cluster = "demo"
    algorithm = "raft"
    [nodes.a]
    address = "10.0.0.1:7400"
    [nodes.b]
    address = "10.0.0.2:7400"

It is checked as a whole; every mistake is one sentence that names the file and the key.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from electorate.core.model import Kind, Member, Membership, NodeId, QuorumRule, Settings, Timing
from electorate.core.node import MAX_NAME
from electorate.errors import UserError

T = TypeVar("T")


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: where it listens, and what it may do."""

    address: str
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


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str | None = None
    token_file: str | None = None
    """Whoever bears this token may transfer and resign."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of cluster.toml. Durations are in seconds."""

    cluster: str
    nodes: dict[NodeId, NodeConfig]
    algorithm: Literal["bully", "ring", "raft", "zab"] = "raft"
    elections: tuple[str, ...] = ("main",)
    """The elections that the nodes contend for; others that a member speaks of are held as well."""
    quorum: QuorumRule = QuorumRule.MAJORITY
    rank_by: Literal["id", "position", "spread"] = "id"
    stagger: Literal["rank", "random", "none"] = "rank"
    preempt: bool | None = None
    pre_vote: bool = True
    freshness: Literal["require", "prefer"] = "require"
    ring: Literal["tanenbaum", "chang-roberts", "hirschberg-sinclair"] = "tanenbaum"
    fast_failover: bool = True
    """A refused connection proves that a process is gone; false where addresses go through a proxy."""
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
        return Settings(**{name: getattr(self, name) for name in names})

    def address(self, node: NodeId) -> tuple[str, int]:
        return split_address(self.nodes[node].address)

    def http_address(self, node: NodeId) -> tuple[str, int] | None:
        """Where this node serves HTTP, if it does."""
        address = self.nodes[node].http or (self.http and self.http.address)
        return (
            split_address(f"127.0.0.1{address}" if address.startswith(":") else address) if address else None
        )

    def path(self, name: str, node: NodeId) -> Path:
        """The file that this configuration means for this node."""
        return Path(self.directory) / name.replace("{id}", node)


def load(path: Path) -> Config:
    """Read and check a cluster file. Raises `UserError`."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a cluster file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    return check({**content, "directory": str(path.parent)}, str(path))


def check(content: dict[str, Any], name: str) -> Config:
    """Make a configuration of what a file says, or raise one `UserError` that names file and key."""
    suggest(content, Config, name, "")
    if isinstance(content.get("timing"), dict):
        suggest(content["timing"], Timing, name, "timing.")
    for id, node in content["nodes"].items() if isinstance(content.get("nodes"), dict) else ():
        if isinstance(node, dict):
            suggest(node, NodeConfig, name, f"nodes.{id}.")
        convert(node, NodeConfig, name, f"nodes.{id}.")
    config = convert(content, Config, name, "")
    complaints = (
        *complaints_about_nodes(config),
        *complaints_about_elections(config),
        *complaints_about_timing(config.timing),
    )
    for complaint in complaints:
        raise UserError(f"{name}: {complaint}")
    return config


def convert(content: Any, type: type[T], name: str, prefix: str) -> T:
    """Make a `type` of it; what it is not, is said with the key where it is not."""
    try:
        return msgspec.convert(content, type)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        missing = what.removeprefix("Object missing required field ")
        if missing != what:
            where, what = f"{where.rstrip('`')}.{missing.strip('`')}", "it is missing"
        key = f"{prefix}{where.strip('`.').replace('[...]', '')}".rstrip(".")
        raise UserError(f"{name}: {key}: {what[0].lower()}{what[1:]}") from None


def suggest(content: dict[str, Any], type: Any, name: str, prefix: str) -> None:
    """An unknown key is probably a known one, misspelt."""
    known = [field.name for field in msgspec.structs.fields(type)]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise UserError(f"{name}: {prefix}{key} is not a key; {hint}")


def complaints_about_nodes(config: Config) -> list[str]:
    complaints = []
    if not config.cluster:
        complaints.append("cluster: give the cluster a name; nodes of another one are refused by it")
    if not config.nodes:
        complaints.append("nodes: name at least one, as [nodes.a] with an address")
    seen: dict[str, NodeId] = {}
    for id, node in config.nodes.items():
        if not id or len(id) > 100:
            complaints.append(f"nodes.{id}: an id has 1 to 100 characters")
        try:
            split_address(node.address)
        except ValueError as error:
            complaints.append(f"nodes.{id}.address: '{node.address}' {error}")
        if node.address in seen:
            complaints.append(f"nodes.{id}.address: {node.address} is also that of node {seen[node.address]}")
        seen[node.address] = id
        if node.weight < 0:
            complaints.append(f"nodes.{id}.weight: {node.weight} is negative; 0 means that it never counts")
    if config.nodes and not config.membership.candidates:
        complaints.append("nodes: none of them may lead; at least one must be a voter with a weight")
    return complaints


def complaints_about_elections(config: Config) -> list[str]:
    complaints = []
    if not config.elections:
        complaints.append("elections: name at least one, or leave the key out")
    for election in config.elections:
        if not 0 < len(election) <= MAX_NAME:
            complaints.append(
                f"elections: '{election}': the name of an election has 1 to {MAX_NAME} characters"
            )
    return complaints


def complaints_about_timing(timing: Timing) -> list[str]:
    complaints = [
        f"timing.{name}: {value} is not a duration in seconds; it must be positive"
        for name, value in msgspec.structs.asdict(timing).items()
        if name != "drift" and not 0 < value < float("inf")
    ]
    if not 0 <= timing.drift <= 0.05:
        complaints.append(f"timing.drift: {timing.drift} is not in 0 to 0.05; 0.001 is a clock off by 0.1 %")
    if timing.beat >= timing.lease / 3:
        complaints.append(
            f"timing.beat: {timing.beat} must be less than a third of timing.lease ({timing.lease}), so that"
            " a leader survives the loss of two beats"
        )
    return complaints


def split_address(address: str) -> tuple[str, int]:
    """host:port, or [v6]:port. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host:
        raise ValueError("is not host:port, such as 10.0.0.1:7400 or [::1]:7400")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("names a host that cannot be") from None
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("needs a port from 1 to 65535")
    return host, int(port)


def configure(
    source: Path | str | Mapping[str, Any] | Config | None,
    settings: Mapping[str, Any] = {},
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Keyword arguments come before the environment, which comes before the file."""
    if isinstance(source, Config):
        return source
    content: dict[str, Any] = {"cluster": "electorate"}
    if isinstance(source, str | Path):
        load(Path(source))
        content = {**tomllib.loads(Path(source).read_text()), "directory": str(Path(source).parent)}
    elif source is not None:
        content = {**content, **source}
    for key, value in settings.items():
        if key in Timing.__struct_fields__:
            content["timing"] = {**content.get("timing", {}), key: float(value)}
        elif key == "nodes":
            content["nodes"] = {id: {"address": n} if isinstance(n, str) else n for id, n in value.items()}
        else:
            content[key] = value
    return check(content, "the arguments")
