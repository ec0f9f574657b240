"""The processes of one server, found by the directory they work in.

A server's process ids are not enough: PostgreSQL's backends leave their session, RabbitMQ's start script has the
virtual machine as a child, epmd turns itself into a daemon. All of them are started in the server's own directory
(or change into it), so the kernel's list of working directories finds every one of them, even those whose parent
has died.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def processes_in(directory: Path) -> list[int]:
    """Give the ids of the live processes that work in this directory or below it; zombies have none."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or of another user
            place = Path(os.readlink(f"/proc/{entry}/cwd").removesuffix(" (deleted)"))
            if place == directory or directory in place.parents:
                found.append(int(entry))
    return found


def send(directory: Path, number: signal.Signals) -> None:
    """Signal all of them, until a round finds no process that is new: a child may be forked meanwhile."""
    signalled: set[int] = set()
    while new := set(processes_in(directory)) - signalled:
        for process_id in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, number)
        signalled |= new


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.02) -> bool:
    """Poll a condition up to a deadline; say whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True
