"""Of several replicas of a database, the freshest leads: the one with the newest row.

    python freshest_replica.py a a.db      and b b.db, and c c.db, each in a terminal of its own

The election asks each replica for its largest rowid, before it contends and again whenever the leader is
lost. ZAB elects the one with the largest; the id decides only between equals.
"""

import asyncio
import sqlite3
import sys
import time

from electorate import Leadership, Node

if len(sys.argv) != 3:
    sys.exit("usage: python freshest_replica.py ID FILE    (a, b or c, as in cluster.toml; its SQLite file)")
ME, FILE = sys.argv[1:]

database = sqlite3.connect(FILE, isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS event (what TEXT)")


async def newest() -> int:
    [(rowid,)] = database.execute("SELECT coalesce(max(rowid), 0) FROM event")
    return int(rowid)


async def lead_replicas(lead: Leadership) -> None:
    print(f"{time.monotonic():.4f} {ME} has {await newest()} rows, and leads", flush=True)
    while True:
        print(f"{time.monotonic():.4f} {ME} works in term {lead.term}", flush=True)
        await asyncio.sleep(0.1)


async def main() -> None:
    async with Node(ME, "cluster.toml", algorithm="zab") as node:
        election = node.election("primary")
        election.position = newest
        await election.run(lead_replicas, on_error="restart")


asyncio.run(main())
