"""PostgreSQL refuses what a leader of the past writes.

    DSN="dbname=app" python postgres_fencing.py a      and b, and c, each in a terminal of its own

Stop the one that works (kill -STOP), let another take over, let the first go on (kill -CONT). Between its
last look at the clock and its write any time may have passed, so the database has the last word: each
transaction bears the term, and one older than the newest is rolled back.
"""

import os
import sys
import time

import psycopg

from electorate import StaleToken, sync

SCHEMA = """
CREATE TABLE IF NOT EXISTS fence (resource text PRIMARY KEY, token bigint NOT NULL);
CREATE TABLE IF NOT EXISTS payment (id bigint GENERATED ALWAYS AS IDENTITY, token bigint, payer text);
"""

PASS = """
INSERT INTO fence (resource, token) VALUES (%(resource)s, %(token)s)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token
RETURNING token
"""


def pay(database: psycopg.Connection, payer: str, token: int) -> None:
    """Write with this token, or raise `StaleToken`; the row of the fence is locked until the commit."""
    with database.transaction():
        if not database.execute(PASS, {"resource": "payments", "token": token}).fetchall():
            [newest] = database.execute("SELECT token FROM fence WHERE resource = 'payments'").fetchone() or [
                0
            ]
            raise StaleToken("payments", token, newest)
        database.execute("INSERT INTO payment (token, payer) VALUES (%s, %s)", (token, payer))


def main(me: str) -> None:
    database = psycopg.connect(os.environ["DSN"], autocommit=True)

    def work(lead: sync.Leadership) -> None:
        while not lead.lost.wait(0.1):
            try:
                pay(database, me, lead.term)
            except StaleToken as stale:
                print(f"{time.monotonic():.4f} {me} was refused: {stale}", flush=True)
                return
            print(f"{time.monotonic():.4f} {me} works in term {lead.term}", flush=True)

    with database, sync.Node(me, "cluster.toml") as node:
        database.execute("SELECT pg_advisory_lock(1)")  # two CREATE TABLE IF NOT EXISTS may collide
        database.execute(SCHEMA)
        database.execute("SELECT pg_advisory_unlock(1)")
        while True:
            node.election("payments").run(work)


if __name__ == "__main__":
    if len(sys.argv) != 2 or "DSN" not in os.environ:
        sys.exit('usage: DSN="dbname=app" python postgres_fencing.py ID    (a, b or c, as in cluster.toml)')
    main(sys.argv[1])
