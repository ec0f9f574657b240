"""The master's duties on one thread, each when it is due. Each is harmless when two masters do it at once (I13).

Before them stands what every server does, master or not: once as soon as it is registered, and after each heartbeat.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from scheduler.membership import Membership
from scheduler.storage.errors import SchemaOutdated, StoreUnavailable


class Duty(Protocol):
    """One thing that the master does."""

    def step(self) -> float:
        """One round; seconds until the next."""


class Duties:
    """The maintenance thread's loop.

    :param at_beat: the duties that also run after each heartbeat.
    :param at_start: what is done once, again only where the store was away.
    :param everywhere: what each server does after each heartbeat.
    """

    name = "maintenance"

    def __init__(
        self,
        membership: Membership,
        duties: Sequence[Duty],
        at_beat: Sequence[Duty],
        monotonic: Callable[[], float] = time.monotonic,
        at_start: Sequence[Callable[[], None]] = (),
        everywhere: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.wake = threading.Event()
        self._membership = membership
        self._due = {duty: 0.0 for duty in (*at_beat, *duties)}
        self._at_beat = at_beat
        self._at_start = list(at_start)
        self._everywhere = everywhere
        self._round = self._mastered = 0
        self._monotonic = monotonic
        self.measure: Callable[[str, float], None] | None = None
        """Told of each round of a duty, and its seconds."""

    def add(self, duty: Duty) -> None:
        """One more, before any step."""
        self._due[duty] = 0.0

    def hurry(self) -> None:
        """All are due now."""
        self._due = dict.fromkeys(self._due, self._monotonic())

    def step(self) -> float:
        """Do what is due; seconds until the next is."""
        if self._membership.registration() is None:
            return self._membership.interval
        while self._at_start:
            first = self._at_start.pop()
            try:
                first()
            except (StoreUnavailable, SchemaOutdated):
                self._at_start.append(first)
                raise
        if self._round != self._membership.rounds:
            self._round = self._membership.rounds
            for each in self._everywhere:
                each()
        if not self._membership.is_master:
            return self._membership.interval
        now = self._monotonic()
        if self._mastered != self._membership.rounds:
            self._mastered = self._membership.rounds
            self._due.update(dict.fromkeys(self._at_beat, now))
        for duty, due in self._due.items():
            if due <= now:
                began = self._monotonic()
                wait = duty.step()
                self._due[duty] = self._monotonic() + wait
                if self.measure is not None:
                    self.measure(type(duty).__name__, self._monotonic() - began)
        return max(0.0, min(self._due.values()) - self._monotonic())
