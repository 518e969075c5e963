"""The clock that leases are read on.

CLOCK_BOOTTIME where there is one: CLOCK_MONOTONIC stands still while a machine sleeps, and a lease must
not. The wall clock is never read.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some moment before this process; never set back, and the same for all processes here."""
    return time.clock_gettime(_CLOCK)
