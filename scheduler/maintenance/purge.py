"""The duty that forgets finished jobs whose time is over, a small batch at a time."""

from scheduler.storage.storage import Storage
from scheduler.storage.upkeep import BATCH

INTERVAL = 60.0


class Purge:
    """Goes on while there is more, and looks once a minute otherwise."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def step(self) -> float:
        """One batch; seconds until the next."""
        return 0.0 if self._storage.purge() == BATCH else INTERVAL
