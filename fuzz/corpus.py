"""Writes the corpora that the fuzzers begin with, from real messages: `python -m fuzz.corpus`. What a long
run adds to them stays out of the repository, unless it broke something."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec

from electorate.core.configuration import configuration, digests
from electorate.core.model import Member, Membership, Message, Reason, Settings
from electorate.core.zab import State
from electorate.runtime.wire import VERSIONS, Greeting, How, Said, Word, frame

HERE = Path(__file__).parent / "corpus"
VALUES = {
    "election": "main",
    "reason": Reason.OLD_TERM,
    "state": State.LOOKING,
    "leader": "c",
    "initiator": "a",
}


def plausible(kind: type[Message]) -> Message:
    """A message of this kind that makes sense."""
    values = dict(
        VALUES,
        heir="c",
        visited=("a", "b"),
        backers=(("a", 1), ("b", 1)),
        contenders=(("a", 3),),
        terms=(("main", 2),),
        after="lower",
        without=("b",),
        to="c",
        how=How.DONE,
        why="",
    )
    flags = {"wished", "force", "insist", "contends", "clockwise", "more"}
    fields = [field.name for field in msgspec.structs.fields(kind)]
    return kind(**{name: values.get(name, True if name in flags else 1) for name in fields})


def greeting(node: str, **said: Any) -> Greeting:
    members = Membership(tuple(map(Member, "abc")))
    safety, rest = map(digests, configuration(members, Settings()))
    made = Greeting(VERSIONS, "demo", node, "a", Said((1, 7)), None, safety, rest)
    return msgspec.structs.replace(made, **said)


def write(folder: str, name: str, content: bytes) -> None:
    (HERE / folder).mkdir(parents=True, exist_ok=True)
    (HERE / folder / name).write_bytes(content)


if __name__ == "__main__":
    words = [plausible(kind) for kind in get_args(Word)]
    for word in words:
        write("frames", type(word).__name__.lower(), b"\x02\xff" + frame(word))
    for number, algorithm in enumerate(("bully", "ring", "raft", "zab")):
        write("frames", f"all-to-{algorithm}", bytes([number, 99]) + b"".join(map(frame, words)))
    greetings = {
        "member": greeting("b"),
        "rejoining": greeting("b", said=Said((9, 7), (3, 5), True), known=(2, 4)),
        "stranger": greeting("x"),
        "other-cluster": greeting("b", cluster="other"),
        "other-quorum": greeting("b", safety={"quorum": 7}),
    }
    for name, hello in greetings.items():
        for secret in (0, 1):
            write("greeting", f"{name}-{secret}", bytes([secret, 99]) + frame(hello) + frame(words[0]))
