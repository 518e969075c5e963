"""A job of APScheduler that runs on the leader alone.

    python apscheduler_job.py a    and b, and c, each in a terminal of its own

Every process has the whole schedule. `leader_only` lets the job run where the leader is; if the leadership
ends in the middle of a run, the run is cancelled before another process may lead.
"""

import asyncio
import logging
import sys
import time

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from electorate import Node

if len(sys.argv) != 2:
    sys.exit("usage: python apscheduler_job.py ID    (a, b or c, as in cluster.toml)")
ME = sys.argv[1]


async def main() -> None:
    async with Node(ME, "cluster.toml") as node:
        election = node.election("schedule")

        @election.leader_only
        async def send_reports() -> None:
            print(f"{time.monotonic():.4f} {ME} works in term {election.view.term}", flush=True)

        scheduler = AsyncIOScheduler()
        scheduler.add_job(send_reports, "interval", seconds=0.2)
        scheduler.start()
        try:
            await asyncio.Event().wait()
        finally:
            scheduler.shutdown()


logging.basicConfig()
asyncio.run(main())
