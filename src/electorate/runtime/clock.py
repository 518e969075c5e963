"""The clock that leases are read on: it counts sleep, and nothing sets or slews it.

No one clock of a system is both. A daemon that sets the time lets CLOCK_MONOTONIC and CLOCK_BOOTTIME run
fast or slow, on Linux by up to 8 %, far more than `drift` allows. CLOCK_MONOTONIC_RAW is left alone, but
stands still while the machine sleeps. So it is read together with the time slept, BOOTTIME - MONOTONIC, of
which both are slewed alike.
"""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_RAW = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)

TIGHT = 1e-4
"""Seconds: if the readings took longer, the machine slept, or another process ran, in between."""
ATTEMPTS = 8


def now(attempts: int = ATTEMPTS) -> float:
    """Seconds since some moment before this process; never set back, and the same for all processes here.

    Whatever happens between the readings, the result is a time between the first and the third. It is to be
    the time of this moment as well, so after readings that took long there are others, and the last count."""
    before = time.clock_gettime(_BOOTTIME)
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    raw = time.clock_gettime(_RAW)
    if time.clock_gettime(_BOOTTIME) - before < TIGHT or attempts == 1:
        return raw + (before - awake)
    return now(attempts - 1)
