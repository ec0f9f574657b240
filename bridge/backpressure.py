"""Once a heartbeat: sources pause while too many jobs wait or an operator says so, and do their own upkeep.

Messages then wait in the broker, where they are safe and cost the store nothing. A source goes on when no reason is
left. Routes that an operator has paused are told to the workers; their messages still become jobs.
"""

import threading
from collections.abc import Callable, Sequence
from logging import getLogger

from bridge.sources.source import Source
from scheduler.storage import Storage

log = getLogger("jobbridge.source")


class Backpressure:
    """The loop that holds the backlog against its bound, and obeys the operators.

    :param hold_routes: told which routes are paused, each time.
    """

    name = "backpressure"

    def __init__(
        self,
        sources: Sequence[Source],
        storage: Storage,
        max_backlog: int,
        interval: float,
        hold_routes: Callable[[frozenset[str]], object] = lambda _: None,
    ) -> None:
        self.wake = threading.Event()
        self._sources = sources
        self._storage = storage
        self._max_backlog = max_backlog
        self._interval = interval
        self._hold_routes = hold_routes
        self.by_operators: dict[str, str] = {}
        """The sources that operators have paused, and why they stand still."""
        self._reasons: dict[str, str] = {}
        """What each source that is paused was told last."""

    def step(self) -> float:
        """One look; seconds until the next."""
        for source in self._sources:
            source.beat()
        paused = self._storage.pauses()
        self._hold_routes(frozenset(one.name for one in paused if one.kind == "route"))
        self.by_operators = {one.name: f"paused by {one.by}" for one in paused if one.kind == "source"}
        full = self._storage.backlog(self._max_backlog + 1) > self._max_backlog
        backlog = {source.name: f"more than {self._max_backlog} jobs wait" for source in self._sources if full}
        reasons = backlog | self.by_operators
        for source in self._sources:
            before, now = self._reasons.get(source.name), reasons.get(source.name)
            if now is not None and now != before:
                log.warning("source %s pauses: %s", source.name, now)
                source.pause(now)
            elif before is not None and now is None:
                log.warning("source %s goes on: no longer %s", source.name, before)
                source.resume()
        self._reasons = reasons
        return self._interval
