"""The data directory of a node: in the hands of one user, on a disk that keeps what it is given.

Whoever may write to a directory may put a link where a file of ours belongs, and let us write to what it
leads to. So nobody else may write there; and since it may have been otherwise before, no link is followed
there, and nothing is used that is not ours. How one comes to the directory is the operator's affair.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from electorate.errors import UserError

STORE = "electorate.db"
FILES = (STORE, "lock", "guardian", *(f"{STORE}-{kind}" for kind in ("journal", "wal", "shm")))
"""Those that are read or written where they are. What is made anew (the socket `control`, `electorate.new`)
takes the place of whatever is there, and follows nothing."""

MEMORY = "is in memory ({kind}): it is lost when this machine restarts; keep it on a disk"
LAYER = "is in the layer of a container ({kind}): it is lost with the container; keep it in a volume"
NETWORK = (
    "is on a share ({kind}): two processes may hold its lock at a time, and what was written may be lost;"
    " keep it on a disk of this machine"
)
DOUBTS = {
    **dict.fromkeys(("tmpfs", "ramfs"), MEMORY),
    **dict.fromkeys(("overlay", "aufs"), LAYER),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "glusterfs"), NETWORK),
    **dict.fromkeys(("fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "vboxsf"), NETWORK),
}
"""What is to be feared of a file system, by its kind."""


@contextmanager
def usable(directory: Path) -> Iterator[None]:
    """What the system does not allow is said of this directory, with what to do. Raises `UserError`."""
    try:
        yield
    except OSError as error:
        there = nearest(directory)
        if not there.is_dir():
            what = "a symbolic link to what is not there" if there.is_symlink() else "a file"
            raise UserError(
                f"data directory {directory} cannot be used: {there} is {what}; name a directory with --data"
            ) from None
        how = "used" if there == directory else f"made in {there}"
        raise UserError(
            f"data directory {directory} cannot be {how} ({error.strerror}): mend that, or give the node"
            " another"
        ) from None


def make(directory: Path) -> None:
    """See to it that it is there, also after a power failure, and ours. Raises `UserError` or `OSError`."""
    for path in reversed(missing(directory)):
        path.mkdir(mode=0o700 if path == directory.absolute() else 0o755, exist_ok=True)
        sync(path.parent)
    inspect(directory)


def missing(directory: Path) -> list[Path]:
    """It, and those that it is to be in, as far as they are not there, or cannot be seen."""
    way = (directory.absolute(), *directory.absolute().parents)
    return list(takewhile(lambda path: not os.path.lexists(path), way))


def nearest(directory: Path) -> Path:
    """It, or the one that is there and nearest to it."""
    return gone[-1].parent if (gone := missing(directory)) else directory


def inspect(directory: Path) -> None:
    """Raises `UserError`, with what to type, if others may change what is in it, or have led us astray."""
    examine(f"data directory {directory}", directory, directory.stat())
    for name in FILES:
        path = directory / name
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(about.st_mode):
            raise UserError(
                f"{path} is a symbolic link, and none is followed in a data directory: {instead(path)}"
            )
        if not stat.S_ISREG(about.st_mode):
            aside = typed(path.with_name(f"{name}.aside"))
            raise UserError(
                f"{path} is not a file, and a node keeps one by that name: mv {typed(path)} {aside}"
            )
        examine(str(path), path, about)
        if about.st_nlink > 1:
            copy = typed(path.with_name("copy"))
            raise UserError(
                f"{path} is a file that has another name as well (a hard link), where it may be changed:"
                f" cp -p {typed(path)} {copy} && mv {copy} {typed(path)}"
            )


def instead(link: Path) -> str:
    """What to do about a link that is in the place of a file of ours."""
    there = link.resolve() if link.exists() else link.readlink()
    if link.name != STORE:
        return f"rm {typed(link)}"
    if link.exists():
        return f"if {there} is the store, mv {typed(there)} {typed(link)}"
    return f"bring back {there}, to which it leads; if that is lost, remove the link and start with --rejoin"


def examine(what: str, path: Path, about: os.stat_result) -> None:
    """Raises `UserError` if it is not ours alone."""
    me = os.geteuid()
    if about.st_uid != me:
        raise UserError(
            f"{what} belongs to {user(about.st_uid)}, and this process is {user(me)}: run it as that user, or"
            f" chown {user(me)} {typed(path)}"
        )
    if about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and not is_private(about.st_gid)):
        raise UserError(
            f"{what} may be changed by others (its mode is {stat.S_IMODE(about.st_mode):04o}):"
            f" chmod go-w {typed(path)}, or give the node another directory"
        )


def is_private(group: int) -> bool:
    """Whether it is the group of this user, and of no other: as many systems give to each, and Kubernetes to
    a volume (`fsGroup`)."""
    members = {other.pw_name for other in pwd.getpwall() if other.pw_gid == group}
    with contextlib.suppress(KeyError):
        members.update(grp.getgrgid(group).gr_mem)
    return group == os.getegid() and members <= {user(os.geteuid())}


def user(id: int) -> str:
    try:
        return pwd.getpwuid(id).pw_name
    except KeyError:
        return str(id)


def typed(path: Path) -> str:
    return shlex.quote(str(path))


def opened(path: Path, flags: int = 0) -> int:
    """This file in the data directory, made if it is not there. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def sync(directory: Path) -> None:
    """From here on, the names in it are on the disk. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if full := getattr(fcntl, "F_FULLFSYNC", 0):  # macOS, where fsync leaves it to the disk when to write
            fcntl.fcntl(descriptor, full)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def doubt(directory: Path) -> str | None:
    """What may be lost there, by the kind of its file system; None where that cannot be told (no Linux)."""
    try:
        kind = kind_of_mount(nearest(directory))
    except OSError:
        return None
    return f"data directory {directory} {DOUBTS[kind].format(kind=kind)}" if kind in DOUBTS else None


def kind_of_mount(place: Path) -> str:
    """The kind of file system. Raises `OSError` where the kernel does not tell."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.M)
    finally:
        os.close(descriptor)
    if told is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return kind_in(Path("/proc/self/mountinfo").read_text(), told[1])


def kind_in(mounts: str, id: str) -> str:
    """The kind of the mount with this id, "" if it is not there (see proc_pid_mountinfo(5))."""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ", 1)[0] == id:
            return rest.split(" ", 1)[0]
    return ""
