"""The duty that forgets finished jobs whose time is over, a small batch at a time, and old counts."""

import time
from collections.abc import Callable

from scheduler.storage.storage import Storage
from scheduler.storage.upkeep import PURGED

INTERVAL = 60.0
REST = 4.0
"""How many times as long as a batch took it rests after it, while this process has jobs to run."""


class Purge:
    """Goes on while there is more, and looks once a minute otherwise.

    :param busy: whether jobs run here that it should not slow down.
    """

    def __init__(
        self, storage: Storage, busy: Callable[[], bool], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._busy = busy
        self._monotonic = monotonic

    def step(self) -> float:
        """One batch; seconds until the next."""
        started = self._monotonic()
        if self._storage.purge() < PURGED:
            self._storage.forget_counts()
            return INTERVAL
        return REST * (self._monotonic() - started) if self._busy() else 0.0
