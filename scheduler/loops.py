"""Threads that run loops. A loop is an object whose `step` does one round and says how long it may sleep.

Promises: a loop's thread ends only when it is told to; an outage of the store is waited out with a jittered backoff
below one heartbeat interval, and said once when it begins and once when it ends.
"""

import threading
import time
from collections.abc import Callable, Generator
from logging import getLogger
from random import Random
from typing import Protocol, TypeVar

from scheduler.storage.errors import SchemaOutdated, StoreUnavailable

log = getLogger("jobbridge.store")

R = TypeVar("R")


class Loop(Protocol):
    """One round after the other."""

    name: str
    wake: threading.Event
    """Set: the next round begins at once."""

    def step(self) -> float:
        """One round; seconds to sleep unless woken.

        :raises StoreUnavailable: it is tried again after a backoff.
        """


class Outage:
    """Whether the store answers, as all loops of a process see it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: float | None = None
        self.reason = ""

    @property
    def since(self) -> float | None:
        """When the store stopped answering, by the monotonic clock; None: it answers."""
        return self._since

    def begins(self, error: Exception) -> None:
        """The store did not answer."""
        with self._lock:
            if self._since is None:
                self._since = self._monotonic()
                self.reason = str(error)
                log.error("the store does not answer, waiting for it: %s", error)

    def ends(self) -> None:
        """The store answered."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                log.warning("the store answers again, after %.1f s", self._monotonic() - self._since)
                self._since = None


def waited(pausing: Generator[float, None, R], sleep: Callable[[float], object]) -> R:
    """What a generator returns that yields the seconds to wait before it goes on."""
    while True:
        try:
            sleep(next(pausing))
        except StopIteration as ended:
            result: R = ended.value
            return result


class LoopThread:
    """Runs one loop on a thread of its own.

    :param proves_store: its successful rounds show that the store answers.
    :param longest: seconds that a backoff may last.
    """

    def __init__(
        self, loop: Loop, outage: Outage, random: Random, *, longest: float, proves_store: bool = False
    ) -> None:
        self.name = loop.name
        self.loop = loop
        self._outage = outage
        self._random = random
        self._longest = longest
        self._proves_store = proves_store
        self.stopping = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=loop.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the current round; waits `timeout` seconds at most."""
        self.stopping = True
        self.loop.wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def wake(self) -> threading.Event | None:
        """What cuts the wait for the next round short; None: a backoff, which nobody does."""
        return None if self._failures else self.loop.wake

    def round(self) -> float:
        """One round, whatever it raises; seconds until the next."""
        try:
            delay = self.loop.step()
            self._failures = 0
            if self._proves_store:
                self._outage.ends()
        except (StoreUnavailable, SchemaOutdated) as error:
            self._outage.begins(error)
            self._failures += 1
            delay = self._random.uniform(0.0, min(self._longest, 0.05 * 2 ** min(self._failures, 10)))
        except Exception:
            log.exception("the %s loop failed and goes on", self.name)
            self._failures += 1
            delay = min(self._longest, 1.0)
        return delay

    def _run(self) -> None:
        while not self.stopping:
            delay = self.round()
            if delay > 0:
                if self.wake is None:
                    time.sleep(delay)
                else:
                    self.wake.wait(delay)
            self.loop.wake.clear()
