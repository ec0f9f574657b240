"""The duty that gives the jobs of dead servers to the living (I11).

Four idempotent steps without a lock between them: strike off silent servers, read who owns running jobs, then read
who is registered, then take the jobs of owners that are not. A server registers before it claims, so an owner seen
first and not registered then is dead; and a claim that lands after its server was struck off is found by the next
round, since the owners are read from the jobs.
"""

from collections import Counter
from logging import getLogger

from scheduler.counts import Counts, Key
from scheduler.membership import Membership
from scheduler.storage.storage import Storage
from scheduler.storage.upkeep import BATCH

log = getLogger("jobbridge.maintenance")

MAX_RESCUES = 3
"""Orphaned more often, a job is FAILED: it may be what kills its pods."""


class Rescue:
    """One round after each heartbeat."""

    def __init__(
        self, storage: Storage, membership: Membership, retention: float, counts: Counts | None = None
    ) -> None:
        self._storage = storage
        self._counts = counts or Counts()
        self.taken: Counter[str] = Counter()
        """Jobs by what became of them: rescued, failed."""
        self._membership = membership
        self._retention_us = int(retention * 1e6)

    def step(self) -> float:
        """One round; seconds until the next unless a heartbeat comes first."""
        for row in self._membership.silent:
            if self._storage.remove_silent(row.id, row.beat):
                log.warning("server %d (%s, pid %d) is dead: no heartbeat", row.number, row.host, row.pid)
        owners = self._storage.owners()
        for owner in sorted(owners - {row.id for row in self._storage.servers()}) if owners else ():
            taken = total = self._rescue(owner)
            while taken == BATCH:
                taken = self._rescue(owner)
                total += taken
            if total:
                log.warning("rescued %d jobs of a dead server", total)
        return self._membership.interval

    def _rescue(self, owner: bytes) -> int:
        counted: Counter[Key] = Counter()
        retention = self._retention_us
        taken = self._storage.rescue(owner, max_rescues=MAX_RESCUES, retention_us=retention, counted=counted)
        self._counts.add(counted)
        for key, number in counted.items():
            self.taken[key.outcome] += number
        return taken
