"""Many seeds on all cores, until one of them breaks something."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice

from electorate.sim.run import Outcome, storm, summary
from electorate.sim.shapes import Wanted


def swarm(wanted: Wanted, seeds: range, seconds: float) -> Iterator[Outcome]:
    """Run every seed and yield the outcomes in their order, so that what is found first is always the same;
    the caller may stop there."""
    run = partial(one, wanted=wanted, seconds=seconds)
    workers = os.cpu_count() or 1
    waiting = iter(seeds)
    with ProcessPoolExecutor(workers) as pool:
        running = deque(pool.submit(run, seed) for seed in islice(waiting, 4 * workers))
        try:
            while running:
                outcome = running.popleft().result()
                running.extend(pool.submit(run, seed) for seed in islice(waiting, 1))
                yield outcome
        finally:
            pool.shutdown(cancel_futures=True)


def one(seed: int, wanted: Wanted, seconds: float) -> Outcome:
    return summary(storm(wanted.plan(seed), seed, wanted.level, seconds))
