"""A worker of which three run and one works.

    python sync_worker.py a        and b, and c, each in a terminal of its own

Kill the one that works, and another goes on. If the work fails, that is logged, another goes on as well, and
this one contends again after a pause.
"""

import sys
import time

from electorate import sync

if len(sys.argv) != 2:
    sys.exit("usage: python sync_worker.py ID    (a, b or c, as in cluster.toml)")
ME = sys.argv[1]


def work(lead: sync.Leadership) -> None:
    while not lead.lost.wait(0.1):
        lead.check()  # a clock read: this process may have been stopped while it waited
        print(f"{time.monotonic():.4f} {ME} works in term {lead.term}", flush=True)


with sync.Node(ME, "cluster.toml") as node:
    node.election("worker").run(work, on_error="restart")
