"""`elect config`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from electorate.runtime.config import load

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
        "quorum: majority of 4 voters; it survives the loss of any 1 of them",
        "fail-over: milliseconds after a crash, at most 0.5 s and a few round trips after a hang or a partition",
        "note: 4 voters survive no more failures than 3",
    ]
    code, output, _ = elect(
        tmp_path,
        *("check", "cluster.toml", "--id", "b"),
        ELECTORATE_NODES="a=10.0.0.1:1,b=10.0.0.2:1",
        ELECTORATE_INSECURE="true",
        ELECTORATE_HTTP_ADDRESS="10.0.0.9:80",
        ELECTORATE_FAST_FAILOVER="false",
        ELECTORATE_QUORUM="textbook",
    )
    assert code == 0
    assert "  b            voter     10.0.0.2:1, http 10.0.0.9:80" in output
    assert "10.0.0.1:1" not in output
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
