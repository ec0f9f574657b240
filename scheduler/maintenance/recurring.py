"""The duties of recurring jobs: every pod declares its own, the master fires what is due and forgets what nobody has.

Promises: a tick that is due is fired within a tenth of a second while a master lives; each makes one job or one line
in the log that says why not. A row that this version can't read waits for a master that can, and holds up no other.
"""

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from logging import getLogger

from scheduler.instants import instant_of
from scheduler.job import digest
from scheduler.recurring import Decision, Recurring, following
from scheduler.storage.recurring import Declaration, DueRow
from scheduler.storage.storage import Storage

log = getLogger("jobbridge.recurring")

LONGEST_SLEEP = 1.0
"""Seconds: others may have declared one meanwhile."""
PRUNE_INTERVAL = 60.0
TICKS = 50
"""Of one recurring job at a time, so that one with many to catch up on holds up no other."""


class Declared:
    """What this process's configuration and handlers declare."""

    def __init__(self, declared: Iterable[Recurring]) -> None:
        self._rows = [Declaration(one.name, one.dumps(), one.digest()) for one in declared]
        self.names = frozenset(row.name for row in self._rows)
        self.digest = digest(*sorted(row.digest for row in self._rows)).hex()
        """The same on all pods that declare the same; shown in their status."""

    def declare(self, storage: Storage) -> None:
        """Enter them."""
        if self._rows:
            storage.declare_recurring(self._rows, following)


class Fire:
    """Sleeps until the next tick, or for a second.

    :param fired: called when jobs were made.
    """

    def __init__(self, storage: Storage, fired: Callable[[], object] = lambda: None) -> None:
        self._storage = storage
        self._fired = fired
        # Of its own, since a Recurring belongs to one thread.
        self._loaded: Callable[[str], Recurring] = lru_cache(maxsize=20_000)(Recurring.loads)
        self._unreadable: set[str] = set()

    def step(self) -> float:
        """One batch; seconds until the next."""
        left = self._storage.next_tick()
        if left != 0:
            return LONGEST_SLEEP if left is None else min(left, LONGEST_SLEEP)
        fired = self._storage.fire(self.decide)
        for name, decision in fired.items():
            for reason in decision.reasons:
                log.info("%s: %s", name, reason)
            if decision.jobs:
                log.debug("%s: %d jobs made", name, len(decision.jobs))
        self._fired()
        return 0.0 if fired else LONGEST_SLEEP  # else another master has them now, or they can't be read

    def decide(self, row: DueRow) -> Decision | None:
        """What becomes of a row; None: it can't be read."""
        try:
            recurring = self._loaded(row.spec)
        except ValueError:
            if row.name not in self._unreadable:
                self._unreadable.add(row.name)
                log.exception("%s: this version can't read it: it waits for a master that can", row.name)
            return None
        return recurring.decide(instant_of(row.next_at), instant_of(row.now), row.runs, TICKS)


class Prune:
    """Forgets what this process does not declare, while all that live declare the same. One that starts meanwhile and
    declares more is seen, or has declared it since."""

    def __init__(self, storage: Storage, declared: Declared) -> None:
        self._storage = storage
        self._declared = declared

    def step(self) -> float:
        """One look; seconds until the next."""
        now = self._storage.clock()
        live = self._storage.live_servers()
        if live and all(_digest_of(row.status) == self._declared.digest for row, _ in live):
            for name in self._storage.prune_recurring(self._declared.names, now):
                log.warning("%s: forgotten, since no pod declares it", name)
        return PRUNE_INTERVAL


def _digest_of(status: str) -> object:
    shown: dict[str, object] = json.loads(status)
    return shown.get("recurring")
