"""How a search may begin: not with nodes that have just started, but where a conflict is near.

The steps are those of a schedule (`contend c main`, `cut b c`, `tick`), and cost none of the faults that the
search may use. `settle` stands for all that happens by itself: saves reach their disks, messages arrive,
turns come; `until Lead` for as much of it as it takes until such a message is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from electorate.check.machine import COMMIT
from electorate.check.model import Faults, Model, State
from electorate.check.search import Move
from electorate.check.story import step

PLENTY = 1000
"""So much of everything may happen in an opening."""
TURNS = ("campaign", "finalize")


def opened(model: Model, steps: Iterable[str]) -> tuple[Move, ...]:
    """The moves that these steps are. Raises ValueError where one is not possible."""
    state = model.initial()._replace(faults=Faults(*[PLENTY] * len(Faults._fields)), ticks=PLENTY)
    moves: list[Move] = []
    model.anything_goes = True
    for wanted in steps:
        verb, _, kind = wanted.partition(" ")
        by_itself = verb in ("settle", "until")
        for move in settled(model, state, kind) if by_itself else [named(model, state, wanted)]:
            moves.append(move)
            state = move.state
    model.anything_goes = False
    return tuple(moves)


def named(model: Model, state: State, wanted: str) -> Move:
    if wanted.startswith("wish"):
        _, node, *wish = (int(word) if word.isdecimal() else word for word in wanted.split())
        return model.then(Move(("wish", node, *wish), state), str(node), tuple(wish))
    for move in model.moves(state)[0]:
        if step(move.action) == wanted:
            return move
    raise ValueError(f"begin: step '{wanted}' is not possible here")


def settled(model: Model, state: State, until: str = "") -> Iterator[Move]:
    while not any(type(envelope.message).__name__ == until for envelope in state.net):
        move = next_by_itself(model, state)
        if move is None:
            break
        yield move
        state = move.state


def next_by_itself(model: Model, state: State) -> Move | None:
    moves, _ = model.moves(state)
    for kind in (COMMIT, "deliver", "fire"):
        for move in moves:
            what, *about = move.action
            if what == kind and (kind != "fire" or about[1][0] in TURNS):
                return move
    return None
