"""`elect certs`, as typed: what it makes, what it never replaces, and what it says to do next."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from electorate.cli.cluster import make_certificates
from electorate.cli.plan import CLUSTER, Plan
from electorate.errors import UserError
from electorate.runtime import authority
from electorate.runtime.config import load
from electorate.runtime.host import Host


def certs(at: Path, *words: str) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    command = [sys.executable, "-m", "electorate.cli.main", "certs", *words]
    done = subprocess.run(command, cwd=at, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("made")
    assert certs(at, "init", "--cluster", "demo")[0] == 0
    assert certs(at, "issue", "a", "nød 1")[0] == 0
    return at


def content(at: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (at / "certs").iterdir()}


def test_a_node_starts_with_what_it_says(made: Path, tmp_path: Path) -> None:
    code, said = certs(made, "issue", "b")
    assert code == 0 and said.startswith("Made certs/b.pem and certs/b.key, valid for 825 days.\n")
    assert "valid for 1 day." in certs(made, "issue", "short", "--days", "1")[1]
    table = said[said.index("[tls]") :]
    nodes = "".join(
        f'[nodes."{id}"]\naddress = "127.0.0.1:{n}"\n' for n, id in ((7400, "a"), (7401, "nød 1"))
    )
    (made / "cluster.toml").write_text(f'cluster = "demo"\n{table}{nodes}')
    for id in ("a", "nød 1"):
        host = Host(load(made / "cluster.toml"), id, tmp_path / id)
        assert host.certificates
        host.close_store()


def test_keys_are_for_their_owner_alone(made: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made / "certs").iterdir()}
    assert {mode for name, mode in modes.items() if name.endswith(".key")} == {0o600}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("init", "--cluster", "demo"), "certs/ca.key is there already"),
        (("issue", "a"), "certs/a.key is there already"),
        (("issue", "ca"), "'ca' is what the files of the authority are called"),
        (("issue", "ca", "--force"), "'ca' is what the files of the authority are called"),
        (("issue", "../x"), "'../x' is no id of a node"),
        (("issue", "x", "--days", "0"), "a certificate is valid for 1 to"),
        (("init", "--cluster", "x", "--dir", "certs/ca.pem"), "there is a file in its place; name another"),
        (("issue", "x", "--days", "9999999"), "a certificate is valid for 1 to"),
        (("issue", "x", "--dir", "nowhere"), "certs init --dir nowhere` makes an authority"),
        (("init", "--cluster", "demo", "--dir", "certs/a.pem/x"), "cannot be made: Not a directory"),
        (("init", "--cluster", "c" * 54, "--dir", "long"), "a certificate has room for 53 characters"),
    ],
)
def test_mistakes_are_said_and_change_nothing(made: Path, words: tuple[str, ...], sentence: str) -> None:
    before = content(made)
    code, said = certs(made, *words)
    assert code == 2
    assert said.startswith("elect: ") and sentence in said and "Traceback" not in said
    assert content(made) == before


def test_who_is_revoked_is_told_to_each_node_that_has_the_list(tmp_path: Path) -> None:
    assert certs(tmp_path, "init", "--cluster", "demo")[0] == 0
    assert certs(tmp_path, "issue", "a", "b", "c")[0] == 0
    assert certs(tmp_path, "revoke", "b")[0] == 0
    code, said = certs(tmp_path, "revoke", "c", "b")
    assert code == 0
    tables = certs(tmp_path, "issue", "x")[1]
    tables = tables[tables.index("[tls]") :] + said[said.index("  crl") :]
    nodes = "".join(f'[nodes.{id}]\naddress = "127.0.0.1:740{n}"\n' for n, id in enumerate("abc"))
    (tmp_path / "cluster.toml").write_text(f'cluster = "demo"\n{tables}{nodes}')
    config = load(tmp_path / "cluster.toml")
    Host(config, "a", tmp_path / "a").close_store()
    for id in "bc":
        with pytest.raises(UserError, match="certificate revoked; `elect certs issue"):
            Host(config, id, tmp_path / id)
    code, said = certs(tmp_path, "revoke", "nobody")
    assert code == 2 and "certs/nobody.pem cannot be read" in said
    (tmp_path / "certs" / "crl.pem").write_text("no list")
    with pytest.raises(UserError, match=r"are no certificate that can be used.*certs revoke` the list"):
        Host(config, "a", tmp_path / "a")
    (tmp_path / "certs" / "crl.pem").unlink()
    with pytest.raises(UserError, match=r"crl\.pem cannot be read: No such file.*certs revoke` the list"):
        Host(config, "a", tmp_path / "a")


def test_a_list_must_be_of_every_authority_and_not_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path, tmp_path / "other"):
        authority.make_authority("demo", place, 10)
        authority.issue_certificate("a", place, 10)
        authority.revoke_certificates(["a"], place, 10)
    authority.issue_certificate("a", tmp_path, 10, force=True)
    (tmp_path / "cluster.toml").write_text(
        'cluster = "demo"\nnodes = {a = "127.0.0.1:7400"}\n'
        '[tls]\nca = "ca.pem"\ncert = "a.pem"\nkey = "a.key"\ncrl = "crl.pem"\n'
    )
    Host(load(tmp_path / "cluster.toml"), "a", tmp_path / "data").close_store()
    before = (tmp_path / "crl.pem").read_bytes()
    (tmp_path / "crl.pem").write_bytes((tmp_path / "other" / "crl.pem").read_bytes())
    with pytest.raises(UserError, match=r"tls\.crl must have a list of each authority"):
        Host(load(tmp_path / "cluster.toml"), "a", tmp_path / "data")
    (tmp_path / "crl.pem").write_bytes(before)
    ended = datetime.now(UTC) - timedelta(days=20)
    monkeypatch.setattr(authority, "datetime", SimpleNamespace(now=lambda zone: ended))
    authority.revoke_certificates(["a"], tmp_path / "other", 10)
    monkeypatch.undo()
    for name in ("ca.pem", "a.pem", "a.key", "crl.pem"):
        shutil.copy(tmp_path / "other" / name, tmp_path / name)
    with pytest.raises(UserError, match="CRL has expired; get a new list"):
        Host(load(tmp_path / "cluster.toml"), "a", tmp_path / "data")


def test_a_list_is_made_by_the_authority_whose_it_is(tmp_path: Path) -> None:
    for place in ("certs", "new"):
        assert certs(tmp_path, "init", "--cluster", "demo", "--dir", place)[0] == 0
        assert certs(tmp_path, "issue", "a", "--dir", place)[0] == 0
    assert certs(tmp_path, "revoke", "a")[0] == 0
    lists = {place: tmp_path / place / "crl.pem" for place in ("certs", "new")}
    code, said = certs(tmp_path, "revoke", "--dir", "new", "--days", "1")
    assert code == 0 and "Made new/crl.pem, valid for 1 day." in said
    before = lists["certs"].read_bytes()
    assert list(x509.load_pem_x509_crl(lists["new"].read_bytes())) == []
    assert certs(tmp_path, "revoke")[0] == 0 and lists["certs"].read_bytes() != before
    assert len(list(x509.load_pem_x509_crl(lists["certs"].read_bytes()))) == 1
    shutil.copy(tmp_path / "new" / "a.pem", tmp_path / "certs" / "strange.pem")
    own, other = (lists[place].read_bytes() for place in ("certs", "new"))
    for words, content, sentence in (
        (["ca"], own, "an authority cannot be revoked"),
        (["a", "strange"], own, "certs/strange.pem is no certificate that ca.pem there has signed"),
        (["a"], other, "certs/crl.pem is the list of another authority"),
        (["a"], own + other, "certs/crl.pem has several lists"),
    ):
        lists["certs"].write_bytes(content)
        code, said = certs(tmp_path, "revoke", *words)
        assert code == 2 and said.startswith(f"elect: {sentence}"), said
        assert lists["certs"].read_bytes() == content


def test_force_replaces_the_certificate_of_a_node(made: Path) -> None:
    before = content(made)
    assert certs(made, "issue", "a", "--force")[0] == 0
    changed = {name for name, now in content(made).items() if before.get(name) != now}
    assert {"a.pem", "a.key"} <= changed and not changed & {"ca.pem", "ca.key"}


def test_the_bench_makes_certificates_that_its_nodes_can_use(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(Plan(tls=True).toml([7400, 7401, 7402]))
    config = load(tmp_path / "cluster.toml")
    assert config.cluster == CLUSTER
    with pytest.raises(UserError, match="elect certs issue a"):
        Host(config, "a", tmp_path / "a")
    make_certificates(["a"], tmp_path / "certs")
    host = Host(config, "a", tmp_path / "a")
    assert host.certificates
    host.close_store()
