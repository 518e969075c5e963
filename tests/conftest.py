"""The tests do not depend on how they were started; and those that only wait, wait while others compute."""

from __future__ import annotations

import os
import re
import signal

import pytest
from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
"""For those who want to know whether a test fails, and not by how little: `tests/mutants.py`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for long come first, all to one worker: the others take over the end of what it has to do."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


SURROUNDINGS = re.compile(
    "PYTHON(UNBUFFERED|DONTWRITEBYTECODE|WARNINGS)|(NO|FORCE)_COLOR|COLUMNS|LINES|.*_proxy"
    "|NOTIFY_SOCKET|WATCHDOG_.*|ELECTORATE_.*",
    re.IGNORECASE,
)
"""Variables that programs look at."""


@pytest.fixture(autouse=True, scope="session")
def as_from_a_terminal() -> None:
    """Programs that a test starts inherit these; a shell's `&` ignores SIGINT, and `nohup` SIGHUP."""
    for name in filter(SURROUNDINGS.fullmatch, tuple(os.environ)):
        del os.environ[name]
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
