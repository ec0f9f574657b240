"""The duty that deletes jobs which have not started in time."""

from scheduler.storage.storage import Storage
from scheduler.storage.upkeep import BATCH

INTERVAL = 5.0


class Expire:
    """No claim takes an expired job, so this may be late."""

    def __init__(self, storage: Storage, retention: float) -> None:
        self._storage = storage
        self._retention_us = int(retention * 1e6)

    def step(self) -> float:
        """One batch; seconds until the next."""
        return 0.0 if self._storage.expire(self._retention_us) == BATCH else INTERVAL
