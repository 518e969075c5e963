"""Why something has not come about, as far as a node knows: for errors, answers and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from electorate.core.model import NodeId
from electorate.core.node import MAX_NAME
from electorate.errors import hint, meant

if TYPE_CHECKING:
    from electorate.runtime.host import Host


def never_leads(host: Host) -> str | None:
    """Why this node can lead nothing at all, if so."""
    if host.node.may_lead(host.id):
        return None
    return f"node {host.id} is a member that may not lead ({host.node.kind})"


def not_leading(host: Host, election: str) -> str:
    """Why this node does not lead."""
    node, view = host.node, host.view(election)
    absent = [voter for voter in node.membership.voters if voter not in node.reachable]
    if reason := never_leads(host):
        return reason
    if host.trouble:
        return host.trouble
    if frozen := host.wishes.frozen_for(election):
        return f"node {host.id} does not contend for another {frozen:.1f} s, as was wished"
    if node.rejoin is not None:
        return f"node {host.id} rejoins, and has not heard from all others what its lost store had promised"
    if not node.membership.is_quorum(node.reachable):
        return f"node {host.id} reaches no quorum: not {', '.join(absent)}"
    if view is not None and view.leader == host.id:
        if view.yielding and node.leading[election].occupied:
            return "its work of before has not ended yet"
        if view.yielding:
            return "it is to hand over, and its heir is not ready yet"
        return "it has been elected, but not enough voters support it for long enough"
    if view is not None and view.leader is not None:
        return f"node {view.leader} leads, in term {view.term}"
    if host.node.quiet_until > host.node.now:
        return "nobody leads: after a restart, what was promised before has to run out"
    return "nobody leads, and no candidate has won yet"


def who_leads(host: Host, election: str) -> str:
    view = host.view(election)
    if view is not None and view.leader:
        return f"node {view.leader} does"
    near = None if host.knows(election) else meant(election, host.names())
    return f"nobody does; did you mean '{near}'?" if near else "nobody does"


def no_election(host: Host, name: str) -> str | None:
    """That there is no such election, if so, and which one may be meant. May be asked from any thread."""
    if host.knows(name):
        return None
    return f"there is no election '{name[:MAX_NAME]}' here; {hint(name[:MAX_NAME], host.names())}"


def overruled(host: Host) -> str:
    return f"another wish came after it, and node {host.id} heeds the last one"


def not_handed_over(host: Host, election: str, heir: NodeId | None = None) -> str:
    """What a leader waits for that is to hand over."""
    leading, view = host.node.leading.get(election), host.view(election)
    if leading is None:
        if view is not None and view.leader:
            return f"node {view.leader} leads"
        return f"node {host.id} has resigned, and nobody leads yet"
    if leading.occupied and view is not None and view.yielding:
        left = f" ({host.ward.resisting} cannot be ended)" if host.ward.resisting else ""
        return f"the work of node {host.id} has not ended{left}; it hands over when it has"
    if heir is not None and heir in leading.contenders and leading.is_behind(heir):
        return f"node {heir} is behind: its position is {leading.contenders[heir]}, that of others is newer"
    if heir in host.links and not host.links[heir].connected:
        return f"node {heir} is not connected, and node {host.id} leads on"
    return f"node {heir or host.id} has not followed yet" if heir else f"node {host.id} leads on"
