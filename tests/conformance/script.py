"""Rules as scripts: what is said to a node, and what it must say, save and be; nothing else may happen.

A script is a text of entries, one rule each. Names that come before `of` are real nodes, the others are
played by the script; every link stands, and every disk waits to be told (`saves`).

    case: a voter backs one claimant per term
    source: Raft paper 5.2, Figure 2
        nodes a of a b c, raft
        b -> a  RequestVote term=1              a played node speaks
        a saves term=1 backed=b                 only then may anything that rests on it be heard
        a -> b  Accept term=1                   a real node must have said so, on this link next
        c -> a  RequestVote term=1
        a -> c  Refuse reason=BACKED_ANOTHER

`told` names a test elsewhere that tells the rule, `not here` why it is none of ours. `python -m
tests.conformance.script` writes all of them into docs/conformance.md.

Between real nodes such a line delivers the message. Fields that are not named are zero in what the script
says and free in what it expects; `ignored` speaks of the last event alone. Before the next event every message to a played node must have been
expected; at the end nothing may be under way or unsaved. `...` lets go of the rest, in so many words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from electorate.core import bully, model, raft, ring, zab
from electorate.core.model import (
    Beat,
    Effect,
    Kind,
    Member,
    Message,
    NodeId,
    Promise,
    QuorumRule,
    Reason,
    Role,
    Settings,
    Support,
    Timer,
)
from electorate.core.node import Node
from tests.table import E, Place, Table

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
HEADS = ("source", "after", "departs", "why", "test")
WORDS: dict[str, object] = {
    "nobody": None,
    "yes": True,
    "no": False,
    "()": (),
    **Reason.__members__,
    **{kind.value: kind for kind in (*zab.State, *Kind, *QuorumRule)},
}
MESSAGES = {
    name: kind
    for module in (model, bully, ring, raft, zab)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Message)
}
SUBJECTS = {"beat": "", "recall": ""}
"""Of the timers that concern all elections; the others concern one election, or a peer that is named."""
WISHES: dict[str, Callable[..., list[Effect]]] = {
    "contends": Node.contend,
    "withdraws": Node.withdraw,
    "resigns": Node.resign,
    "transfers": Node.transfer,
    "position": Node.set_position,
    "occupies": Node.occupy,
    "vacates": Node.vacate,
}


class Mistake(AssertionError):
    """A script and a node do not agree, or the script makes no sense."""


@dataclass
class Entry:
    """A rule: played by a case, tested elsewhere (`told`), or none of ours (`not here`)."""

    file: str
    kind: str
    title: str
    heads: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[int, str]] = field(default_factory=list)


def read(path: Path) -> list[Entry]:
    entries: list[Entry] = []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        head, colon, text = line.partition(": ")
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" ") and entries:
            entries[-1].steps.append((number, line.partition("  # ")[0].strip()))
        elif head in ("case", "told", "not here") and colon:
            entries.append(Entry(path.name, head, text.strip()))
        elif head in HEADS and colon and entries:
            entries[-1].heads[head] = text.strip()
        else:
            raise Mistake(f"{path.name}:{number}: {line!r} is neither a head nor a step")
    return entries


def play(entry: Entry, entries: list[Entry]) -> None:
    """Play the case, after the one that it names as its beginning, if any."""
    stage = Stage()
    for part in lineage(entry, entries):
        for number, step in part.steps:
            try:
                stage.step(step)
            except (Mistake, KeyError, ValueError, TypeError) as why:
                raise Mistake(f"{part.file}:{number}, case {entry.title!r}, {step!r}: {why}") from why
    try:
        stage.end()
    except Mistake as why:
        raise Mistake(f"{entry.file}, case {entry.title!r}, at its end: {why}") from why


def lineage(entry: Entry, entries: list[Entry]) -> list[Entry]:
    if "after" not in entry.heads:
        return [entry]
    for first in entries:
        if first.kind == "case" and first.title == entry.heads["after"]:
            return [*lineage(first, entries), entry]
    raise Mistake(f"{entry.file}, case {entry.title!r}: there is no case {entry.heads['after']!r} before it")


def value(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    if "," in text:
        return tuple(value(part) for part in text.split(",") if part)
    if ":" in text:
        return tuple(value(part) for part in text.split(":"))
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def fields(words: list[str]) -> dict[str, Any]:
    pairs = [word.partition("=") for word in words]
    if bad := [name for name, sign, _ in pairs if not sign]:
        raise Mistake(f"{bad[0]!r} is not a field=value")
    return {name: value(text) for name, _, text in pairs}


def compare(found: object, wanted: dict[str, Any]) -> None:
    """All that is wanted is found, or a Mistake."""
    for name, what in wanted.items():
        if not hasattr(found, name):
            raise Mistake(f"{type(found).__name__} has no field {name!r}")
        if getattr(found, name) != what:
            raise Mistake(f"{name} is {getattr(found, name)!r} in {found}")


class Actor(Place):
    """A place whose timers know when they are due."""

    def arm(self, timer: Timer, low: float, high: float) -> None:
        super().arm(timer, self.table.now + low, self.table.now + high)


class Stage:
    """The nodes of one case, and the play so far."""

    table: Table
    real: list[NodeId]

    def __init__(self) -> None:
        self.beats: dict[tuple[NodeId, NodeId], int] = {}

    def step(self, line: str) -> None:
        words = line.split()
        match words:
            case ["nodes", *rest]:
                self.nodes(" ".join(rest))
            case ["..."]:
                self.let_go()
            case ["quiet"]:
                self.end()
            case ["deliver"]:
                self.deliver()
            case _ if "->" in words:
                self.say(words)
            case _:
                self.act(words)

    # --- the stage --------------------------------------------------------------------------------

    def nodes(self, text: str) -> None:
        names, _, rest = text.partition(", ")
        real, of, all = names.rpartition(" of ")
        algorithm, *settings = rest.split()
        chosen = fields(settings)
        rule = chosen.pop("rule", QuorumRule.MAJORITY)
        members = []
        for name in all.split():
            id, _, more = name.partition("/")
            members.append(Member(id, **fields(more.split("/") if more else [])))
        self.table = Table(members=tuple(members), rule=rule, algorithm=algorithm, **chosen)
        msgspec.convert(msgspec.to_builtins(self.table.settings), Settings)
        ids = [member.id for member in members]
        self.real = real.split() if of else ids
        self.table.places = {id: Actor(self.table, id) for id in ids}
        for place in self.table.places.values():
            place.instant_disk = False
        self.table.connect()

    def ids(self, words: list[str]) -> list[NodeId]:
        for id in words:
            if id not in self.table.places:
                raise Mistake(f"there is no node {id!r}")
        return words

    # --- what is said -----------------------------------------------------------------------------

    def say(self, words: list[str]) -> None:
        at = words.index("->")
        kind = next((place for place, word in enumerate(words) if word in MESSAGES), 0)
        if not kind:
            raise Mistake("no message is named")
        for sender in self.ids(words[:at]):
            for to in self.ids(words[at + 1 : kind]):
                if sender in self.real:
                    self.expect(sender, to, MESSAGES[words[kind]], fields(words[kind + 1 :]))
                else:
                    self.event()
                    self.receive(sender, to, self.message(sender, to, words[kind], fields(words[kind + 1 :])))

    def message(self, sender: NodeId, to: NodeId, name: str, said: dict[str, Any]) -> Message:
        """What the script says, in the life that the sender is in; a Support answers the newest beat."""
        kind = MESSAGES[name]
        zero = {int: 0, bool: False, str: "", zab.State: zab.State.LOOKING, Reason: Reason.OLD_TERM}
        values = {f.name: zero.get(f.type, () if "tuple" in str(f.type) else None) for f in fields_of(kind)}
        values |= {f.name: f.default for f in fields_of(kind) if f.default is not msgspec.NODEFAULT}
        if unknown := said.keys() - values.keys():
            raise Mistake(f"{name} has no field {unknown.pop()!r}")
        values["election"] = E
        if "incarnation" in values:
            values["incarnation"] = self.table[sender].incarnation
        if kind is Support:
            values["seq"] = self.beats.get((to, sender), 0)
        return kind(**{f.name: {**values, **said}[f.name] for f in fields_of(kind)})

    def expect(self, sender: NodeId, to: NodeId, kind: type[Message], wanted: dict[str, Any]) -> None:
        item = next((m for m in self.table.wire if m[:2] == (sender, to)), None)
        if item is None:
            raise Mistake(f"{sender} has said nothing to {to}{self.pending(sender)}")
        if type(item[2]) is not kind:
            raise Mistake(f"{sender} says to {to}: {item[2]}")
        compare(item[2], wanted)
        self.table.wire.remove(item)
        if isinstance(item[2], Beat):
            self.beats[sender, to] = item[2].seq
        if to in self.real:
            self.receive(*item)

    def receive(self, sender: NodeId, to: NodeId, message: Message) -> None:
        if to not in self.real:
            raise Mistake(f"{sender} and {to} are both played")
        self.forget_ignored()
        self.table.do(to, Node.receive, sender, message)

    def pending(self, id: NodeId) -> str:
        unsaved = self.table[id].unsaved
        return f"; it waits for its disk: {unsaved[-1]}" if unsaved else ""

    # --- what is not said -------------------------------------------------------------------------

    def event(self) -> None:
        """Something is about to happen: what has been said to played nodes must have been expected."""
        for sender, to, message in self.table.wire:
            if to not in self.real:
                raise Mistake(f"not expected: {sender} -> {to}  {message}")
        self.nothing_to_report()
        self.forget_ignored()

    def forget_ignored(self) -> None:
        """What is ignored from now on is all that `ignored` speaks of."""
        for place in self.table.places.values():
            place.node.ignored.clear()

    def nothing_to_report(self) -> None:
        for id in self.real:
            for notice in self.table[id].notices:
                raise Mistake(f"not expected: {id} reports {notice}")

    def end(self) -> None:
        self.nothing_to_report()
        for sender, to, message in self.table.wire:
            raise Mistake(f"not expected: {sender} -> {to}  {message}")
        for id in self.real:
            if self.table[id].unsaved:
                raise Mistake(f"not expected{self.pending(id)}")

    def let_go(self) -> None:
        """Whatever else is under way is of no interest."""
        for place in self.table.places.values():
            while place.unsaved:
                place.commit()
        self.table.wire.clear()

    def deliver(self) -> None:
        """Everything between real nodes arrives, and all that comes of it; disks are quick meanwhile."""
        self.forget_ignored()
        while True:
            unsaved = [place for place in self.table.places.values() if place.unsaved]
            between = [m for m in self.table.wire if m[1] in self.real]
            if not unsaved and not between:
                return
            for place in unsaved:
                place.commit()
            for item in between:
                self.table.wire.remove(item)
                self.table.do(item[1], Node.receive, item[0], item[2])

    # --- what happens, and what is ----------------------------------------------------------------

    def act(self, words: list[str]) -> None:
        if words[0] in ("after", "part", "join", "crash", "restart"):
            self.event()
            getattr(self, words[0])(*words[1:])
            return
        [id] = self.ids(words[:1])
        place = self.table[id]
        match words[1:]:
            case ["saves", *rest]:
                self.saves(place, fields(rest))
            case ["keeps", *rest]:
                compare(place.disk.get(E, Promise(E)), fields(rest))
            case ["is", role, *rest]:
                compare(place.node.view(E), {"role": Role(role), **fields(rest)})
            case ["leads"] | ["leads", "not"]:
                if place.node.is_leader(self.table.now, E) is not (len(words) == 2):
                    raise Mistake(f"its lease lasts until {place.node.lease(E)}, and it is {self.table.now}")
            case ["waits", purpose, *subject, low, high] if purpose != "not":
                self.waits(place, (purpose, *subject), float(low), float(high))
            case ["waits", "not", purpose]:
                if (purpose, SUBJECTS.get(purpose, E)) in place.timers:
                    raise Mistake("it does")
            case ["ignored", *reason]:
                if not place.node.ignored[" ".join(reason)]:
                    raise Mistake(f"it has ignored {dict(place.node.ignored)}")
            case ["fires", purpose, *subject]:
                self.fires(place, purpose, *subject)
            case ["reports", name, *rest]:
                self.reports(place, name, fields(rest))
            case ["stalls"]:
                self.event()
                self.table.do(id, Node.stalled)
            case ["given", *rest]:
                self.given(place, fields(rest))
            case [wish, *said] if wish in WISHES:
                self.event()
                arguments = [value(word) for word in said if "=" not in word]
                options = fields([word for word in said if "=" in word])
                self.table.do(id, partial(WISHES[wish], **options), E, *arguments)
            case _:
                raise Mistake("not a step")

    def saves(self, place: Place, wanted: dict[str, Any]) -> None:
        if not place.unsaved:
            raise Mistake(f"{place.id} has nothing to save")
        compare(place.unsaved[-1], wanted)
        self.forget_ignored()
        place.commit()

    def reports(self, place: Place, name: str, wanted: dict[str, Any]) -> None:
        if not place.notices or type(place.notices[0]).__name__ != name:
            raise Mistake(f"it reports {place.notices}")
        compare(place.notices.pop(0), wanted)

    def timer(self, place: Place, purpose: str, subject: str = "") -> tuple[float, float]:
        found = place.timers.get((purpose, subject or SUBJECTS.get(purpose, E)))
        if found is None:
            raise Mistake(f"no such timer is armed, but {sorted(place.timers)}")
        return found

    def waits(self, place: Place, timer: Sequence[str], *wanted: float) -> None:
        found = [round(due - self.table.now, 6) for due in self.timer(place, *timer)]
        if found != list(wanted):
            raise Mistake(f"it waits {found[0]} to {found[1]}")

    def fires(self, place: Place, purpose: str, subject: str = "") -> None:
        """It is time for this timer: it may be late, but is never early."""
        self.event()
        self.table.now = max(self.table.now, self.timer(place, purpose, subject)[0])
        place.fire(purpose, subject or SUBJECTS.get(purpose, E))

    def given(self, place: Place, promise: dict[str, Any]) -> None:
        """It has restarted a lease ago with this in its store."""
        place.disk[E] = Promise(E, **promise)
        self.restart(place.id)
        self.table.now += self.table.settings.timing.lease

    def after(self, seconds: str) -> None:
        self.table.now += float(seconds)

    def part(self, one: NodeId, *others: NodeId) -> None:
        """The links between one and the others break; that proves nothing."""
        for other in self.ids([one, *others])[1:]:
            self.table.wire = [m for m in self.table.wire if {*m[:2]} != {one, other}]
            for x, y in ((one, other), (other, one)):
                if x in self.real:
                    self.table.do(x, Node.lost, y, False)

    def join(self, one: NodeId, *others: NodeId) -> None:
        for other in self.ids([one, *others])[1:]:
            for x, y in ((one, other), (other, one)):
                if x in self.real:
                    self.table.do(x, Node.connected, y, self.table[y].incarnation)

    def crash(self, id: NodeId) -> None:
        """Its process has ended, and its address says so to everybody."""
        self.table[id].crash()
        for other in self.real:
            if other != id:
                self.table.do(other, Node.lost, id, True)

    def restart(self, id: NodeId) -> None:
        """It dies with what was not yet durable, and comes back with what was."""
        self.table[id].crash()
        self.table[id].start()
        self.join(id, *(other for other in self.table.places if other != id))


def fields_of(kind: type[Message]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


# --- the page -------------------------------------------------------------------------------------

HEAD = """# What is published, and what holds here

Papers, and the tests of etcd, HashiCorp's raft and ZooKeeper, say what an election must do. Each rule that concerns elections is here:
a case of a script in `tests/conformance/`, which can be read beside the paper and is played to the very classes of
the core; or another test; or a reason why it is none of ours. `make test` plays all of them, and writes no line of
this page by hand: `python -m tests.conformance.script` does.

A script looks like this:

```
case: a voter backs at most one claimant per term
    nodes a of a b c, raft
    b -> a  RequestVote term=1                      what a node played by the script says
    a saves term=1 backed=b                         only then may anything that rests on it be heard
    a -> b  Accept term=1                           what the real node must say, and nothing else
    c -> a  RequestVote term=1
    a -> c  Refuse term=1 newest=1 reason=BACKED_ANOTHER
```

"""


def page(scripts: dict[str, list[Entry]]) -> str:
    """The table of all rules: where each comes from, and what tells it."""
    entries = [entry for script in scripts.values() for entry in script]
    counts = {kind: sum(entry.kind == kind for entry in entries) for kind in ("case", "told", "not here")}
    parts = [
        HEAD + f"{counts['case']} rules are cases, {counts['told']} are told by other tests, and "
        f"{counts['not here']} do not apply.\n"
    ]
    for name, script in scripts.items():
        parts.append(f"\n## {name}\n\n| rule | source | told by | departs |\n|---|---|---|---|\n")
        for entry in script:
            by = {
                "case": "the case",
                "told": f"`{entry.heads.get('test')}`",
                "not here": "none: " + entry.heads.get("why", ""),
            }
            parts.append(
                f"| {entry.title} | {entry.heads['source']} | {by[entry.kind]} | {entry.heads.get('departs', '')} |\n"
            )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page({path.name: read(path) for path in SCRIPTS}), "utf-8")
