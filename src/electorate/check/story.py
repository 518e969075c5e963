"""A counterexample as people read it, and as the simulator plays it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from electorate.check.machine import CRASH, PASS, TEAR
from electorate.check.model import Action, Envelope
from electorate.check.search import Move
from electorate.sim.stage import saying


def step(action: Action) -> str:
    """The action as a step of a schedule."""
    what, *rest = action
    if what == TEAR:
        return f"tear {rest[0]} {step(tuple(rest[1:]))}"
    if rest and isinstance(rest[0], Envelope):
        return f"{what} {rest[0].source} {rest[0].target} {saying(rest[0].message)}"
    match what:
        case "fire":
            node, timer, elapsed = rest
            return f"fire {node} {elapsed:g} {' '.join(timer)}".rstrip()
        case "resign" | "transfer":
            return f"wish {rest[0]} {what} {' '.join(rest[1:])}"
        case "tick":
            return f"tick {rest[0] or ''}".rstrip()
        case _ if what == CRASH:
            return f"crash {rest[0]}{' durable' if rest[1] else ''}"
        case _ if what == PASS:
            return f"pass {rest[0]} {rest[1]:g}"
        case _:
            return " ".join(map(str, action))


def steps(moves: Iterable[Move]) -> tuple[str, ...]:
    return tuple(step(move.action) for move in moves)


TIMERS = {
    "silence": "has not heard {} for a lease",
    "answers": "has waited long enough for answers",
    "campaign": "finds that its turn has come",
    "beat": "sends its beat",
    "tenure": "looks whether it has a lease yet",
    "takeover": "thinks of taking over",
    "hop": "has waited long enough for its neighbour",
    "recall": "asks what the others know",
    "transfer": "has waited long enough for its heir",
    "finalize": "has heard no better vote for a while",
}


def tell(moves: Iterable[Move]) -> Iterator[str]:
    """The story, a numbered line a step."""
    for number, move in enumerate(moves, 1):
        yield f"{number:3}. {sentence(move.action)}"
        for problem in dict.fromkeys(move.problems):
            yield f"     ** {problem}"


def sentence(action: Action) -> str:
    what, *rest = action
    if what == TEAR:
        return f"{sentence(tuple(rest[1:]))}, and crashes before save {rest[0]} of this step is on the disk"
    if rest and isinstance(rest[0], Envelope):
        _, source, target, message = rest[0]
        happens = {"deliver": "arrives", "duplicate": "arrives, and will once more", "drop": "is lost"}[what]
        return f"{source} -> {target}  {saying(message)} {happens}"
    match what:
        case "contend":
            return f"{rest[0]} wants to lead {rest[1]}"
        case "fire":
            node, (purpose, subject), _ = rest
            return f"{node} {TIMERS.get(purpose, purpose).format(subject)}"
        case "pass":
            return f"{rest[0]} has waited for a lease since its restart"
        case "tick":
            return "a tick passes" if rest[0] is None else f"a tick passes, and on the clock of {rest[0]} two"
        case "crash":
            return f"{rest[0]} crashes{'; its last save has reached the disk' if rest[1] else ''}"
        case "restart":
            return f"{rest[0]} starts again"
        case "notice":
            return f"{rest[0]} finds that the process of {rest[1]} is gone"
        case "connect":
            return f"{rest[0]} and {rest[1]} are connected"
        case "wish":
            return f"the user of {rest[0]}: {' '.join(map(str, rest[1:]))}"
        case "adopt":
            return f"{rest[0]} learns how often {rest[1]} has seen it start, and begins a new life after that"
        case "copy":
            return f"somebody copies the store of {rest[0]}"
        case "lose":
            return f"{rest[0]} has lost its store, and rejoins"
        case "recover":
            return f"{rest[0]} rejoins with a copy of its store"
        case "return":
            return f"{rest[0]} starts with a copy of its store as if nothing had happened"
        case "cut":
            return f"the connection between {rest[0]} and {rest[1]} breaks"
        case "resign":
            return f"the user of {rest[0]} wants it to resign"
        case "transfer":
            return f"the user of {rest[0]} wants {rest[2]} to lead"
        case _:
            return " ".join(map(str, action))
