"""What a node knows, read by the thread of HTTP while the node goes on.

Whatever is read here is immutable, or replaced as a whole (views, tenures, metadata), or copied in one step
(a dict or a set, by `tuple`, `sorted` or `frozenset`): the node never waits for a reader, and no reader sees
half of a change.
"""

from __future__ import annotations

from bisect import bisect_right

from electorate.core.model import View
from electorate.runtime.host import Host
from electorate.web.answers import Elections, Leader, Standing


def names(host: Host) -> list[str]:
    """Of all elections, in their order."""
    return sorted(host.node.elections)


def leader(host: Host, election: str) -> tuple[bool, Leader]:
    """Whether this node provably leads now, and who leads, as far as it knows."""
    term, _ = host.tenure(election)
    if term:
        address = host.config.nodes[host.id].address
        return True, Leader(election, host.id, address, term, dict(host.metadata))
    view = host.view(election)
    return False, seen(host, view) if view else Leader(election, None, None, 0, {})


def seen(host: Host, view: View) -> Leader:
    """Who leads, or led in this view."""
    known = host.named(view)
    if known is None:
        return Leader(view.election, None, None, view.term, {})
    return Leader(view.election, known.id, known.address, known.term, dict(known.metadata))


def standings(host: Host, names: list[str]) -> list[Standing]:
    views = map(host.view, names)
    return [Standing(**host.standing(view)) for view in views if view]


def page(host: Host, after: str, limit: int) -> Elections:
    """So many elections whose names come after this one."""
    all_names = names(host)
    start = bisect_right(all_names, after)
    chosen = all_names[start : start + limit]
    more = start + limit < len(all_names)
    return Elections(standings(host, chosen), len(all_names), chosen[-1] if chosen and more else None)


def can_elect(host: Host) -> bool:
    """Whether this node is one of a quorum that are connected."""
    return host.node.membership.is_quorum(frozenset(host.node.reachable))


def knows_a_leader(host: Host) -> bool:
    return any(election.view.leader is not None for election in tuple(host.node.elections.values()))
