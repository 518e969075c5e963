"""What befalls a cluster, and when: decided by one seed, readable, and the same each time.

    1.00 crash leader      SIGKILL              2.40 restart       whoever is down
    4.10 pause leader      SIGSTOP              5.90 continue      whoever is paused
    7.80 split a b | c     nothing passes       9.50 heal          everything passes

A step is written as in a scenario of the simulator, with the verbs that are used there. `leader` stands for
whoever leads then. Without a node, `restart`, `continue`, `heal`, `calm` and `empty` mean all who are
concerned; `disk` alone means that all disks are as usual.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import msgspec

from electorate.errors import UserError
from electorate.sim.scenario import fits, parse

VERBS = {
    "crash": "NODE...",
    "restart": "NODE or ",
    "stop": "NODE...",
    "pause": "NODE...",
    "continue": "NODE or ",
    "split": "GROUPS...",
    "block": "NODE NODE",
    "part": "NODE NODE",
    "open": "NODE NODE",
    "heal": "",
    "loss": "NODE NUMBER",
    "rate": "NODE NUMBER",
    "delay": "NODE NUMBER NUMBER",
    "duplicate": "NODE NUMBER",
    "reorder": "NODE NUMBER",
    "calm": "",
    "disk": "NODE SECONDS or ",
    "fill": "NODE",
    "empty": "",
}
"""What may follow each verb. `loss`, `duplicate` and `reorder` take percent of what the node sends, `rate`
kbit/s, `delay` milliseconds and how far they vary, `disk` the seconds that each sync takes."""

LEAST, MOST = 1.0, 3.0
"""Seconds that a fault lasts."""
REST = (1.5, 2.5)
"""Seconds between faults."""


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong from `start` until `end`, and the verb that it begins with."""

    name: str
    start: float
    end: float
    verb: str


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A torture, whole: this cluster, these steps. Times are seconds since the first leader."""

    algorithm: str
    nodes: int
    seed: int
    seconds: float
    elections: tuple[str, ...] = ("main",)
    quorum: str = "majority"
    faults: tuple[Fault, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [chr(ord("a") + i) for i in range(self.nodes)]


Steps = tuple[list[str], str]
"""How a fault begins, and how it ends."""


def victim(rng: random.Random, ids: list[str]) -> str:
    """The leader, as often as somebody certain."""
    return "leader" if rng.random() < 0.5 else rng.choice(ids)


def crash(rng: random.Random, ids: list[str]) -> Steps:
    return [f"crash {victim(rng, ids)}"], "restart"


def stop(rng: random.Random, ids: list[str]) -> Steps:
    return [f"stop {victim(rng, ids)}"], "restart"


def storm(rng: random.Random, ids: list[str]) -> Steps:
    """All are killed, and start again at once: twice."""
    return ["crash " + " ".join(ids), "restart", "crash " + " ".join(ids)], "restart"


def pause(rng: random.Random, ids: list[str]) -> Steps:
    return [f"pause {victim(rng, ids)}"], "continue"


def isolation(rng: random.Random, ids: list[str]) -> Steps:
    return [f"part leader {id}" for id in ids], "heal"


def split(rng: random.Random, ids: list[str]) -> Steps:
    mixed = rng.sample(ids, len(ids))
    half = len(ids) // 2
    return [f"split {' '.join(mixed[:half])} | {' '.join(mixed[half:])}"], "heal"


def one_way(rng: random.Random, ids: list[str]) -> Steps:
    """Somebody is heard by nobody, or hears nobody."""
    deaf = rng.random() < 0.5
    one = victim(rng, ids)
    pairs = [(other, one) if deaf else (one, other) for other in ids if other != one]
    return [f"block {a} {b}" for a, b in pairs], "heal"


def partial(rng: random.Random, ids: list[str]) -> Steps:
    a, b = rng.sample(ids, 2)
    return [f"part {a} {b}"], "heal"


def bridge(rng: random.Random, ids: list[str]) -> Steps:
    """Two halves see each other only through one node that sees all."""
    _, *rest = rng.sample(ids, len(ids))
    half = len(rest) // 2
    return [f"part {a} {b}" for a, b in product(rest[:half], rest[half:])], "heal"


def loss(rng: random.Random, ids: list[str]) -> Steps:
    return [f"loss {id} {rng.choice((5, 20, 40))}" for id in ids], "calm"


def rate(rng: random.Random, ids: list[str]) -> Steps:
    return [f"rate {victim(rng, ids)} {rng.choice((16, 64, 256))}"], "calm"


def delay(rng: random.Random, ids: list[str]) -> Steps:
    return [f"delay {id} {rng.choice((5, 20, 80))} {rng.choice((0, 5, 40))}" for id in ids], "calm"


def duplicate(rng: random.Random, ids: list[str]) -> Steps:
    return [f"duplicate {id} 20" for id in ids], "calm"


def reorder(rng: random.Random, ids: list[str]) -> Steps:
    return [f"reorder {id} 30" for id in ids], "calm"


def slow_disk(rng: random.Random, ids: list[str]) -> Steps:
    return [f"disk {victim(rng, ids)} {rng.choice((0.02, 0.1, 0.4))}"], "disk"


def full_disk(rng: random.Random, ids: list[str]) -> Steps:
    return [f"fill {victim(rng, ids)}"], "empty"


FAULTS: dict[str, Callable[[random.Random, list[str]], Steps]] = {
    "crash": crash,
    "stop": stop,
    "storm": storm,
    "pause": pause,
    "isolation": isolation,
    "split": split,
    "one-way": one_way,
    "partial": partial,
    "bridge": bridge,
    "loss": loss,
    "rate": rate,
    "delay": delay,
    "duplicate": duplicate,
    "reorder": reorder,
    "slow disk": slow_disk,
    "full disk": full_disk,
}


def compose(
    algorithm: str,
    nodes: int,
    seed: int,
    seconds: float,
    elections: tuple[str, ...] = ("main",),
    names: tuple[str, ...] = tuple(FAULTS),
) -> Schedule:
    """The schedule that this seed decides: each of the named faults has its turn before one comes again, and
    now and then two come together."""
    rng = random.Random(f"{algorithm} {nodes} {seed}")
    empty = Schedule(algorithm=algorithm, nodes=nodes, seed=seed, seconds=seconds, elections=elections)
    faults: list[Fault] = []
    timed: list[tuple[float, str]] = []
    turn: list[str] = []
    at = 1.0
    while at < seconds - MOST - 1:
        end = at
        for _ in range(2 if rng.random() < 0.25 else 1):
            turn = turn or rng.sample(names, len(names))
            name = turn.pop()
            begin, undo = FAULTS[name](rng, empty.ids)
            lasts = rng.uniform(LEAST, MOST)
            spread = 0.2 if name == "storm" else 0.0
            timed += [(at + i * spread, step) for i, step in enumerate(begin)]
            timed.append((at + lasts, undo))
            faults.append(Fault(name, round(at, 2), round(at + lasts, 2), begin[0].split()[0]))
            end = max(end, at + lasts)
        at = end + rng.uniform(*REST)
    steps = tuple(f"{time:.2f} {step}" for time, step in sorted(timed, key=lambda step: step[0]))
    return msgspec.structs.replace(empty, faults=tuple(faults), steps=steps)


def read(file: Path) -> Schedule:
    """Raises `UserError`."""
    try:
        schedule = msgspec.json.decode(file.read_bytes(), type=Schedule)
        check(schedule)
    except OSError as error:
        raise UserError(f"schedule {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"schedule {file}: {error}") from None
    return schedule


def check(schedule: Schedule) -> None:
    """Raises ValueError if a step is not understood."""
    for step in map(parse, schedule.steps):
        usage = VERBS.get(step.verb)
        if usage is None:
            raise ValueError(f"step '{step.text}': '{step.verb}' is not one of {', '.join(VERBS)}")
        if not any(fits(way, step.words, schedule.ids) for way in usage.split(" or ")):
            raise ValueError(f"step '{step.text}': after '{step.verb}' comes {usage or 'nothing'}")
