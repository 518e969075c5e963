"""The data directory: nobody else may change what is in it, no link leads out of it, and what its disk may lose
is said."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from electorate.cli.client import OnThisMachine, Unreachable
from electorate.errors import UserError
from electorate.runtime.directory import DOUBTS, FILES, doubt, kind_in, kind_of_mount, opened
from electorate.runtime.store import Store
from tests.runtime_hosts import cluster, in_loop
from tests.test_cli_config import elect
from tests.test_runtime_faults import UNPRIVILEGED

CHECK = (sys.executable, "-m", "electorate.cli.main", "config", "check")
SHUT_OUT = (*UNPRIVILEGED[:2], UNPRIVILEGED[2].replace(";", "; ctypes.CDLL(None).prctl(24, 2, 0, 0, 0);", 1))
"""Nor may it look into all directories (CAP_DAC_READ_SEARCH)."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def refused(directory: Path) -> str:
    """Why there can be no store here."""
    with pytest.raises(UserError) as said:
        Store(directory, "demo", "a")
    return str(said.value)


def mend(sentence: str, before: str) -> None:
    """Type what the sentence says, which follows these words, and ends with it or with the next comma."""
    command = sentence.rpartition(before)[2].partition(", or ")[0]
    subprocess.run(command, shell=True, check=True, cwd="/")


# --- links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("there", [True, False])
def test_no_link_is_followed(tmp_path: Path, name: str, there: bool) -> None:
    Store(tmp_path / "a", "demo", "a").close()
    (tmp_path / "target").unlink(missing_ok=True)
    if there:
        (tmp_path / "target").write_text("precious")
    (tmp_path / "a" / name).unlink(missing_ok=True)
    (tmp_path / "a" / name).symlink_to(tmp_path / "target")
    said = refused(tmp_path / "a")
    assert said.startswith(
        f"{tmp_path}/a/{name} is a symbolic link, and none is followed in a data directory: "
    )
    assert (tmp_path / "target").exists() == there
    assert not there or (tmp_path / "target").read_text() == "precious"
    with pytest.raises(OSError) as failed:
        opened(tmp_path / "a" / name)
    assert failed.value.errno == errno.ELOOP


def test_what_is_to_be_typed_puts_the_store_in_the_place_of_the_link(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a b", "demo", "a")) as store:
        start = store.begin()
    for name, before in (
        ("electorate.db", f"if {tmp_path}/electorate.db is the store, "),
        ("lock", "directory: "),
    ):
        (tmp_path / "a b" / name).rename(tmp_path / name)
        (tmp_path / "a b" / name).symlink_to(f"../{name}")
        mend(refused(tmp_path / "a b"), before)
    with closing(Store(tmp_path / "a b", "demo", "a")) as store:
        assert store.chain() == {start}
    assert not (tmp_path / "a b" / "electorate.db").is_symlink()


def test_a_store_whose_link_leads_nowhere_is_not_begun_anew_without_rejoin(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "electorate.db").symlink_to("/mnt/not mounted/electorate.db")
    assert refused(tmp_path / "a").endswith(
        "bring back /mnt/not mounted/electorate.db, to which it leads; if that is lost, remove the link and"
        " start with --rejoin"
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_opened_nor_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    Store(tmp_path / "a", "demo", "a").close()
    path = tmp_path / "a" / name
    path.unlink(missing_ok=True)
    make(path)
    said = refused(tmp_path / "a")
    assert said == f"{path} is not a file, and a node keeps one by that name: mv {path} {path}.aside"
    mend(said, "name: ")
    Store(tmp_path / "a", "demo", "a").close()


def test_a_way_that_leads_nowhere_is_known_before_the_start(tmp_path: Path) -> None:
    elect(tmp_path, "init")
    (tmp_path / "away").symlink_to("not-mounted")
    (tmp_path / "round").symlink_to("round")
    for data, link in (("away", "away"), ("away/a", f"{tmp_path}/away"), ("round", "round")):
        said = (
            f"data directory {data} cannot be used: {link} is a symbolic link to what is not there; name a"
            " directory with --data"
        )
        code, _, complaint = elect(tmp_path, "check", "cluster.toml", "--id", "a", "--data", data)
        assert (code, complaint) == (2, f"elect: {said}\n")
    assert refused(tmp_path / "away").startswith(f"data directory {tmp_path}/away cannot be used: ")


@in_loop
async def test_what_is_made_anew_takes_the_place_of_a_link(tmp_path: Path) -> None:
    for name in ("control", "electorate.new", "electorate.new-journal"):
        (tmp_path / name).write_text("precious")
        (tmp_path / "a").mkdir(mode=0o700, exist_ok=True)
        (tmp_path / "a" / name).symlink_to(tmp_path / name)
    async with cluster(tmp_path, ids="a"):
        for name in ("control", "electorate.new", "electorate.new-journal"):
            assert (tmp_path / name).read_text() == "precious"
            assert name == "control" or not (tmp_path / "a" / name).is_symlink()


def test_who_asks_a_node_is_not_led_to_another_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        (tmp_path / "control").symlink_to("other")
        with pytest.raises(Unreachable, match="control is a symbolic link"):
            OnThisMachine(tmp_path, 10).ask("status")


def test_the_way_to_a_directory_may_be_a_link(tmp_path: Path) -> None:
    """As systemd makes one of the StateDirectory of a dynamic user."""
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "data").symlink_to("private")
    Store(tmp_path / "data", "demo", "a").close()
    assert (tmp_path / "private" / "electorate.db").exists()


def test_a_file_with_two_names_is_not_used(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a", "demo", "a")) as store:
        start = store.begin()
    (tmp_path / "snapshot").hardlink_to(tmp_path / "a" / "electorate.db")
    said = refused(tmp_path / "a")
    assert "electorate.db is a file that has another name as well (a hard link)" in said
    mend(said, "may be changed: ")
    with closing(Store(tmp_path / "a", "demo", "a")) as store:
        assert store.chain() == {start}


# --- owners and modes -----------------------------------------------------------------------------------


def another_group(path: Path) -> None:
    os.chown(path, -1, 65534)
    path.chmod(0o770)


@pytest.mark.parametrize("name", ["", "electorate.db", "lock"])
@pytest.mark.parametrize(
    "change", [lambda path: path.chmod(0o707), pytest.param(another_group, marks=as_root)]
)
def test_what_others_may_change_is_not_used(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    Store(tmp_path / "a", "demo", "a").close()
    path = tmp_path / "a" / name
    change(path)
    said = refused(tmp_path / "a")
    what = str(path) if name else f"data directory {path}"
    assert said.startswith(f"{what} may be changed by others (its mode is 07")
    mend(said, "): ")
    Store(tmp_path / "a", "demo", "a").close()


def test_a_group_of_ones_own_is_nobody_else(tmp_path: Path) -> None:
    """Kubernetes lets the group of a pod write to its volume, and many systems every user's."""
    Store(tmp_path / "a", "demo", "a").close()
    (tmp_path / "a").chmod(0o2770)
    (tmp_path / "a" / "electorate.db").chmod(0o660)
    Store(tmp_path / "a", "demo", "a").close()


@as_root
@pytest.mark.parametrize("name", ["", "electorate.db", "guardian"])
def test_what_belongs_to_another_is_not_used(tmp_path: Path, name: str) -> None:
    Store(tmp_path / "a", "demo", "a").close()
    path = tmp_path / "a" / name
    os.close(opened(tmp_path / "a" / "guardian"))
    os.chown(path, 4711, -1)
    said = refused(tmp_path / "a")
    what = str(path) if name else f"data directory {path}"
    assert said == (
        f"{what} belongs to 4711, and this process is root: run it as that user, or chown root {path}"
    )
    mend(said, "user, or ")
    Store(tmp_path / "a", "demo", "a").close()


def test_config_check_looks_at_it(tmp_path: Path) -> None:
    elect(tmp_path, "init")
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "data" / "lock").symlink_to("../precious")
    code, _, complaint = elect(tmp_path, "check", "cluster.toml", "--id", "a", "--data", "data")
    assert code == 2 and "data/lock is a symbolic link" in complaint
    assert (tmp_path / "precious").read_text() == "precious"
    (tmp_path / "data").chmod(0o777)
    code, _, complaint = elect(tmp_path, "check", "cluster.toml", "--id", "a", "--data", "data")
    assert code == 2 and "chmod go-w data" in complaint


def test_what_cannot_be_seen_or_written_is_one_sentence(tmp_path: Path) -> None:
    elect(tmp_path, "init")
    (tmp_path / "shut").mkdir()
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "lock").touch(0o400)
    (tmp_path / "shut").chmod(0)
    for data, why in (
        (
            "shut/data",
            f"cannot be made in {tmp_path}/shut (Permission denied): mend that, or give the node another",
        ),
        ("data", "cannot be used (Permission denied): mend that, or give the node another"),
    ):
        check = [*UNPRIVILEGED[:3], *CHECK, str(tmp_path / "cluster.toml"), "--id", "a", "--data", data]
        done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"elect: data directory {data} {why}" in done.stderr.splitlines()
    (tmp_path / "shut").chmod(0o700)


@as_root
def test_who_may_not_ask_a_node_is_not_told_that_none_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 4711, 4711)
    (tmp_path / "data").chmod(0o700)
    for words, code, says in (
        (
            ("status",),
            3,
            "the node in data can be asked by its user alone: ask as that user, or over HTTP (--url)",
        ),
        (
            ("node", "--config", "cluster.toml", "--id", "a"),
            2,
            "data directory data belongs to 4711, and this",
        ),
    ):
        elect(tmp_path, "init", "--force")
        done = subprocess.run(
            [*SHUT_OUT, sys.executable, "-m", "electorate", *words, "--data", "data"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert done.stderr.startswith(f"elect: {says}")


def test_what_is_made_on_the_way_is_not_for_others_to_change(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "made" / "on the way" / "a", "demo", "a").close()
    finally:
        os.umask(before)
    ways = tmp_path / "made", tmp_path / "made" / "on the way", tmp_path / "made" / "on the way" / "a"
    assert [stat.S_IMODE(way.stat().st_mode) for way in ways] == [0o755, 0o755, 0o700]


# --- the disk -------------------------------------------------------------------------------------------

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
25 27 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,inode64
31 27 0:44 / / rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/l/AB:/l/CD,upperdir=/d/diff,workdir=/d/work
46 27 0:52 / /mnt/with\\040space rw,relatime shared:28 - nfs4 10.0.0.5:/export rw,vers=4.2,hard,proto=tcp
47 27 0:53 /@home /home rw,relatime shared:29 - btrfs /dev/sdb rw,ssd,subvolid=257
48 27 0:54 / /mnt/there rw,nosuid,nodev - fuse.sshfs me@there: rw,user_id=0
"""
"""As in /proc/self/mountinfo of several machines."""


@pytest.mark.parametrize(
    ("id", "kind", "fear"),
    [
        ("27", "ext4", None),
        ("25", "tmpfs", "is in memory (tmpfs): it is lost when this machine restarts; keep it on a disk"),
        (
            "31",
            "overlay",
            "is in the layer of a container (overlay): it is lost with the container; keep it in a",
        ),
        (
            "46",
            "nfs4",
            "is on a share (nfs4): two processes may hold its lock at a time, and what was written may",
        ),
        ("47", "btrfs", None),
        ("48", "fuse.sshfs", "is on a share (fuse.sshfs): two processes"),
        ("7", "", None),
    ],
)
def test_what_a_disk_may_lose_is_known_by_its_kind(id: str, kind: str, fear: str | None) -> None:
    assert kind_in(MOUNTS, id) == kind
    assert DOUBTS.get(kind, "").format(kind=kind).startswith(fear or "")
    assert (kind in DOUBTS) == (fear is not None)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory")
@in_loop
async def test_a_store_in_memory_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Path(name)
        told = (
            f"data directory {place / 'a'} is in memory (tmpfs): it is lost when this machine restarts; keep it on"
            " a disk"
        )
        elect(place, "init")
        _, shown, _ = elect(place, "check", "cluster.toml", "--id", "a", "--data", str(place / "a"))
        assert f"note: {told}\n" in shown
        with caplog.at_level(logging.WARNING):
            async with cluster(place, ids="a"):
                assert told in caplog.messages


def test_the_kind_of_a_file_system_is_what_df_says(tmp_path: Path) -> None:
    for place in (tmp_path, Path("/dev/shm"), Path("/proc/self")):
        said = subprocess.run(["df", "--output=fstype", place], capture_output=True, text=True, check=True)
        assert kind_of_mount(place) == said.stdout.split()[-1]
    there, absent = doubt(tmp_path), doubt(tmp_path / "not" / "yet")
    assert (there is None) == (absent is None)
