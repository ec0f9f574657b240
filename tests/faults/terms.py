"""What a run's configuration asks for beyond the main route, and the rules that decide whether it was kept."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table

from tests.faults.history import JobRow

TASKS, LIMITED, LOCKED, BOOKED, ECHOES = "tasks", "limited", "locked", "booked", "echoes"
"""Routes, and the namespaces of their jobs."""
ROUTE = "route"
"""The header that says which, where it is not the main one."""
CONCURRENCY = 3
KEY = "key"
"""The header whose value is the lock of a message of the locked route."""
KEYS = tuple("abcdefgh")

effects = Table("fault_effects", MetaData(), Column("job", LargeBinary(16)), Column("version", BigInteger))
"""What handlers of the booked route write, in the transaction of their job's success. Each also sends an echo."""

PULSE = "pulse"
"""A recurring job whose ticks are the whole seconds; none may be passed over."""
RECURRING = f"recurring:{PULSE}"
"""The namespace of its jobs."""
PULSE_BODY = b"{}"


def tick_of(row: JobRow) -> int | None:
    """The second that a job of the recurring job is of; None: it is of none that there is."""
    name, _, told = row.id.partition("@")
    try:
        tick = datetime.fromisoformat(told).timestamp()
    except ValueError:
        return None
    return int(tick) if name == PULSE and tick.is_integer() else None


def broken_ticks(rows: Sequence[JobRow]) -> Iterator[str]:
    """Ticks between the first and the last that made a job, without a job or with more than one."""
    made = Counter(tick for row in rows if (tick := tick_of(row)) is not None)
    for tick in range(min(made), max(made) + 1) if made else ():
        if made[tick] != 1:
            yield f"{made[tick]} jobs of the tick {datetime.fromtimestamp(tick, UTC).isoformat()}"


class Span(NamedTuple):
    """A run of a handler, for as long as it counts."""

    start: float
    until: float
    name: str


def crowds(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Those that run at each start of one, it included."""
    running: list[Span] = []
    for span in sorted(spans):
        if span.until > span.start:
            running = [one for one in running if one.until > span.start] + [span]
            yield running


class Turn(NamedTuple):
    """A job that waited for a lock."""

    created_at: float
    """When the store began to insert it."""
    start: float
    """Of its first run."""
    seen_at: float
    """When it certainly stood in the store."""
    name: str


def overtaken(turns: Iterable[Turn]) -> Iterator[tuple[Turn, Turn]]:
    """Of one lock: a job that began before another which had stood in the store before the first one was inserted.

    The order of two whose inserts may have been under way at once is open: the store may commit either first.
    """
    listed = list(turns)
    seen = sorted(listed, key=lambda turn: turn.seen_at)
    place, last = 0, None
    for turn in sorted(listed):
        while place < len(seen) and seen[place].seen_at < turn.created_at:
            last = max(last or seen[place], seen[place], key=lambda one: one.start)
            place += 1
        if last is not None and turn.start < last.start:
            yield turn, last
