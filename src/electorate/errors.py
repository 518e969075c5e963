"""What a user or operator did that cannot work, as opposed to a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

COMPARED = 100
"""With so many known words at most a wrong one is compared: to ask must cost a node no time."""
ALIKE = 0.8
"""From 0 to 1: so alike at least are two words of which one is probably the other, misspelt."""
DIGITS = dict.fromkeys(map(ord, "0123456789"))
NAMED = 40
"""So many known words at most are named."""


class UserError(Exception):
    """One clear sentence that names the thing and the remedy. The command prints it and exits with 2."""


class InUse(UserError):
    """Another process is this node already, as its data directory shows."""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Which of the known words this may have been meant to be."""
    near = difflib.get_close_matches(word, list(islice(known, COMPARED)), 1)
    return near[0] if near else None


def hint(word: str, known: Iterable[str], are: str = "") -> str:
    """What to say of a word that is none of the known ones: the one that may be meant, or which there are."""
    known = list(known)
    if near := meant(word, known):
        return f"did you mean '{near}'?"
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    are = are or ("there is" if len(known) == 1 else "there are")
    return f"{are} {', '.join(known[:NAMED])}{more}"


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """Which of these words is probably the same, misspelt in one of the two: a letter is missing, or in
    another place. Those that differ in numbers, or of which one has `b` where the other has `a`, are two."""
    for near in difflib.get_close_matches(word, list(islice(known, COMPARED)), cutoff=ALIKE):
        moved = len(word) != len(near) or sorted(word) == sorted(near)
        if moved and word.translate(DIGITS) != near.translate(DIGITS):
            return near
    return None
