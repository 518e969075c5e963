"""The cluster file: what a full one means, and the one sentence that each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from electorate.core.model import Kind, Member, Membership, QuorumRule, Settings, Timing
from electorate.errors import UserError
from electorate.runtime.config import load, split_address

FULL = """
cluster = "demo"
algorithm = "ring"
elections = ["scheduler", "shard-1"]
quorum = "weighted"
rank_by = "spread"
stagger = "random"
preempt = true
pre_vote = false
freshness = "prefer"
ring = "chang-roberts"
fast_failover = false
[timing]
beat = 0.05
lease = 1
drift = 0.01
patience = 0.2
rank_slot = 0.02
finalize_wait = 0.1
[nodes.a]
address = "10.0.0.1:7400"
priority = -3
weight = 2
group = "north"
[nodes.b]
address = "[::1]:7401"
kind = "witness"
[nodes.c]
address = "host.example:7402"
kind = "observer"
"""

SMALL = """
cluster = "demo"
[nodes.a]
address = "10.0.0.1:7400"
"""


def written(directory: Path, content: str) -> Path:
    path = directory / "cluster.toml"
    path.write_text(content, "utf-8")
    return path


def test_a_full_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, FULL))
    assert config.cluster == "demo"
    assert config.elections == ("scheduler", "shard-1")
    assert not config.fast_failover
    assert config.membership == Membership(
        (
            Member("a", priority=-3, weight=2, group="north"),
            Member("b", Kind.WITNESS),
            Member("c", Kind.OBSERVER),
        ),
        QuorumRule.WEIGHTED,
    )
    assert config.settings == Settings(
        algorithm="ring",
        timing=Timing(beat=0.05, lease=1, drift=0.01, patience=0.2, rank_slot=0.02, finalize_wait=0.1),
        rank_by="spread",
        stagger="random",
        preempt=True,
        pre_vote=False,
        freshness="prefer",
        ring="chang-roberts",
    )
    assert [config.address(node) for node in "abc"] == [
        ("10.0.0.1", 7400),
        ("::1", 7401),
        ("host.example", 7402),
    ]


def test_a_small_file_has_the_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path, SMALL))
    assert config.settings == Settings()
    assert config.elections == ("main",)
    assert config.fast_failover
    assert config.membership == Membership((Member("a"),))


TOP = 'cluster = "demo"\n'
A = '[nodes.a]\naddress = "h:1"\n'
MISTAKES = {
    "an unknown key": (TOP + 'algoritm = "raft"\n' + A, "algoritm is not a key; did you mean 'algorithm'?"),
    "nothing like it": (TOP + "xyzzy = 1\n" + A, "xyzzy is not a key; known are cluster, nodes,"),
    "an unknown key of a node": (TOP + A + "prority = 1\n", "nodes.a.prority is not a key; did you mean 'p"),
    "an unknown duration": (
        TOP + A + "[timing]\nbeet = 1\n",
        "timing.beet is not a key; did you mean 'beat'",
    ),
    "a wrong type": (TOP + A + "[timing]\nlease = 'long'\n", "timing.lease: expected `float`, got `str`"),
    "a wrong type in a node": (TOP + A + "priority = 'p'\n", "nodes.a.priority: expected `int`, got `str`"),
    "a number too large": (TOP + A + "priority = 99999999999\n", "nodes.a.priority: expected `int` <= "),
    "a node that is no table": (TOP + "[nodes]\na = 'h:1'\n", "nodes.a: expected `object`, got `str`"),
    "nodes that are no table": (TOP + "nodes = 3\n", "nodes: expected `object`, got `int`"),
    "timing that is no table": (TOP + "timing = 3\n" + A, "timing: expected `object`, got `int`"),
    "no address": (TOP + "[nodes.a]\nweight = 1\n", "nodes.a.address: it is missing"),
    "no cluster": (A, "cluster: it is missing"),
    "no nodes": (TOP, "nodes: it is missing"),
    "an empty name": ('cluster = ""\n' + A, "cluster: give the cluster a name"),
    "nodes that are empty": (TOP + "nodes = {}\n", "nodes: name at least one"),
    "an empty id": (TOP + '[nodes.""]\naddress = "h:1"\n', "an id has 1 to 100 characters"),
    "no port": (TOP + '[nodes.a]\naddress = "h"\n', "nodes.a.address: 'h' is not host:port"),
    "port 0": (TOP + '[nodes.a]\naddress = "h:0"\n', "nodes.a.address: 'h:0' needs a port from 1 to 65535"),
    "a large port": (TOP + '[nodes.a]\naddress = "h:65536"\n', "'h:65536' needs a port from 1 to 65535"),
    "no number": (TOP + '[nodes.a]\naddress = "h:http"\n', "'h:http' needs a port from 1 to 65535"),
    "no host": (TOP + '[nodes.a]\naddress = ":1"\n', "':1' is not host:port"),
    "an absurd host": (TOP + '[nodes.a]\naddress = "a..b:1"\n', "'a..b:1' names a host that cannot be"),
    "one address twice": (
        TOP + A + '[nodes.b]\naddress = "h:1"\n',
        "nodes.b.address: h:1 is also that of node a",
    ),
    "a negative weight": (TOP + A + "weight = -1\n", "nodes.a.weight: -1 is negative"),
    "no voter": (TOP + A + "kind = 'witness'\n", "nodes: none of them may lead"),
    "an unknown kind": (TOP + A + "kind = 'king'\n", "nodes.a.kind: invalid enum value 'king'"),
    "an unknown algorithm": (
        'cluster = "demo"\nalgorithm = "paxos"\n' + A,
        "algorithm: invalid enum value 'paxos'",
    ),
    "an unknown quorum": (TOP + "quorum = 'all'\n" + A, "quorum: invalid enum value 'all'"),
    "no election": (TOP + "elections = []\n" + A, "elections: name at least one"),
    "an election without a name": (TOP + "elections = ['']\n" + A, "elections: '': the name of an election"),
    "a beat too slow": (TOP + A + "[timing]\nbeat = 0.2\n", "timing.beat: 0.2 must be less than a third of"),
    "a clock too bad": (TOP + A + "[timing]\ndrift = 0.06\n", "timing.drift: 0.06 is not in 0 to 0.05"),
    "no drift at all": (TOP + A + "[timing]\ndrift = nan\n", "timing.drift: nan is not in 0 to 0.05"),
    "a lease of nothing": (TOP + A + "[timing]\nlease = 0\n", "timing.lease: 0.0 is not a duration"),
    "an endless lease": (TOP + A + "[timing]\nlease = inf\n", "timing.lease: inf is not a duration"),
    "not TOML": ("cluster: demo\n", "is not TOML: "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_file_and_key(tmp_path: Path, mistake: str) -> None:
    content, sentence = MISTAKES[mistake]
    path = written(tmp_path, content)
    with pytest.raises(UserError) as raised:
        load(path)
    said = str(raised.value)
    assert said.startswith(str(path))
    assert sentence in said
    assert "\n" not in said


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cluster\.toml: No such file.*--config"):
        load(tmp_path / "cluster.toml")
    with pytest.raises(UserError, match="Is a directory"):
        load(tmp_path)
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"cluster = '\xff'")
    with pytest.raises(UserError, match="is not TOML"):
        load(path)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("10.0.0.1:7400", ("10.0.0.1", 7400)), ("[::1]:1", ("::1", 1)), ("höst.example:2", ("höst.example", 2))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
