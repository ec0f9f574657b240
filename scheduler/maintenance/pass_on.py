"""The duty that gives locks on which a pod that died could not give on."""

from scheduler.storage.gates import SWEEP
from scheduler.storage.storage import Storage

INTERVAL = 5.0


class PassOn:
    """Who ends a job gives its lock on himself; this finds what was left out."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def step(self) -> float:
        """One round; seconds until the next."""
        return 0.0 if self._storage.pass_on_forgotten() >= SWEEP else INTERVAL
