"""The simulated network: directed connections with delay, loss, duplication, reordering and partitions.

As in the runtime, each node dials every other and writes on what it has dialled, so a pair of nodes has
two connections. A message arrives only on the connection on which it was sent; when that breaks, what is
under way is lost. While a direction is blocked, a message is either dropped or stuck, as TCP would retry
it, until the direction is open again.
"""

from __future__ import annotations

from heapq import heappush
from math import log
from random import Random
from typing import TYPE_CHECKING, Literal

import msgspec

from electorate.core.model import Message, NodeId

if TYPE_CHECKING:
    from electorate.sim.world import World


NINETY_NINTH = 2.326
"""So many standard deviations above the mean lies the 99th percentile of a normal distribution."""


class Delay(msgspec.Struct, frozen=True):
    """How long a message travels, in seconds: always `low`, between `low` and `high`, or log-normal with
    the median `low` and a spread so that one message in a hundred takes longer than `high`."""

    kind: Literal["constant", "uniform", "lognormal"] = "uniform"
    low: float = 0.0005
    high: float = 0.0015

    def draw(self, random: Random) -> float:
        if self.kind == "uniform":
            return self.low + (self.high - self.low) * random.random()
        if self.kind == "constant":
            return self.low
        sigma = log(self.high / self.low) / NINETY_NINTH
        # Rounded, because the last digit of a logarithm depends on the machine's C library.
        return round(self.low * random.lognormvariate(0.0, sigma), 6)


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """What the network does to messages when it does nothing special. `zones` puts nodes in places and
    `between` gives the delay from one place to another ("berlin-tokyo"), in either direction."""

    delay: Delay = Delay()
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    zones: dict[NodeId, str] = {}
    between: dict[str, Delay] = {}

    def delay_between(self, source: NodeId, target: NodeId) -> Delay:
        here, there = self.zones.get(source, ""), self.zones.get(target, "")
        return self.between.get(f"{here}-{there}") or self.between.get(f"{there}-{here}") or self.delay


class Link:
    """The connection that `source` has dialled to `target`, in one direction."""

    __slots__ = (
        "arrived",
        "blocked",
        "blocked_at",
        "delay",
        "fair",
        "life",
        "rejects",
        "session",
        "slow",
        "source",
        "stuck",
        "target",
        "world",
    )

    def __init__(self, world: World, source: NodeId, target: NodeId) -> None:
        self.world = world
        self.source = source
        self.target = target
        self.expose()
        self.session = 0
        """The number of the present connection, or 0 while there is none."""
        self.life = 0
        """To which process of the target it leads."""
        self.blocked = False
        self.blocked_at = 0.0
        self.rejects = False
        """Meanwhile something on the way refuses, in the name of the target."""
        self.slow = 0.0
        """Seconds added to every delay."""
        self.arrived = 0.0
        """When the last message will have arrived: the next one does not overtake it."""
        self.stuck: list[tuple[Message, int]] = []

    def expose(self) -> None:
        """Let the present weather of the world act on this link."""
        weather = self.world.weather
        self.delay = weather.delay_between(self.source, self.target)
        self.fair = not (weather.loss or weather.duplicate or weather.reorder)
        self.arrived = 0.0

    def send(self, message: Message) -> None:
        world = self.world
        if world.doomed and self.is_doomed(message):
            world.note("lost", self.source, self.target, message)
        elif not self.session:
            world.note("unsent", self.source, self.target, message)
        elif self.blocked:
            self.stick(message)
        elif self.fair:
            at = world.now + self.delay.draw(world.random) + self.slow
            if at < self.arrived:
                at = self.arrived
            self.arrived = at
            world.scheduled += 1
            heappush(world.queue, (at, world.scheduled, self.deliver, message, self.session))
        else:
            self.send_in_bad_weather(message)

    def send_in_bad_weather(self, message: Message) -> None:
        world, random = self.world, self.world.random
        if random.random() < world.weather.loss:
            world.note("lost", self.source, self.target, message)
            return
        copies = 2 if random.random() < world.weather.duplicate else 1
        for _ in range(copies):
            delay = self.delay.draw(random) + self.slow
            if random.random() < world.weather.reorder:
                world.at(
                    world.now + delay + 20 * self.delay.draw(random), self.deliver, message, self.session
                )
            else:
                self.arrived = max(self.arrived, world.now + delay)
                world.at(self.arrived, self.deliver, message, self.session)

    def is_doomed(self, message: Message) -> bool:
        kind = type(message).__name__
        doomed = self.world.doomed[kind] > 0
        self.world.doomed[kind] -= doomed
        return doomed

    def stick(self, message: Message) -> None:
        if self.world.random.random() < 0.5:
            self.stuck.append((message, self.session))
        else:
            self.world.note("lost", self.source, self.target, message)

    def deliver(self, message: Message, session: int) -> None:
        if session != self.session:
            self.world.note("lost", self.source, self.target, message)
        elif self.blocked:
            self.stick(message)
        elif (target := self.world.hosts[self.target]).life == self.life and target.up:
            target.receive(self.source, message)
        else:
            self.world.note("lost", self.source, self.target, message)
            self.find_broken()

    def open(self, session: int) -> None:
        """A connection stands, to the process that the target runs now."""
        self.session, self.life = session, self.world.hosts[self.target].life

    def find_broken(self) -> None:
        """If the process at the other end is gone, the source learns that its connection has broken."""
        world, target = self.world, self.world.hosts[self.target]
        gone = not target.up or target.life != self.life
        if self.session and gone and not world.links[self.target, self.source].blocked:
            delay = self.delay.draw(world.random)
            world.after(delay, world.hosts[self.source].broken, self.target, self.session)

    def block(self) -> None:
        if not self.blocked:
            self.blocked, self.blocked_at = True, self.world.now

    def unblock(self) -> None:
        self.blocked = self.rejects = False
        stuck, self.stuck = self.stuck, []
        for message, session in stuck:
            self.world.at(self.world.now + self.delay.draw(self.world.random), self.deliver, message, session)

    def close(self) -> None:
        self.session = 0
        self.stuck.clear()
