"""The tests do not depend on how they were started; and those that only wait, wait while others compute."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
"""For those who want to know whether a test fails, and not by how little: `tests/mutants.py`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for long come first, all to one worker: the others take over the end of what it has to do."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


@pytest.fixture(autouse=True, scope="session")
def as_from_a_terminal() -> None:
    """Programs that a test starts inherit these: a shell's `&` ignores SIGINT, and some set these variables."""
    os.environ.pop("PYTHONUNBUFFERED", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
