"""What mypy must object to: each comment names the error of its line."""

from electorate import Node


async def mistakes(node: Node) -> None:
    election = node.election(7)  # arg-type
    election.is_leader = True  # misc
    election.position = "new"  # assignment
    election.leadership(on_overrun="explode")  # arg-type
    election.leader.id  # union-attr
    await election.transfer(None)  # arg-type

    @election.leader_only
    def tidy(days: int) -> str:
        return "done"

    tidy("three")  # arg-type
