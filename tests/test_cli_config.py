"""`elect config`."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from electorate.cli.config import losses, quorum
from electorate.cli.plan import reserved_ports
from electorate.core.model import Kind, Member, Membership, QuorumRule
from electorate.runtime import authority
from electorate.runtime.authority import issue_certificate, make_authority
from electorate.runtime.config import load
from electorate.runtime.secret import new
from electorate.runtime.store import Store, lock

ELECT = Path(sys.executable).with_name("elect")


def elect(directory: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [ELECT, "config", *words],
        cwd=directory,
        env={**os.environ, "PATH": f"{ELECT.parent}:{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_what_init_writes_can_be_used_and_says_how(tmp_path: Path) -> None:
    code, output, _ = elect(tmp_path, "init", "--nodes", "5", "--algorithm", "zab", "--cluster", "shop")
    assert code == 0
    assert output.splitlines()[-1] == "  elect node --config cluster.toml --id e"
    config = load(tmp_path / "cluster.toml")
    assert (config.cluster, config.algorithm, list(config.nodes)) == ("shop", "zab", list("abcde"))
    before = (tmp_path / "cluster.toml").read_text()
    code, _, complaint = elect(tmp_path, "init")
    assert code == 2
    assert complaint == "elect: cluster.toml is there already; name another with --output, or add --force\n"
    assert (tmp_path / "cluster.toml").read_text() == before
    assert elect(tmp_path, "init", "--force")[0] == 0
    assert load(tmp_path / "cluster.toml").algorithm == "raft"


def test_every_commented_key_of_what_init_writes_can_be_used(tmp_path: Path) -> None:
    elect(tmp_path, "init")
    path = tmp_path / "cluster.toml"
    text = path.read_text().replace("# secret_file", "secret_file").replace("# insecure", "insecure")
    path.write_text(text.replace("# [http]", "[http]").replace("# http", "http").replace("# token", "token"))
    config = load(path)
    assert config.secret_file and config.insecure and config.http and config.http.token_file
    assert [config.http_address(id) for id in "abc"] == [("127.0.0.1", port) for port in (8400, 8401, 8402)]
    path.write_text(
        text.replace("secret_file", "# ").replace("# [tls]", "[tls]").replace("# c", "c").replace("# k", "k")
    )
    assert load(path).tls


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["init", "--algorithm", "paxos"],
            "there is no algorithm 'paxos'; choose one of bully, ring, raft, zab",
        ),
        (["init", "--cluster", ""], "--cluster '': a cluster has a name, without quotes and backslashes"),
        (
            ["init", "--cluster", 'a"b'],
            "--cluster 'a\"b': a cluster has a name, without quotes and backslashes",
        ),
        (["init", "--algorithm", "raf"], "there is no algorithm 'raf'; did you mean 'raft'?"),
        (["init", "--nodes", "0"], "--nodes 0: a file to begin with has 1 to 26 nodes"),
        (
            ["init", "--output", "no/such/folder"],
            "no/such/folder cannot be written: No such file or directory",
        ),
        (["check", "none.toml"], "none.toml: No such file or directory; give the path of a cluster file"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert elect(tmp_path, *words) == (2, "", f"elect: {sentence}\n")


def test_check_tells_what_a_file_means(tmp_path: Path) -> None:
    elect(tmp_path, "init", "--nodes", "4")
    code, output, _ = elect(tmp_path, "check", "cluster.toml")
    assert code == 0
    assert output.splitlines() == [
        "cluster.toml: cluster 'demo', raft, elections main",
        *(
            f"  {id:12} voter     127.0.0.1:{port}"
            for id, port in zip("abcd", range(7400, 7404), strict=True)
        ),
        "quorum: majority of 4 voters; it survives the loss of any one of them",
        "fail-over: milliseconds after a crash, at most 0.5 s and a few round trips after a hang or a partition",
        "note: 4 voters survive no more failures than 3",
    ]
    code, output, _ = elect(
        tmp_path,
        *("check", "cluster.toml"),
        ELECTORATE_NODES="a=10.0.0.1:1,b=10.0.0.2:1",
        ELECTORATE_INSECURE="true",
        ELECTORATE_HTTP_ADDRESS="10.0.0.9:80",
        ELECTORATE_PROOF_OF_DEATH="none",
        ELECTORATE_QUORUM="textbook",
    )
    assert code == 0
    assert "  b            voter     10.0.0.2:1, http 10.0.0.9:80" in output
    for note in (
        "laboratory alone",
        "insecure = true: whoever",
        "a crash costs a lease",
        "without encryption",
    ):
        assert note in output
    assert (
        "two voters survive no failure"
        in elect(tmp_path, "check", "cluster.toml", ELECTORATE_NODES="a=127.0.0.1:1,b=127.0.0.1:2")[1]
    )


@pytest.mark.parametrize(
    ("kinds", "rule", "weights", "survived"),
    [
        ("vvv", "majority", "111", "any one of them"),
        ("vvvvv", "majority", "11111", "any 2 of them"),
        ("v", "majority", "1", "none of them"),
        ("vww", "majority", "111", "none of them"),  # who is left may not lead
        ("vvwww", "majority", "11111", "any one of them"),
        ("vvvoo", "majority", "11111", "any one of them"),
        ("vvvv", "weighted", "3111", "none of them"),
        ("vvvvv", "weighted", "21111", "any one of them"),
        ("vvv", "textbook", "111", "any 2 of them"),
        ("v" * 13, "majority", "1" * 13, "any 6 of them"),
    ],
)
def test_how_many_voters_may_be_lost(kinds: str, rule: str, weights: str, survived: str) -> None:
    kind = {"v": Kind.VOTER, "w": Kind.WITNESS, "o": Kind.OBSERVER}
    members = (
        Member(str(number), kind[letter], weight=int(weight))
        for number, (letter, weight) in enumerate(zip(kinds, weights, strict=True))
    )
    assert quorum(Membership(tuple(members), QuorumRule(rule))).endswith(f"survives the loss of {survived}")


def test_a_hierarchy_survives_what_its_weakest_groups_do() -> None:
    groups = tuple(Member(f"{group}{n}", group=group) for group in "xyz" for n in range(3))
    assert losses(Membership(groups, QuorumRule.HIERARCHICAL)) == 3
    assert losses(Membership(groups[:7], QuorumRule.HIERARCHICAL)) == 2


# --- what a start would look at ---------------------------------------------------------------------------


SECURE = """
cluster = "demo"
{head}
[nodes.a]
address = "127.0.0.1:{a}"
http = "127.0.0.1:{http}"
[nodes.b]
address = "127.0.0.1:{b}"
"""
TLS = '[tls]\nca = "certs/ca.pem"\ncert = "certs/{id}.pem"\nkey = "certs/{id}.key"'


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Write a cluster file with ports that are free."""
    with reserved_ports(3) as (a, b, http):

        def writing(head: str) -> None:
            (tmp_path / "cluster.toml").write_text(SECURE.format(head=head, a=a, b=b, http=http))

        yield writing


def troubles(directory: Path, *words: str) -> list[str]:
    """What keeps node a from starting."""
    code, output, complaint = elect(directory, "check", "cluster.toml", "--id", "a", *words)
    assert code == (2 if complaint else 0)
    assert ("node a could start here" in output) == (not complaint)
    return [line.removeprefix("elect: ") for line in complaint.splitlines()]


def test_check_looks_at_secrets_and_tokens(tmp_path: Path, write: Callable[[str], None]) -> None:
    write('secret_file = "secret"\n[http]\ntoken_file = "token"')
    no_token, missing = troubles(tmp_path)
    assert missing.startswith("secret_file secret cannot be read: No such file")
    assert no_token.startswith("token file token cannot be read: No such file")
    assert "note: secret_file secret cannot be read" in elect(tmp_path, "check", "cluster.toml")[1]
    secret, token = tmp_path / "secret", tmp_path / "token"
    secret.write_text("too short")
    secret.chmod(0o600)
    token.write_text("x")
    token.chmod(0o644)
    open_to_all, short = troubles(tmp_path)
    assert short.startswith("secret_file secret, line 1: a secret is 32 random bytes or more")
    assert open_to_all.startswith("token file token is open to everybody: chmod 6")
    secret.write_text(new())
    token.chmod(0o600)
    assert troubles(tmp_path) == []
    secret.write_text("passphrase: correct horse battery staple")
    assert troubles(tmp_path) == []
    note = "note: secret_file secret has a pass-phrase: whoever reaches a node can take"
    assert note in elect(tmp_path, "check", "cluster.toml")[1]


def test_check_looks_at_certificates(tmp_path: Path, write: Callable[[str], None]) -> None:
    write(TLS)
    [missing] = troubles(tmp_path)
    assert missing.startswith("certs/ca.pem cannot be read: No such file")
    certs = tmp_path / "certs"
    make_authority("demo", certs, 100)
    issue_certificate("a", certs, 100)
    assert troubles(tmp_path) == []
    issue_certificate("a", certs, 1, force=True)
    assert troubles(tmp_path) == []
    tomorrow = f"{datetime.now(UTC) + timedelta(hours=23):%Y-%m-%d}"
    assert (
        f"note: the certificate of node a ends on {tomorrow}" in elect(tmp_path, "check", "cluster.toml")[1]
    )
    issue_certificate("b", certs, 100)
    for kind in ("pem", "key"):
        (certs / f"b.{kind}").replace(certs / f"a.{kind}")
    [of_another] = troubles(tmp_path)
    assert of_another.startswith(
        "certs/a.pem names electorate:demo/b, and not node 'a' of cluster 'demo'; `elect c"
    )
    assert f"note: {of_another}" in elect(tmp_path, "check", "cluster.toml")[1]
    make_authority("shop", tmp_path / "other", 100)
    issue_certificate("a", tmp_path / "other", 100)
    for file in ("a.pem", "a.key"):
        (tmp_path / "other" / file).replace(certs / file)
    [of_a_stranger] = troubles(tmp_path)
    assert of_a_stranger.startswith("certs/a.pem would be refused by other nodes: ")
    (tmp_path / "other" / "ca.pem").replace(certs / "ca.pem")
    [of_another_cluster] = troubles(tmp_path)
    assert of_another_cluster.startswith(
        "certs/a.pem names electorate:shop/a, and not node 'a' of cluster 'demo'"
    )


def test_check_knows_an_expired_certificate(
    tmp_path: Path, write: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(TLS)
    make_authority("demo", tmp_path / "certs", 100)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    monkeypatch.setattr(authority, "datetime", SimpleNamespace(now=lambda zone: long_ago))
    issue_certificate("a", tmp_path / "certs", 2)
    [expired] = troubles(tmp_path)
    assert expired == (
        "certs/a.pem would be refused by other nodes: certificate has expired;"
        " `elect certs issue a --force` makes one"
    )


def test_check_looks_at_ports_and_the_directory(tmp_path: Path, write: Callable[[str], None]) -> None:
    write("")
    assert troubles(tmp_path) == []
    config = load(tmp_path / "cluster.toml")
    with socket.create_server(config.address("a")), socket.create_server(config.http_address("a") or ("", 0)):
        assert troubles(tmp_path) == [
            f"node a cannot listen on {host}:{port}: Address already in use; stop whatever uses that port, or"
            f" change nodes.a.{key}"
            for key, (host, port) in (
                ("address", config.address("a")),
                ("http", config.http_address("a") or ("", 0)),
            )
        ]
        (tmp_path / "data").mkdir()
        held = lock(tmp_path / "data")
        [runs] = troubles(tmp_path, "--data", "data")
        os.close(held)
        assert runs.startswith(f"data directory data is in use by process {os.getpid()}: ")
    (tmp_path / "file").touch()
    for data, there in (("file/data", f"{tmp_path}/file"), ("file", "file")):
        assert troubles(tmp_path, "--data", data) == [
            f"data directory {data} cannot be used: {there} is a file; name a directory with --data"
        ]
    assert troubles(tmp_path, "--data", "/proc/electorate/a") == [
        "data directory /proc/electorate/a cannot be made in /proc (No such file or directory): mend that, or"
        " give the node another"
    ]
    assert troubles(tmp_path, "--data", "data") == []
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["lock"]
    path = tmp_path / "cluster.toml"
    path.write_text("insecure = true\n" + path.read_text().replace('"127.0.0.1', '"192.0.2.1', 1))
    [elsewhere] = troubles(tmp_path)
    host, port = load(path).address("a")
    assert elsewhere == (
        f"node a cannot listen on {host}:{port}: that is no address of this machine; correct nodes.a.address, or"
        f" say in nodes.a.bind where to listen, such as 0.0.0.0:{port}"
    )
    path.write_text(path.read_text().replace("192.0.2.1", "nowhere.invalid", 1))
    [unknown] = troubles(tmp_path)
    assert unknown.startswith(
        f"node a cannot listen on nowhere.invalid:{port}: that name cannot be looked up"
    )
    path.write_text(path.read_text().replace("[nodes.a]", f'[nodes.a]\nbind = "127.0.0.2:{port}"'))
    assert troubles(tmp_path) == []
    shown = elect(tmp_path, "check", "cluster.toml")[1]
    assert f"nowhere.invalid:{port}, listens on 127.0.0.2:{port}, http " in shown
    with socket.create_server(("127.0.0.2", port)):
        [taken] = troubles(tmp_path)
    assert taken.endswith("stop whatever uses that port, or change nodes.a.bind")


def test_check_looks_at_the_store_as_a_start_would(tmp_path: Path, write: Callable[[str], None]) -> None:
    write("")
    file = tmp_path / "data" / "electorate.db"
    with closing(Store(tmp_path / "data", "demo", "b")) as store:
        store.begin()
    content = file.read_bytes()
    [others] = troubles(tmp_path, "--data", "data")
    assert others == "data directory data belongs to node 'b', not 'a': give each node a directory of its own"
    assert file.read_bytes() == content
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            "UPDATE identity SET value = 2 WHERE key = 'readable by'; PRAGMA user_version = 2"
        )
    [newer] = troubles(tmp_path, "--data", "data")
    assert "whose store (layout 2) cannot be read by electorate" in newer
    file.write_bytes(content[:-1000])
    [damaged] = troubles(tmp_path, "--data", "data")
    assert damaged.startswith("data directory data is damaged (")
    (tmp_path / "data" / "lock").unlink()
    assert troubles(tmp_path, "--data", "data") == [damaged]
    file.unlink()
    Store(tmp_path / "data", "demo", "a").close()
    assert troubles(tmp_path, "--data", "data") == []


def test_check_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    elect(tmp_path, "init")
    path = tmp_path / "cluster.toml"
    path.write_text(path.read_text().replace("[timing]", "[timing]\nsecret_file = 'x'"))
    code, _, complaint = elect(tmp_path, "check", "cluster.toml")
    assert code == 2
    assert complaint == (
        "elect: cluster.toml:11: timing.secret_file is not a key here; put it above the first [table]\n"
    )
    elect(tmp_path, "init", "--force")
    assert elect(tmp_path, "check", "cluster.toml", "--id", "x") == (
        2,
        "",
        "elect: node 'x' is not in cluster.toml; it has a, b, c\n",
    )
