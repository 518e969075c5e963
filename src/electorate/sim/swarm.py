"""Many seeds on all cores, until one of them breaks something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial

from electorate.sim.run import Outcome, storm, summary
from electorate.sim.shapes import Wanted


def swarm(wanted: Wanted, seeds: range, seconds: float) -> Iterator[Outcome]:
    """Run every seed and yield its outcome as it comes; the caller may stop at the first violation."""
    run = partial(one, wanted=wanted, seconds=seconds)
    workers = os.cpu_count() or 1
    waiting = iter(seeds)
    with ProcessPoolExecutor(workers) as pool:
        running = {pool.submit(run, seed) for _, seed in zip(range(2 * workers), waiting, strict=False)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(run, seed) for _, seed in zip(done, waiting, strict=False)}
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def one(seed: int, wanted: Wanted, seconds: float) -> Outcome:
    return summary(storm(wanted.plan(seed), seed, wanted.level, seconds))
