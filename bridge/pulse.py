"""The heartbeat file: where no port is open, it says what `/livez` and `/readyz` would.

It is written anew as long as its process lives, and asks no database and no broker.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

Check = Callable[[], Mapping[str, str]]
"""What is wrong with each part that is looked at; empty: nothing."""

PULSE = 2.0
"""Seconds between two writes of the heartbeat file."""
STALE = 10.0
"""Seconds after which its process is held for dead."""


def only_wrong(parts: Mapping[str, str]) -> dict[str, str]:
    """The parts with which something is wrong."""
    return {part: why for part, why in parts.items() if why}


class Pulse:
    """Writes the heartbeat file until it is stopped.

    :raises OSError: where the first can't be written.
    """

    def __init__(self, path: Path, live: Check, ready: Check) -> None:
        self._path = path
        self._checks = {"live": live, "ready": ready}
        self._stopping = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.write_text(json.dumps({name: only_wrong(check()) for name, check in self._checks.items()}))
        fresh.replace(self._path)

    def _run(self) -> None:
        while not self._stopping.wait(PULSE):
            with contextlib.suppress(OSError):  # a disk that is full now; the next one says that we live
                self._write()

    def stop(self) -> None:
        """End it; nothing is left of the file."""
        self._stopping.set()
        self._thread.join(3.0)
        self._path.unlink(missing_ok=True)
