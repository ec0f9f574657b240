"""When a job runs again, and for how long its row is kept: pure rules.

The backoff is exponential with full jitter (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

from scheduler.duration import seconds


class Snooze(Exception):
    """Raised by a handler: run me again after `delay`; that is no failure and uses up no retry.

    :param delay: seconds, a timedelta, or text such as `5m`.
    """

    def __init__(self, delay: float | str) -> None:
        super().__init__(delay)
        self.delay = seconds(delay)


class Backoff(NamedTuple):
    """Between 0 and `base * factor ** (failures - 1)` seconds, at most `max`, chosen evenly."""

    base: float = 1.0
    factor: float = 2.0
    max: float = 3600.0
    delays: tuple[float, ...] = ()
    """Given: exactly these, one after the other, without jitter; the last one again and again."""

    def delay(self, failures: int, random: Random) -> float:
        """Seconds until the next try after so many failures (1 or more)."""
        if self.delays:
            return self.delays[min(failures, len(self.delays)) - 1]
        try:
            ceiling = min(self.max, self.base * self.factor ** (failures - 1))
        except OverflowError:
            ceiling = self.max
        return random.uniform(0.0, ceiling)


class Policy(NamedTuple):
    """What happens to a job around its runs."""

    retries: int = 10
    """Runs after the first: 10 makes 11 runs at most."""
    timeout: float | None = None
    """Seconds that one run may take; None: no bound."""
    backoff: Backoff = Backoff()
    window: float = 7 * 86400.0
    """Seconds that a succeeded or deleted job is kept, and its ID remembered."""
    failed_retention: float = 30 * 86400.0
    """Seconds that a failed job is kept."""
    keep_body: bool = True
    """False: the body is dropped when the job succeeds."""
    lock_while_retrying: bool = True
    """False: while a job waits for its next try, others with its lock may run."""

    def overridden(self, by: PolicyOverride) -> Policy:
        """This policy with what `by` sets."""
        return self._replace(**{name: value for name, value in by._asdict().items() if value is not None})


class PolicyOverride(NamedTuple):
    """The part of a policy that one level of configuration sets; None: it says nothing."""

    retries: int | None = None
    timeout: float | None = None
    backoff: Backoff | None = None
    window: float | None = None
    failed_retention: float | None = None
    keep_body: bool | None = None
    lock_while_retrying: bool | None = None


class Policies:
    """Who has the last word: built in, then `defaults`, then `@job`, then the route (then the job's own retries)."""

    def __init__(
        self,
        defaults: PolicyOverride,
        handlers: Mapping[str, PolicyOverride],
        routes: Mapping[str, PolicyOverride] | None = None,
    ) -> None:
        base = Policy().overridden(defaults)
        self._base = base
        self._handlers = {name: base.overridden(by) for name, by in handlers.items()}
        self._routes = dict(routes or {})
        self._known: dict[tuple[str, str], Policy] = {}

    def of(self, route: str, handler: str) -> Policy:
        """The policy of a job that came by `route` (empty: by none) and runs `handler`."""
        key = (route, handler)
        policy = self._known.get(key)
        if policy is None:
            policy = self._handlers.get(handler, self._base).overridden(self._routes.get(route, PolicyOverride()))
            self._known[key] = policy
        return policy

    @property
    def default(self) -> Policy:
        """What holds for a job of which nothing more is known."""
        return self._base
