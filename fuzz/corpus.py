"""Writes the corpora that the fuzzers begin with, from real messages: `python -m fuzz.corpus`. What a long
run adds to them stays out of the repository, unless it broke something."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec

from electorate.core.model import Message, Reason
from electorate.core.zab import State
from electorate.runtime.wire import Greeting, Life, Proof, Word, frame

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
        VALUES, heir="c", visited=("a", "b"), backers=("a", "b"), contenders=(("a", 3),), terms=(("main", 2),)
    )
    flags = {"wished", "insist", "contends", "clockwise"}
    fields = [field.name for field in msgspec.structs.fields(kind)]
    return kind(**{name: values.get(name, True if name in flags else 1) for name in fields})


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
        "member": Greeting(1, "demo", "b", "a", Life(1, 7, 9)),
        "secret": Greeting(1, "demo", "b", "a", Life(1, 7, 9), b"n" * 32),
        "stranger": Greeting(1, "demo", "x", "a", Life(1, 7, 9)),
        "other-cluster": Greeting(1, "other", "b", "a", Life(1, 7, 9)),
    }
    for name, greeting in greetings.items():
        for secret in (0, 1):
            said = frame(greeting) + frame(Proof(b"p" * 32)) if name == "secret" else frame(greeting)
            write("greeting", f"{name}-{secret}", bytes([secret, 99]) + said + frame(words[0]))
