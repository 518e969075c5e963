"""A command for `elect run` that tells when it lived, and whether another lived at the same time.

    python -I -S witness.py LOG LOCK [SECONDS]

It holds an exclusive lock on the file LOCK for as long as it lives; the kernel frees it at its end, whatever
that is. If the lock is held already, two commands run at once, and it says `overlap`. To LOG it appends a
line for its start, for each few milliseconds and for its end: the time, the word, its process and its term.
After SIGTERM it goes on for SECONDS.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

if __name__ == "__main__":  # a program of its own, which finds the clock by its place
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))  # noqa: PTH100 (pathlib is slow to import)

from electorate.runtime.clock import now


def main(log: str, lock: str, seconds: str = "0") -> None:
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    term, node = os.environ["ELECTORATE_TERM"], os.environ["ELECTORATE_NODE"]
    last = float("inf")

    def say(word: str) -> None:
        os.write(lines, f"{now():.6f} {word} {os.getpid()} {term} {node}\n".encode())

    def told(number: int, frame: object) -> None:
        nonlocal last
        last = min(last, now() + float(seconds))

    signal.signal(signal.SIGTERM, told)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("overlap")
    say("start")
    while now() < last:
        say("alive")
        time.sleep(0.002)
    say("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
