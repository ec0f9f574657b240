"""Cron expressions by the clock on the wall: croniter counts in local time, and the times become UTC here.

Promises: ticks are strictly ascending. When the clock is put forward, a time that it leaves out ticks at the first
instant after the gap, once however many times fall into it. When it is put back, a time that comes twice ticks the
first time, or each time where `twice` asks for it. An expression with `*` for its hour runs by elapsed time: it ticks
in both passes, and the gap makes no tick of its own.

Does not promise anything about threads: an object belongs to one.
"""

import re
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter

_FIELDS = "minute, hour, day of the month, month, day of the week"
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_NEAR = timedelta(hours=3)
"""Longer than any clock was put back since 1970."""
_LAST_YEAR = 9000


@lru_cache(maxsize=4096)
def checked_cron(expression: str) -> str:
    """The expression, if it is one.

    :raises ValueError: says what to write in its place.
    """
    fields = expression.split()
    if expression.strip() in _MACROS:
        raise ValueError(f'write the five fields: "{_MACROS[expression.strip()]}"')
    if len(fields) != 5:
        seconds = "; for seconds write every: 10s" if len(fields) == 6 else ""
        raise ValueError(f"a cron has five fields, not {len(fields)}: {_FIELDS}{seconds}")
    if re.search(r"(^|[\s,])[hr]([\s,(/]|$)", expression, re.IGNORECASE):
        raise ValueError("H and R are chosen by chance, and the pods would not agree: write numbers")
    same = re.search(r"(?:^|[\s,])(\w+)-\1(?:[\s,/]|$)", expression, re.IGNORECASE)
    if same is not None:  # croniter takes it for the whole circle
        raise ValueError(f"a range of one: write {same[1]}")
    try:
        found = croniter(expression)
    except ValueError as error:
        why = str(error).partition("] is ")[2] or "croniter can't read it"
        raise ValueError(f"{why}: write {_FIELDS}, as in 0 3 * * *") from None
    try:
        found.get_next(float, start_time=0.0)
    except ValueError:
        raise ValueError("no date fits it: it would never tick") from None
    return " ".join(fields)


def checked_timezone(name: str) -> str:
    """The name of a time zone, if it is one.

    :raises ValueError: with a guess of what was meant.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        guess = get_close_matches(name, sorted(available_timezones()), 1)
        mend = f'did you mean "{guess[0]}"?' if guess else "write a name such as Europe/Amsterdam"
        raise ValueError(f"no time zone of this name: {mend}") from None
    return name


class Cron:
    """The ticks of one expression in one time zone; both are checked."""

    def __init__(self, expression: str, timezone: str, *, twice: bool) -> None:
        self._local = croniter(expression)
        self._zone = ZoneInfo(timezone)
        self._elapsed = expression.split()[1] == "*"
        self._twice = twice or self._elapsed

    def after(self, instant: datetime) -> datetime | None:
        """The first tick after an instant; None: there is none."""
        if instant.year > _LAST_YEAR:
            return None
        here = instant.astimezone(self._zone)
        # Where the clock is put back soon, times of before now come again, in the second pass.
        back = _offset(here) - _offset((instant + _NEAR).astimezone(self._zone))
        local = here.replace(tzinfo=None, fold=0) - max(back, timedelta(0))
        best: datetime | None = None
        while True:
            following = self._next(local)
            if following is None:
                return best
            local = following
            offset = _offset(local.replace(tzinfo=self._zone))
            later = [tick for tick in self._instants(local, offset) if tick > instant]
            best = min(later if best is None else [best, *later], default=None)
            # The first passes ascend with the local times: what follows ticks later than this.
            if best is not None and _utc(local - offset) > instant:
                return best

    def _next(self, local: datetime) -> datetime | None:
        try:
            found: float = self._local.get_next(float, start_time=local.replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            return None
        return datetime.fromtimestamp(found, UTC).replace(tzinfo=None)

    def _instants(self, local: datetime, offset: timedelta) -> list[datetime]:
        """When the clock on the wall shows this time, or is made to skip it. `offset` is that of the first pass."""
        second = _offset(local.replace(tzinfo=self._zone, fold=1))
        if second == offset:
            return [_utc(local - offset)]
        if second < offset:
            return [_utc(local - offset), _utc(local - second)][: 2 if self._twice else 1]
        return [] if self._elapsed else [self._end_of_gap(_utc(local - second), _utc(local - offset))]

    def _end_of_gap(self, before: datetime, after: datetime) -> datetime:
        low, high = int(before.timestamp()), int(after.timestamp())
        reached = _offset(after.astimezone(self._zone))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if _offset(datetime.fromtimestamp(middle, self._zone)) == reached else (middle, high)
            )
        return datetime.fromtimestamp(high, UTC)


def _utc(naive: datetime) -> datetime:
    return naive.replace(tzinfo=UTC)


def _offset(aware: datetime) -> timedelta:
    return aware.utcoffset() or timedelta(0)
