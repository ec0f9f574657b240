"""The duty that makes scheduled jobs run when they are due, never before."""

from scheduler.storage.storage import Storage
from scheduler.storage.upkeep import BATCH

LONGEST_SLEEP = 1.0


class Promote:
    """Sleeps until the next job is due, or until a second has passed: others may have scheduled one meanwhile."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def step(self) -> float:
        """One round; seconds until the next."""
        left = self._storage.next_due()
        if left == 0:
            if self._storage.promote() == BATCH:
                return 0.0
            left = self._storage.next_due()
        return LONGEST_SLEEP if left is None else min(left, LONGEST_SLEEP)
