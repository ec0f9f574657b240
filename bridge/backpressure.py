"""Once a heartbeat: sources pause while too many jobs wait, and do their own upkeep.

Messages then wait in the broker, where they are safe and cost the store nothing.
"""

import threading
from collections.abc import Sequence
from logging import getLogger

from bridge.sources.source import Source
from scheduler.storage import Storage

log = getLogger("jobbridge.source")


class Backpressure:
    """The loop that holds the backlog against its bound."""

    name = "backpressure"

    def __init__(self, sources: Sequence[Source], storage: Storage, max_backlog: int, interval: float) -> None:
        self.wake = threading.Event()
        self._sources = sources
        self._storage = storage
        self._max_backlog = max_backlog
        self._interval = interval
        self._paused = False

    def step(self) -> float:
        """One look; seconds until the next."""
        for source in self._sources:
            source.beat()
        full = self._storage.backlog(self._max_backlog + 1) > self._max_backlog
        if full != self._paused:
            self._paused = full
            reason = f"more than {self._max_backlog} jobs wait"
            log.warning("all sources pause: %s" if full else "all sources go on: no longer %s", reason)
            for source in self._sources:
                if full:
                    source.pause(reason)
                else:
                    source.resume()
        return self._interval
