"""The guardian and `elect run`: what is left of one command does not befall the next, and there is time to spare."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from electorate.cli.plan import Plan
from electorate.cli.run import FIRST_PAUSE, LONGEST_PAUSE, Restart, Run
from electorate.core.model import Role, View
from electorate.runtime.clock import now
from electorate.runtime.ward import GRACE, LAST, MARGIN
from tests.test_run import BOUND, Ward, gone, one
from tests.test_ward import children

STUBBORN = "trap 'echo told' TERM; echo up; while :; do sleep 0.01; done"


@pytest.fixture
def ward() -> Iterator[Ward]:
    made = Ward()
    yield made
    made.close()


def stopped(ward: Ward) -> None:
    """A first command has been told to stop, did not, and was killed."""
    ward.start(STUBBORN, now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("stop", 3600)
    assert ward.output.readline() == "told\n"
    ward.say("stop", 0)
    assert ward.heard() == ["gone", -signal.SIGKILL, True]


def test_the_time_to_stop_of_one_command_is_not_that_of_the_next(ward: Ward) -> None:
    stopped(ward)
    ward.start("sleep 0.3; exit 5", now() + BOUND)
    assert ward.heard() == ["gone", 5, False]


def rest(ward: Ward) -> str:
    """All else that was written until the guardian has ended."""
    ward.say("end")
    return ward.output.read()


def test_the_next_command_is_told_to_stop_as_well(ward: Ward) -> None:
    stopped(ward)
    ward.start(STUBBORN, now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("extend", now() + 1.0)
    assert ward.heard() == ["gone", -signal.SIGKILL, True]
    assert rest(ward) == "told\n"


def test_a_command_is_told_to_stop_once(ward: Ward) -> None:
    ward.start(STUBBORN, now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("stop", 60)
    assert ward.output.readline() == "told\n"
    ward.say("stop", 0.3)
    assert ward.heard() == ["gone", -signal.SIGKILL, True]
    assert rest(ward) == ""


def test_a_node_that_lets_go_of_its_guardian_and_lives_is_not_dead(ward: Ward) -> None:
    """Its command is ended, but the guardian waits for the end of the process, which is this one."""
    ward.start("echo $$; exec sleep 1000", now() + BOUND)
    pid = int(ward.output.readline())
    ward.socket.shutdown(socket.SHUT_RDWR)
    while not gone(pid):
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        ward.process.wait(0.5)
    ward.process.kill()
    ward.process.wait()


# --- `elect run` without a cluster ------------------------------------------------------------------


class Later:
    def __init__(self, loop: Loop, delay: float, call: Callable[[], object]) -> None:
        self.loop, self.delay, self.call = loop, delay, call

    def cancel(self) -> None:
        self.loop.later.remove(self)

    def when(self) -> float:
        return self.delay


class Loop:
    """Its time stands still; what is to be called later is called when the test says so."""

    def __init__(self) -> None:
        self.later: list[Later] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, delay: float, call: Callable[[], object]) -> Later:
        self.later.append(Later(self, delay, call))
        return self.later[-1]

    def call_soon(self, call: Callable[[], object]) -> None:
        call()

    def pause(self, call: Callable[[], object]) -> float:
        """Until this is to be called."""
        [later] = [later for later in self.later if later.call == call]
        return later.delay

    def come(self, call: Callable[[], object]) -> None:
        """The time has come for this."""
        [later] = [later for later in self.later if later.call == call]
        later.cancel()
        later.call()


class Said:
    """In place of the guardian."""

    able = True

    def __init__(self) -> None:
        self.words: list[tuple[Any, ...]] = []

    def take(self, work: object, user: object, allow_setuid: bool) -> None:
        """Knows what it is there for."""

    def command(self, *what: Any) -> None:
        self.words.append(("start", *what))

    def extend(self, deadline: float) -> None:
        self.words.append(("extend", deadline))

    def stop(self, seconds: float) -> None:
        self.words.append(("stop", seconds))

    @property
    def verbs(self) -> list[str]:
        return [words[0] for words in self.words]


class Node:
    """What a `Run` asks of its host; the test says what there is to know."""

    id = "a"

    class config:
        class timing:
            lease = 8.0

    def __init__(self) -> None:
        self.loop = Loop()
        self.ward = Said()
        self.left = 8.0
        self.leads = True
        self.is_yielding = False
        self.occupied = False
        self.resigned: list[float] = []

    def view(self, election: str) -> View:
        role = Role.LEADER if self.leads else Role.FOLLOWER
        return View(election, role, "a" if self.leads else "b", 1, self.leads, self.is_yielding)

    def lease_left(self, election: str) -> float:
        return self.left

    def lease(self, election: str) -> float:
        return now() + self.left

    def tenure(self, election: str) -> tuple[int, float]:
        return 1, self.left

    def occupy(self, election: str) -> None:
        self.occupied = True

    def vacate(self, election: str) -> None:
        self.occupied = False

    def resign(self, election: str, seconds: float) -> None:
        self.resigned.append(seconds)
        self.leads = False


def staged() -> tuple[Run, Node, Said]:
    node = Node()
    return Run(cast(Any, node), "main", ["true"], Restart.ALWAYS, 10.0, {}), node, node.ward


def test_a_command_is_stopped_and_killed_while_the_lease_lasts(tmp_path: Path) -> None:
    """The guardian is told by how much sooner, in seconds of this cluster's lease."""
    with one(tmp_path, command=["sh", "-c", "echo up; sleep 1000"]) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        [pid] = children(process.pid)
        orders = json.loads(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2])
    lease = Plan().lease
    assert (orders["grace"], orders["margin"]) == (GRACE * lease, MARGIN * lease)
    assert 0.05 * lease <= orders["margin"] <= orders["grace"] / 2 <= 0.25 * lease, "time to end in"
    assert 0.02 < LAST < MARGIN, "the guardian first, then elect, then the lease"


def test_a_command_is_not_begun_that_would_have_to_be_stopped_at_once() -> None:
    run, node, said = staged()
    node.left = 0.9 * GRACE * node.config.timing.lease
    run.consider()
    assert not said.words and not node.occupied
    node.left = 2 * GRACE * node.config.timing.lease
    run.consider()
    assert said.verbs == ["start"]
    assert node.occupied, "and the leadership is not given away meanwhile"


def test_another_that_is_to_lead_stops_the_command_and_waits_for_its_end() -> None:
    run, node, said = staged()
    run.consider()
    node.is_yielding = True
    run.consider()
    run.consider()
    assert said.verbs == ["start", "stop"]
    assert node.occupied
    run.ended(0, told=True)
    assert not node.occupied
    assert said.verbs == ["start", "stop"], "nor begun again"


def test_a_command_that_ends_at_once_is_begun_again_later_and_later() -> None:
    run, node, _ = staged()
    run.consider()
    pauses = []
    for _ in range(10):
        run.ended(1, told=False)
        pauses.append(node.loop.pause(run.try_again))
        node.loop.come(run.try_again)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    run.started -= 1000 * LONGEST_PAUSE
    run.ended(1, told=False)
    assert node.loop.pause(run.try_again) == FIRST_PAUSE, "one that has run for long is begun again soon"


# --- whoever leads runs its command -----------------------------------------------------------------


def test_a_command_that_was_stopped_early_is_begun_again_once_the_lease_lasts() -> None:
    """The guardian had to stop it when the lease nearly ended; that this went well is no change of view."""
    run, node, said = staged()
    run.consider()
    node.left = 1.0
    run.ended(0, told=True)
    assert said.verbs == ["start"], "it has not ended by itself"
    node.left = 8.0
    run.observe("lease", {"election": "main", "until": 99.0})
    assert said.verbs == ["start", "start"]
    assert node.occupied


def test_it_is_begun_again_at_once_if_the_lease_lasts_by_then() -> None:
    run, _, said = staged()
    run.consider()
    run.ended(0, told=True)
    assert said.verbs == ["start", "start"]


def test_who_leads_without_its_command_for_a_lease_resigns() -> None:
    run, node, said = staged()
    node.left = 1.0
    run.consider()
    assert not said.words
    assert node.loop.pause(run.give_up) == node.config.timing.lease
    node.loop.come(run.give_up)
    assert node.resigned == [node.config.timing.lease]
    run.consider()
    assert not node.loop.later, "it leads no more"


def test_who_runs_its_command_again_in_time_does_not_resign() -> None:
    run, node, said = staged()
    node.left = 1.0
    run.consider()
    node.left = 8.0
    run.consider()
    assert said.verbs == ["start"]
    assert not node.loop.later


def test_who_waits_for_long_to_begin_again_lets_another_try() -> None:
    """A command that fails here may do its work elsewhere."""
    run, node, _ = staged()
    run.consider()
    run.pause = 20.0
    run.started -= 1.0
    run.ended(1, told=False)
    assert node.loop.pause(run.try_again) == 20.0
    node.loop.come(run.give_up)
    assert node.resigned == [20.0], "for as long as it would not"


def test_without_a_guardian_there_is_no_command() -> None:
    run, node, said = staged()
    said.able = False
    run.consider()
    assert not said.words and not node.occupied
    assert node.loop.pause(run.give_up) == node.config.timing.lease
    said.able = True
    run.guarded()
    assert said.verbs == ["start"]


def test_a_lease_that_is_renewed_puts_the_deadline_off() -> None:
    run, node, said = staged()
    node.leads = False
    run.observe("lease", {"election": "main", "until": 99.0})
    assert not said.words, "there is no command yet"
    node.leads = True
    run.consider()
    run.observe("lease", {"election": "other", "until": 98.0})
    run.observe("lease", {"election": "main", "until": 99.0})
    assert said.words[-1] == ("extend", 99.0)
