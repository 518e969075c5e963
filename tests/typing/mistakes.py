"""What mypy must object to: each comment names the error of its line."""

from electorate import Node, sync


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


def unknown_or_wrong_settings() -> None:
    Node("a", "cluster.toml", leese=2.0)  # call-arg
    Node("a", "cluster.toml", lease="long")  # arg-type
    Node("a", "cluster.toml", algorithm="paxos")  # arg-type
    Node("a", "cluster.toml", metadata={"url": 1})  # dict-item
    sync.Node("a", "cluster.toml", http_adress=":8400")  # call-arg
