"""The cluster file: what a full one means, and the one sentence that each mistake is answered with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from electorate import Node, sync
from electorate.core.model import Kind, Member, Membership, QuorumRule, Settings, Timing
from electorate.errors import UserError
from electorate.runtime.config import Keywords, NodeConfig, configure, load, overridable, split_address
from electorate.runtime.sources import read
from tests.runtime_hosts import in_loop

FULL = """
cluster = "demo"
algorithm = "ring"
elections = ["scheduler", "shard-1"]
quorum = "weighted"
insecure = true
rank_by = "spread"
stagger = "random"
preempt = true
pre_vote = false
freshness = "prefer"
ring = "chang-roberts"
proof_of_death = "none"
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
address = "127.0.0.1:7400"
"""


def written(directory: Path, content: str) -> Path:
    path = directory / "cluster.toml"
    path.write_text(content, "utf-8")
    return path


def test_a_full_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, FULL))
    assert config.cluster == "demo"
    assert config.elections == ("scheduler", "shard-1")
    assert config.proof_of_death == "none"
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
    assert config.proof_of_death is None
    assert config.membership == Membership((Member("a"),))


TOP = 'cluster = "demo"\n'
A = '[nodes.a]\naddress = "h.localhost:1"\n'
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
    "a node that is no address": (TOP + "[nodes]\na = 'h'\n", "nodes.a.address: 'h' is not host:port"),
    "nodes that are no table": (TOP + "nodes = 3\n", "nodes: expected `object`, got `int`"),
    "timing that is no table": (TOP + "timing = 3\n" + A, "timing: expected `object`, got `int`"),
    "no address": (TOP + "[nodes.a]\nweight = 1\n", "nodes.a.address: it is missing"),
    "no cluster": (A, "cluster: it is missing"),
    "no nodes": (TOP, "nodes: it is missing"),
    "an empty name": ('cluster = ""\n' + A, "cluster: give the cluster a name"),
    "nodes that are empty": (TOP + "nodes = {}\n", "nodes: name at least one"),
    "an empty id": (TOP + '[nodes.""]\naddress = "h:1"\n', "an id has at least one character"),
    "no port": (TOP + '[nodes.a]\naddress = "h"\n', "nodes.a.address: 'h' is not host:port"),
    "port 0 among others": (
        TOP + A + '[nodes.b]\naddress = "localhost:0"\n',
        "nodes.b.address: port 0 is any free port, and the other nodes could not know which",
    ),
    "a large port": (TOP + '[nodes.a]\naddress = "h:65536"\n', "'h:65536' needs a port from 1 to 65535"),
    "no number": (TOP + '[nodes.a]\naddress = "h:http"\n', "'h:http' needs a port from 1 to 65535"),
    "any host": (
        TOP + '[nodes.a]\naddress = "*:1"\n',
        "'*:1' names no host; every address of a machine is 0.0.0.0:1, or [::]:1",
    ),
    "no host": (TOP + '[nodes.a]\naddress = ":1"\n', "':1' is not host:port"),
    "an absurd host": (TOP + '[nodes.a]\naddress = "a..b:1"\n', "'a..b:1' names a host that cannot be"),
    "one address twice": (
        TOP + A + '[nodes.b]\naddress = "h.localhost:1"\n',
        "nodes.b.address: h.localhost:1 is also that of node a",
    ),
    "a negative weight": (TOP + A + "weight = -1\n", "nodes.a.weight: -1 is negative"),
    "no voter": (TOP + A + "kind = 'witness'\n", "nodes: none of them may lead"),
    "an unknown kind": (
        TOP + A + "kind = 'king'\n",
        "nodes.a.kind: there is no 'king'; known are voter, witness, observer",
    ),
    "an unknown algorithm": (
        'cluster = "demo"\nalgorithm = "paxos"\n' + A,
        "algorithm: there is no 'paxos'; known are bully, ring, raft, zab",
    ),
    "an unknown proof": (
        TOP + 'proof_of_death = "rumoured"\n' + A,
        "proof_of_death: there is no 'rumoured'; known are attested, refused, none",
    ),
    "an unknown quorum": (TOP + "quorum = 'all'\n" + A, "quorum: there is no 'all'; known are majority, w"),
    "a kind misspelt": (
        TOP + A + "kind = 'voters'\n",
        "nodes.a.kind: there is no 'voters'; did you mean 'voter'? known are voter, witness, observer",
    ),
    "an algorithm misspelt": (
        TOP + "algorithm = 'Raft'\n" + A,
        "algorithm: there is no 'Raft'; did you mean 'raft'? known are bully, ring, raft, zab",
    ),
    "no election": (TOP + "elections = []\n" + A, "elections: name at least one"),
    "an election without a name": (TOP + "elections = ['']\n" + A, "elections: '': the name of an election"),
    "one election twice": (TOP + "elections = ['x', 'y', 'x']\n" + A, "elections: 'x' is named twice"),
    "milliseconds": (
        TOP + A + "[timing]\nlease = 500\n",
        "timing.lease: 500 seconds are unlikely, and 120 the most there can be; for 500 ms say 0.5",
    ),
    "a place to listen that is none": (TOP + A + "bind = '7400'\n", "nodes.a.bind: '7400' is not host:port"),
    "a place to listen that all can reach": (
        TOP + A + "bind = '0.0.0.0:7400'\n",
        "nodes.a.bind: 0.0.0.0:7400 can be reached from other machines: protect it by [tls]",
    ),
    "any place to listen": (
        TOP + A + "bind = '127.0.0.1:0'\n",
        "nodes.a.bind: what is sent to one port is passed on to the other; neither can be 0",
    ),
    "a place to listen, and any port to be known by": (
        TOP + "[nodes.a]\naddress = 'localhost:0'\nbind = '127.0.0.1:7400'\n",
        "nodes.a.bind: what is sent to one port is passed on to the other; neither can be 0",
    ),
    "one port for HTTP and to listen": (
        TOP + A + "bind = '127.0.0.1:8400'\nhttp = '127.0.0.1:8400'\n",
        "nodes.a.http: port 8400 of the same machine is that of nodes.a.bind, too; give node a a port of its own",
    ),
    "one port for both": (
        TOP + A + "http = 'h.localhost:1'\n",
        "nodes.a.http: port 1 of the same machine is that of nodes.a.address, too; give node a a port of its own",
    ),
    "one port of HTTP for two": (
        TOP + A + "http = ':8400'\n[nodes.b]\naddress = 'localhost:2'\nhttp = '0.0.0.0:8400'\n",
        "nodes.b.http: port 8400 of the machine of node a is that of nodes.a.http, too; give node b a port of",
    ),
    "one port of HTTP for all": (
        TOP + "[http]\naddress = ':8400'\n" + A + "[nodes.b]\naddress = 'localhost:2'\n",
        "http.address: port 8400 of the machine of node a is that of http.address, too; give node b a port of",
    ),
    "a bad address of HTTP for all": (TOP + "[http]\naddress = 'x'\n" + A, "http.address: 'x' is not host"),
    "metadata that is no text": (TOP + A + "metadata = { x = 1 }\n", "nodes.a.metadata: expected `str`"),
    "a beat too slow": (TOP + A + "[timing]\nbeat = 0.2\n", "timing.beat: 0.2 must be less than a third of"),
    "a clock too bad": (TOP + A + "[timing]\ndrift = 0.06\n", "timing.drift: 0.06 is not in 0 to 0.05"),
    "no drift at all": (TOP + A + "[timing]\ndrift = nan\n", "timing.drift: nan is not in 0 to 0.05"),
    "a lease of nothing": (TOP + A + "[timing]\nlease = 0\n", "timing.lease: 0.0 is not a duration"),
    "an endless lease": (TOP + A + "[timing]\nlease = inf\n", "timing.lease: inf is not a duration"),
    "patience beyond a lease": (TOP + A + "[timing]\npatience = 0.6\n", "timing.patience: 0.6 must be less"),
    "a slot too long": (TOP + A + "[timing]\nrank_slot = 0.5\n", "timing.rank_slot: 0.5, once for each node"),
    "a weight that counts for nothing": (TOP + A + "weight = 2\n", "nodes.a.weight: it counts only with"),
    "a group that counts for nothing": (TOP + A + "group = 'x'\n", "nodes.a.group: it counts only with"),
    "an id with a slash": (
        TOP + '[nodes."a/b"]\naddress = "localhost:1"\n',
        "nodes.a/b: an id has at least one character, and no slash",
    ),
    "a bad address of HTTP": (TOP + A + "http = '8400'\n", "nodes.a.http: '8400' is not host:port"),
    "too much metadata": (
        TOP + A + f"metadata = {{ x = '{'y' * 3000}' }}\n",
        "nodes.a.metadata: it has 3001 bytes in UTF-8, and 2000 at most",
    ),
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
    with pytest.raises(UserError, match=r"cluster\.toml: No such file.*; give the path of a"):
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


# --- where it was said ------------------------------------------------------------------------------

SCATTERED = '''
# a comment with = and [brackets]
cluster = "demo"
"elections" = ["""x\\
y = 3\\
""",
  "z"]

[ timing ]   # seconds
lease = 1.0
beat = 0.1
[nodes.a]
address = "127.0.0.1:1"
[nodes."b.example"]
address = "127.0.0.1:2"
weight = 1
metadata = { url = "http://b" }
nodes_are_fun = 1
'''


def test_a_complaint_names_the_line_of_its_key_or_its_table(tmp_path: Path) -> None:
    path = written(tmp_path, SCATTERED)
    source = read(path)
    lines = {key: int(place.rpartition(":")[2]) for key, place in source.places.items()}
    text = SCATTERED.splitlines()
    for key, line in lines.items():
        assert key.rpartition(".")[2].strip('"') in text[line - 1], key
    assert set(lines) == {
        *("cluster", "elections", "timing", "timing.lease", "timing.beat", "nodes.a", "nodes.a.address"),
        *("nodes.b.example", "nodes.b.example.address", "nodes.b.example.weight", "nodes.b.example.metadata"),
        "nodes.b.example.nodes_are_fun",
    }
    with pytest.raises(UserError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}:18: nodes.b.example.nodes_are_fun is not a key; known are")
    where = {
        "lease = 1.0": ("lease = 0.2", "11: timing.beat: 0.1 must be less than a third"),
        "weight = 1": ("weight = 'heavy'", "16: nodes.b.example.weight: expected `int`, got `str`"),
        'address = "127.0.0.1:1"': ("", "12: nodes.a.address: it is missing"),
        'cluster = "demo"': ("", " cluster: it is missing"),
        "[ timing ]": ("[ timing ]\ndrift = 2", "10: timing.drift: 2.0 is not in 0 to 0.05"),
        "metadata = {": ("metadata = { a = 1,", "17: nodes.b.example.metadata: expected `str`, got `int`"),
    }
    for what, (instead, sentence) in where.items():
        text_now = SCATTERED.replace("nodes_are_fun = 1\n", "").replace(what, instead)
        with pytest.raises(UserError) as raised:
            load(written(tmp_path, text_now))
        assert str(raised.value).startswith(f"{path}:{sentence}"), raised.value


ENVIRONMENT = {
    "ELECTORATE_ALGORITHM": "zab",
    "ELECTORATE_ELECTIONS": "x,y",
    "ELECTORATE_TIMING_LEASE": "2",
    "ELECTORATE_PREEMPT": "true",
    "ELECTORATE_HTTP_ADDRESS": ":8400",
    "ELECTORATE_TERM": "7",
    "ELECTORATE_ELECTION": "of the command's",
    "ELECTORATE_NODE": "a",
    "ELECTORATE_ID": "a",
    "ELECTORATE_DATA": "/tmp",
    "OTHER": "1",
}


def test_arguments_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + '[timing]\nlease = 1\nbeat = 0.2\n[http]\ntoken_file = "t"\n')
    config = configure(path, {"algorithm": "bully", "beat": 0.3, "patience": "0.25"}, ENVIRONMENT)
    assert config.algorithm == "bully"
    assert config.elections == ("x", "y")
    assert config.timing == Timing(beat=0.3, lease=2.0, patience=0.25)
    assert config.preempt is True
    assert config.http and (config.http.address, config.http.token_file) == (":8400", "t")
    assert config.http_address("a") == ("127.0.0.1", 8400)
    assert configure(None, {}, {"ELECTORATE_CONFIG": str(path)}) == load(path)
    assert configure(config) is config


SERVICE_LINKS = """
ELECTORATE_SERVICE_HOST=10.96.3.7
ELECTORATE_SERVICE_PORT=7400
ELECTORATE_SERVICE_PORT_PEER=7400
ELECTORATE_SERVICE_PORT_HTTP=8400
ELECTORATE_PORT=tcp://10.96.3.7:7400
ELECTORATE_PORT_7400_TCP=tcp://10.96.3.7:7400
ELECTORATE_PORT_7400_TCP_PROTO=tcp
ELECTORATE_PORT_7400_TCP_PORT=7400
ELECTORATE_PORT_7400_TCP_ADDR=10.96.3.7
ELECTORATE_HTTP_SERVICE_HOST=10.96.3.8
ELECTORATE_HTTP_PORT=tcp://10.96.3.8:8400
ELECTORATE_HTTP_PORT_53_UDP_ADDR=10.96.3.8
"""


def test_what_kubernetes_says_of_services_is_not_meant_for_us() -> None:
    """As the service links of services called electorate and electorate-http."""
    links = dict(line.split("=") for line in SERVICE_LINKS.split())
    arguments = {"nodes": {"a": "127.0.0.1:1"}}
    assert configure(None, arguments, links) == configure(None, arguments, {})


def test_only_a_node_that_is_alone_may_have_any_port() -> None:
    config = configure(None, {"nodes": {"a": "127.0.0.1:0"}, "http_address": "[::1]:0"}, {})
    assert config.listening("a", 7400).address("a") == ("127.0.0.1", 7400)
    assert config.serving("a", 8400).http_address("a") == ("::1", 8400)
    chosen = config.listening("a", 7400).serving("a", 8400)
    assert chosen.listening("a", 1).serving("a", 2) == chosen


@in_loop
async def test_a_node_that_is_alone_listens_on_ports_of_its_own_finding(tmp_path: Path) -> None:
    settings: Keywords = {"nodes": {"a": "127.0.0.1:0"}, "http_address": ":0"}
    async with Node("a", data=tmp_path, **settings) as node, node.election().leadership():
        host, port = node.config.http_address("a") or ("", 0)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
    assert said["leader"] == "a"
    assert said["address"] == "{}:{}".format(*node.config.address("a"))
    assert not said["address"].endswith(":0")


def test_ports_that_do_not_clash() -> None:
    """The same port on different machines, on different addresses of one, or said by each process for itself."""
    far = {"a": "10.0.0.1:7400", "b": "10.0.0.2:7400"}
    assert configure({"nodes": far, "insecure": True, "http": {"address": "0.0.0.0:8400"}}, {}, {}).http
    near = {"a": {"address": "127.0.0.1:7400", "http": "127.0.0.2:7400"}, "b": "127.0.0.1:7401"}
    assert configure({"nodes": near}, {}, {}).http_address("a") == ("127.0.0.2", 7400)
    here = {"a": "127.0.0.1:7400", "b": "127.0.0.1:7401"}
    assert configure(None, {"nodes": here}, {"ELECTORATE_HTTP_ADDRESS": ":8401"}).http
    assert configure({"nodes": here, "http": {"address": ":8401"}}, {}, {}).http


def test_where_a_node_listens_is_not_where_it_is_known() -> None:
    """Containers whose ports one machine publishes may all listen on the same of their own."""
    nodes = {
        id: {"address": f"10.0.0.1:{port}", "bind": "0.0.0.0:7400", "http": "0.0.0.0:8400"}
        for id, port in (("a", 7400), ("b", 7401))
    }
    config = configure({"nodes": nodes, "insecure": True}, {}, {})
    assert config.address("b") == ("10.0.0.1", 7401)
    assert config.listens("b") == ("nodes.b.bind", "0.0.0.0", 7400)
    assert configure({"nodes": {"a": "127.0.0.1:1"}}, {}, {}).listens("a") == (
        "nodes.a.address",
        "127.0.0.1",
        1,
    )


def test_every_key_can_be_an_argument_that_type_checkers_know() -> None:
    _, words = overridable()
    assert set(Keywords.__annotations__) == set(words)


def test_metadata_given_by_the_program_are_texts() -> None:
    with pytest.raises(UserError) as raised:
        Node("a", nodes={"a": "127.0.0.1:1"}, metadata={"url": 1})  # type: ignore[dict-item]
    assert str(raised.value) == (
        "argument metadata: 'url' is 1; the others are told texts: 'url' could be '1'"
    )
    with pytest.raises(UserError, match="argument metadata: it has 2001 bytes in UTF-8, and 2000 at most"):
        sync.Node("a", nodes={"a": "127.0.0.1:1"}, metadata={"x": "y" * 2000})


def test_without_a_file_arguments_or_variables_are_enough() -> None:
    expected = Membership((Member("a"), Member("b", priority=2)))
    nodes = {"a": "127.0.0.1:1", "b": {"address": "127.0.0.1:2", "priority": 2}}
    for config in (
        configure(None, {"nodes": nodes}, {}),
        configure({"nodes": nodes}, {}, {}),
        configure(None, {"nodes": {"a": NodeConfig("127.0.0.1:1"), "b": nodes["b"]}}, {}),
    ):
        assert config.membership == expected
        assert config.cluster == "electorate"
    config = configure(None, {}, {"ELECTORATE_NODES": "a=127.0.0.1:1, b=[::1]:2"})
    assert config.address("b") == ("::1", 2)


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        ({"leese": 1}, {}, "argument leese is not known; did you mean 'lease'?"),
        ({"lease": "soon"}, {}, "argument lease: 'soon': expected `float`, got `str`"),
        ({"lease": "soon", "nodes": 3}, {}, "argument lease: 'soon': expected `float`, got `str`"),
        ({"nodes": 3}, {}, "argument nodes: give each node an address, as in {'a': '10.0.0.1:7400'}"),
        ({"nodes": {"a": "127.0.0.1"}}, {}, "argument nodes: nodes.a.address: '127.0.0.1' is not host:port"),
        (
            {"nodes": {"a": {"adress": "x:1"}}},
            {},
            "argument nodes: nodes.a.adress is not a key; did you mean",
        ),
        ({}, {"ELECTORATE_NODES": "a"}, "ELECTORATE_NODES: 'a' is not like a=10.0.0.1:7400,b=10.0.0.2:7400"),
        (
            {},
            {"ELECTORATE_ALGORITM": "raft"},
            "ELECTORATE_ALGORITM is not known; did you mean 'ELECTORATE_ALG",
        ),
        (
            {},
            {"ELECTORATE_HTTP_PORT": "8400"},
            "ELECTORATE_HTTP_PORT is not known; did you mean 'ELECTORATE_HTTP_HOSTS'?",
        ),
        (
            {},
            {"ELECTORATE_ALGORITHM": "paxos"},
            "ELECTORATE_ALGORITHM: there is no 'paxos'; known are bully, ",
        ),
        (
            {"nodes": {"a": "localhost:1"}},
            {"ELECTORATE_TIMING_BEAT": "1"},
            "ELECTORATE_TIMING_BEAT: timing.beat: 1.0 must be less than",
        ),
        ({}, {}, "the configuration: nodes: it is missing"),
    ],
)
def test_a_mistake_names_the_variable_or_the_argument(
    arguments: dict[str, object], environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        configure(None, arguments, environ)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize("address", ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "db.example:1", "[2001:db8::1]:1"])
def test_an_address_beyond_this_machine_must_be_protected(address: str) -> None:
    nodes = {"a": "127.0.0.1:1", "b": address}
    with pytest.raises(
        UserError, match=r"nodes\.b\.address: .* can be reached from other machines.*insecure"
    ):
        configure(None, {"nodes": nodes}, {})
    tls = {"ca": "ca", "cert": "{id}.pem", "key": "key"}
    assert not configure(None, {"nodes": nodes, "tls": tls}, {}).insecure
    assert configure(None, {"nodes": nodes, "secret_file": "secret"}, {}).secret_file == "secret"
    assert configure(None, {"nodes": nodes, "insecure": "true"}, {}).insecure
    with pytest.raises(UserError, match="leave one of the two out"):
        configure(None, {"nodes": nodes, "secret_file": "secret", "tls": tls}, {})


@pytest.mark.parametrize("address", ["127.8.9.1:1", "[::1]:1", "localhost:1", "db.localhost:1"])
def test_an_address_of_this_machine_need_not(address: str) -> None:
    assert configure(None, {"nodes": {"a": address}}, {}).address("a")[1] == 1


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(
        written(tmp_path, SMALL + '[tls]\nca = "ca.pem"\ncert = "{id}.pem"\nkey = "/keys/{id}.key"\n')
    )
    assert config.tls
    assert config.path(config.tls.cert, "a") == tmp_path / "a.pem"
    assert config.path(config.tls.key, "a") == Path("/keys/a.key")
