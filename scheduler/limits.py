"""Limits over all pods: how many jobs of a route run at once, and how many start within a time. Pure rules.

Promises: in no window of `per` seconds do more than `number` jobs start, however the window is laid. The starts of
the last window are remembered as (time, number) entries, at most `ENTRIES` of them: a sliding log with bounded
memory, which errs on the side of fewer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.job import digest

ENTRIES = 100
SLACK_US = 200_000
"""A job may start so much later than it was granted, and so close to one of the next window."""

Grant = tuple[int, int]
"""Until when it counts, in microseconds by the database's clock; how many starts."""


class Rate(NamedTuple):
    """At most `number` starts within any `per_us` microseconds."""

    number: int
    per_us: int


class Limit(NamedTuple):
    """What holds for all jobs of a route together."""

    key: bytes
    concurrency: int | None = None
    rate: Rate | None = None


def limit_key(route: str) -> bytes:
    """What the jobs of one route share."""
    return digest(b"limit", route.encode())


def lock_key(scope: str, value: bytes) -> bytes:
    """What the jobs share of which one runs at a time."""
    return digest(b"lock", scope.encode(), value)


def still_granted(grants: Sequence[Grant], now: int) -> list[Grant]:
    """Those that count in a window which begins now."""
    return [(until, number) for until, number in grants if until > now]


def granted(grants: Sequence[Grant], rate: Rate, now: int, number: int) -> list[Grant]:
    """The grants with one more; joined with one that ends nearly when it does, where there are many."""
    until = now + rate.per_us + SLACK_US
    if grants and until - grants[-1][0] < rate.per_us // ENTRIES:
        return [*grants[:-1], (until, grants[-1][1] + number)]
    return [*grants, (until, number)]
