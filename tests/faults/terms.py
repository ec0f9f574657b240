"""What a run's configuration asks for beyond the main route, and the rules that decide whether it was kept."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from tests.faults.history import JobRow

TASKS, LIMITED = "tasks", "limited"
"""Routes, and the namespaces of their jobs."""
ROUTE = "route"
"""The header that says which, where it is not the main one."""
CONCURRENCY = 3

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
