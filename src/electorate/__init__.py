"""electorate elects one process out of many.

    from electorate import Node

    async with Node("a", "cluster.toml") as node:
        async with node.election("scheduler").leadership() as lead:   # waits until elected
            await run_scheduler(fencing_token=lead.term)              # cancelled before the lease can end

Four algorithms (Bully, Ring, Raft, ZAB) decide who tries; a quorum decides who may; a lease proves it.
"""

from typing import TYPE_CHECKING, Any

from electorate.version import __version__

__all__ = [
    "Election",
    "Fence",
    "Guarantees",
    "InUse",
    "LeaderView",
    "Leadership",
    "LeadershipLost",
    "Loss",
    "Node",
    "SQLiteFence",
    "StaleToken",
    "UserError",
    "__version__",
    "connect",
]

if TYPE_CHECKING:
    from electorate.election import Election, Guarantees, LeaderView
    from electorate.engines.embedded import Node
    from electorate.engines.url import connect
    from electorate.errors import InUse, UserError
    from electorate.fence import Fence, SQLiteFence, StaleToken
    from electorate.leadership import Leadership, LeadershipLost, Loss

_HOME = {
    "Election": "election",
    "Fence": "fence",
    "Guarantees": "election",
    "InUse": "errors",
    "LeaderView": "election",
    "Leadership": "leadership",
    "LeadershipLost": "leadership",
    "Loss": "leadership",
    "Node": "engines.embedded",
    "SQLiteFence": "fence",
    "StaleToken": "fence",
    "UserError": "errors",
    "connect": "engines.url",
}


def __getattr__(name: str) -> Any:
    """Import each name when it is first asked for: the core needs none of them."""
    if name not in _HOME:
        raise AttributeError(f"module 'electorate' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"electorate.{_HOME[name]}"), name)
