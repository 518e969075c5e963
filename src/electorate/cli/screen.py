"""The live table of `elect up`, and the commands that are typed below it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from electorate.cli.cluster import Cluster
from electorate.cli.process import Event, Node, State
from electorate.cli.up import news
from electorate.runtime.clock import now

HELP = "kill a · stop a · cont a · restart a · term a · transfer b · quit      (k s c r t x q will do)"
KEYS = {"k": "kill", "s": "stop", "c": "cont", "r": "restart", "t": "term", "x": "transfer", "q": "quit"}
REFRESH = 0.1
"""Seconds between two pictures."""
SETTLE = 1.0
"""Seconds after which the news of a lease's end has surely come (see `Ledger.violations`)."""


class Screen:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.typed = ""
        self.answer = ""
        self.recent: deque[str] = deque(maxlen=3)
        self.quit = asyncio.Event()
        self.restarts: set[asyncio.Task[float]] = set()
        cluster.listen = self.hear

    async def show(self) -> None:
        """Until the user quits."""
        with Live(self.picture(), auto_refresh=False) as live, keys(self.press):
            while not self.quit.is_set():
                live.update(self.picture(), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH):
                        await self.quit.wait()

    def hear(self, event: Event, line: bytes) -> None:
        if words := news(event):
            self.recent.append(words)

    # --- the picture ---

    def picture(self) -> Group:
        table = Table()
        for title in ("node", "role", "leader", "term", "lease left", "pid", "address", "state"):
            table.add_column(title)
        for node in self.cluster.nodes.values():
            table.add_row(*self.row(node), style=None if node.runs else "dim")
        return Group(table, self.verdict(), Text(" · ".join(self.recent), "dim"), Text(HELP), self.prompt())

    def row(self, node: Node) -> list[str]:
        left = node.lease[1] - now() if node.lease else 0.0
        known = node.view if node.state is not State.DOWN else None
        return [
            node.id,
            node.role if node.state is not State.DOWN else "",
            known.leader if known else "-",
            str(known.term) if known else "-",
            f"{1000 * left:.0f} ms" if left > 0 and node.state is not State.DOWN else "",
            str(node.pid or ""),
            node.address,
            node.state,
        ]

    def verdict(self) -> Text:
        agreed = self.cluster.agreed()
        violations = self.cluster.violations(before=now() - SETTLE)
        if violations:
            return Text(violations[-1], "bold red")
        if agreed:
            return Text(f"{agreed.leader} leads, term {agreed.term}", "bold green")
        return Text("nobody leads", "bold yellow")

    def prompt(self) -> Text:
        return Text(f"> {self.typed}" if self.typed or not self.answer else f"> {self.answer}")

    # --- the keyboard ---

    def press(self, characters: str) -> None:
        for character in characters:
            if character in "\r\n":
                words, self.typed = self.typed.split(), ""
                self.answer = self.obey(words) if words else ""
            elif character in "\x7f\b":
                self.typed = self.typed[:-1]
            elif character == "\x04" or (character == "q" and not self.typed):
                self.quit.set()
            elif character.isprintable():
                self.typed += character

    def obey(self, words: list[str]) -> str:
        """Do it, and say what is wrong if that cannot be done."""
        verb, cluster = KEYS.get(words[0], words[0]), self.cluster
        node = cluster.nodes.get(words[1]) if len(words) == 2 else None
        match verb:
            case "quit":
                self.quit.set()
            case _ if verb not in KEYS.values():
                return f"there is no command '{verb}'"
            case _ if node is None:
                return f"which node? '{verb}' takes one of {', '.join(cluster.nodes)}"
            case "restart":
                return self.restart(node)
            case _ if node.ended:
                return f"{node.id} is down; restart it first"
            case "kill":
                cluster.kill(node.id)
            case "stop":
                cluster.stop(node.id)
            case "cont":
                cluster.go_on(node.id)
            case "term":
                cluster.term(node.id)
            case "transfer":
                return self.transfer(node)
        return ""

    def restart(self, node: Node) -> str:
        if node.state is not State.DOWN:
            return f"{node.id} has not gone down; kill or term it first"
        task = asyncio.create_task(self.cluster.restart(node.id))
        self.restarts.add(task)
        task.add_done_callback(self.restarted)
        return ""

    def restarted(self, task: asyncio.Task[float]) -> None:
        self.restarts.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.answer = str(error)

    def transfer(self, heir: Node) -> str:
        if self.cluster.agreed() is None:
            return "nobody leads who could hand over"
        self.cluster.transfer(heir.id)
        return ""


@contextlib.contextmanager
def keys(press: Callable[[str], None]) -> Iterator[None]:
    """Give each key as it is pressed; the terminal is as before afterwards."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin, termios.TCSANOW)
    loop = asyncio.get_running_loop()
    loop.add_reader(stdin, lambda: press(os.read(stdin, 100).decode(errors="ignore")))
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
