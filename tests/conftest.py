"""The tests do not depend on how they were started."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def as_from_a_terminal() -> None:
    """Programs that a test starts inherit these: a shell's `&` ignores SIGINT, and some set this variable."""
    os.environ.pop("PYTHONUNBUFFERED", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
