"""The tests do not depend on how they were started."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
"""For those who want to know whether a test fails, and not by how little: `tests/mutants.py`."""


@pytest.fixture(autouse=True, scope="session")
def as_from_a_terminal() -> None:
    """Programs that a test starts inherit these: a shell's `&` ignores SIGINT, and some set this variable."""
    os.environ.pop("PYTHONUNBUFFERED", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
