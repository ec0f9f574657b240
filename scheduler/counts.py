"""What this process counts: messages by what became of them, runs by how they ended.

Threads add to it a batch at a time; after each heartbeat what is new is written into the store, where any pod can read
the sums.

Promises: a write that is done twice counts nothing twice, since it has the sum of a minute and no difference.
Does not promise the last counts of a process that was killed: those since its last heartbeat are lost.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import NamedTuple

log = getLogger("jobbridge.pod")


class Key(NamedTuple):
    """What is counted apart."""

    source: str
    """Empty: none."""
    route: str
    """Empty: not known, as of a message that no route takes."""
    outcome: str
    """Of a message: created, duplicate, conflict, rejected, ignored. Of a run: succeeded, retried, failed (for good),
    timeout (and tried again), snoozed, cancelled (handed back), fenced, or rescued from a server that died."""


class Counted(NamedTuple):
    """The sum of one minute so far."""

    minute: int
    """Since 1970, by the database's clock."""
    source: str
    route: str
    outcome: str
    n: int


class Counts:
    """For any number of threads that add, and one that writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: Counter[Key] = Counter()
        self._minute = 0
        self._sums: Counter[Key] = Counter()
        self._unwritten: dict[tuple[int, Key], int] = {}

    def add(self, counted: Mapping[Key, int]) -> None:
        """Count a batch."""
        with self._lock:
            for key, number in counted.items():
                self._fresh[key] += number

    def unwritten(self, minute: int) -> Sequence[Counted]:
        """What the store does not have yet; what was added since the last time is counted for this minute."""
        with self._lock:
            fresh, self._fresh = self._fresh, Counter()
        if minute > self._minute:  # a clock that went back must not put a smaller sum in the place of a larger one
            self._summarize()
            self._minute, self._sums = minute, Counter()
        for key, number in fresh.items():
            self._sums[key] += number
            self._unwritten[self._minute, key] = self._sums[key]
        return [Counted(of_minute, *key, number) for (of_minute, key), number in self._unwritten.items()]

    def _summarize(self) -> None:
        """Log what a minute came to; nothing where nothing happened."""
        sums: Counter[str] = Counter()
        for key, number in self._sums.items():
            sums[key.outcome] += number
        if sums:
            log.info("counted in a minute: %s", ", ".join(f"{n} {how}" for how, n in sorted(sums.items())))

    def written(self) -> None:
        """The store has all of it."""
        self._unwritten.clear()
