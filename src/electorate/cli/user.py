"""Whom the command of `elect run` belongs to, if not to the user of `elect` itself."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple

from electorate.errors import UserError
from electorate.prctl import change_user


class User(NamedTuple):
    uid: int
    gid: int
    groups: list[int]
    """The others that it belongs to."""
    environment: dict[str, str]
    """What is to be found there of one who has logged in."""


def user_of(user: str | None, group: str | None) -> User | None:
    """Whom these options name; None if nobody. Raises `UserError`, also if no process can be that, or none
    could be ended then."""
    if user is None and group is None:
        return None
    known = account(user)
    gid = number_of(group) if group is not None else known.pw_gid
    said = {"HOME": known.pw_dir, "SHELL": known.pw_shell, "USER": known.pw_name, "LOGNAME": known.pw_name}
    found = User(known.pw_uid, gid, os.getgrouplist(known.pw_name, gid), said if user is not None else {})
    prove(found, " ".join(f"--{key} {name}" for key, name in (("user", user), ("group", group)) if name))
    return found


def account(user: str | None) -> pwd.struct_passwd:
    try:
        if user is None:
            return pwd.getpwuid(os.geteuid())
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        who = f"'{user}'" if user is not None else f"{os.geteuid()}"
        raise UserError(f"this machine knows no user {who}: correct --user, or add it") from None


def number_of(group: str) -> int:
    try:
        return (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
    except (KeyError, OverflowError):
        raise UserError(f"this machine knows no group '{group}': correct --group, or add it") from None


def prove(user: User, option: str) -> None:
    """Try it with a process that does nothing else. Raises `UserError`."""
    pid = os.fork()
    if pid == 0:
        try:
            change_user(user.uid, user.gid, user.groups)
            os._exit(0)
        finally:
            os._exit(1)
    changed = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        os.kill(pid, 0)
        may_kill = True
    except PermissionError:
        may_kill = False
    os.waitpid(pid, 0)
    if changed is None or changed.si_status:
        raise UserError(
            f"elect may not start a command as another user ({option}): start it as root (CAP_SETUID,"
            " CAP_SETGID), or leave that out"
        )
    if not may_kill:
        raise UserError(
            f"elect could not end a command of another user ({option}): it needs CAP_KILL besides CAP_SETUID"
            " and CAP_SETGID"
        )
