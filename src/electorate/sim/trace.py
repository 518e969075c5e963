"""What happened in a run, and how to tell it: one entry an event, one line an entry."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from electorate.core.model import (
    Awaiting,
    Disbelieved,
    ElectionMessage,
    Forgotten,
    Message,
    NodeId,
    Notice,
    Role,
    TransferLapsed,
    View,
)


class Entry(NamedTuple):
    """At this true time, in seconds, this happened to a node (a message: from `node` to `peer`)."""

    time: float
    kind: str
    node: NodeId
    peer: NodeId | None = None
    what: object = None


FIRST_OF_INCARNATION = 1 << 32
"""Beats are numbered from here on in each incarnation; a reader wants the number within it."""

HAPPENINGS = {
    "start": "starts",
    "crash": "crashes",
    "pause": "is paused (a stopped process)",
    "go on": "goes on",
}


def tell(entry: Entry) -> str | None:
    """One line of the story, or None for what a reader would not miss."""
    line = sentence(entry)
    return None if line is None else f"{entry.time:10.4f}  {line}"


def sentence(entry: Entry) -> str | None:
    _, kind, node, peer, what = entry
    match kind:
        case "send":
            return f"{node} -> {peer}  {wording(what)}"
        case "lost":
            return f"{node} -> {peer}  {wording(what)} is lost"
        case "broken":
            return f"{node} finds its connection to {peer} broken"
        case "dead":
            return f"{node} takes {peer} for dead"
        case "refused":
            return f"{node} is refused by {peer}: {what}"
        case "notice" if isinstance(what, Awaiting):
            return f"{node} rejoins, and waits for {', '.join(what.nodes) or 'more than there are'}"
        case "notice" if isinstance(what, TransferLapsed):
            return f"{node} keeps {what.election}: its transfer to {what.heir} has come to nothing"
        case "notice" if isinstance(what, Disbelieved):
            return f"{node} does not believe {what.node}, which speaks of {what.what}"
        case "notice" if isinstance(what, Forgotten):
            return f"{node} forgets {what.election}"
        case "notice":
            return f"{node} has rejoined"
        case "view" if isinstance(what, View):
            return f"{node} {becoming(what)}"
        case "fault" | "violation" | "story":
            return f"{'**' if kind == 'violation' else '--'} {what}"
        case _ if kind in HAPPENINGS:
            return f"{node} {HAPPENINGS[kind]}"
        case _:
            return None


def becoming(view: View) -> str:
    of = "" if view.election == "main" else f" of {view.election}"
    if view.yielding:
        return f"is to hand over{of} when its work has ended"
    if view.secured:
        return f"has its lease{of}"
    if view.role is Role.LEADER:
        return f"becomes LEADER{of}, term {view.term}"
    if view.leader is not None:
        return f"follows {view.leader}{of}, term {view.term}"
    if view.role is Role.CANDIDATE:
        return f"becomes a candidate{of}"
    return f"has no leader{of}, term {view.term}"


def wording(message: object) -> str:
    """A message as a reader of the paper would write it: its name and what it says."""
    if not isinstance(message, Message):
        return str(message)
    fields = [
        f"{name}={value % FIRST_OF_INCARNATION if name == 'seq' else value}"
        for name, value in msgspec.structs.asdict(message).items()
        if name != "election" and value not in (None, ()) and not (name == "position" and not value)
    ]
    about = (
        f" [{message.election}]"
        if isinstance(message, ElectionMessage) and message.election != "main"
        else ""
    )
    return f"{type(message).__name__}{about} {' '.join(fields)}".rstrip()


def record(entry: Entry) -> dict[str, Any]:
    """The entry as a JSON object."""
    what = entry.what
    if isinstance(what, Message | View | Notice):
        what = {"type": type(what).__name__, **msgspec.structs.asdict(what)}
    return {
        "t": round(entry.time, 6),
        "kind": entry.kind,
        "node": entry.node,
        "peer": entry.peer,
        "what": what,
    }
