"""What a browser is shown: pages of lists, rows with the head of their body, counts that end early.

Promises: what a verb reads is bounded, however many jobs have finished: a page goes on where the one before ended, a
filter looks through `LOOKED` rows at most and says so, and no count goes past its bound.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Unpack

from sqlalchemy import Column, ColumnElement, FromClause, LargeBinary, Select, Table, func, select, tuple_

from scheduler.job import FINISHED, JobState
from scheduler.storage.acts import Verb, matched
from scheduler.storage.matching import Wanted, matching
from scheduler.storage.operators import LETTERS, LISTED, Operators, Record
from scheduler.storage.tables import dead_letters, jobs
from scheduler.storage.tables import state as in_state

LOOKED = 2_000
"""Rows that one page with a filter looks through."""
HEAD = 64 * 1024
"""Bytes of a body that are shown."""

_PLACE = re.compile(r"(?:[0-9]{1,18}-){1,2}[0-9a-f]{32}")

Conditions = Callable[[FromClause], Sequence[ColumnElement[bool]]]


class Page(NamedTuple):
    """Some rows of a list."""

    rows: list[Record]
    after: str | None
    """Where the next page begins; None: this is the last one."""
    filled: bool = True
    """False: it looked through `LOOKED` rows and did not find a page full."""


class Pages(Operators):
    """The verbs of pages. A place in a list is what `Page.after` gave; any other text is the begin of the list."""

    def page_of_jobs(self, state: JobState, wanted: Wanted, after: str = "", limit: int = 50) -> Page:
        """Jobs of one state, without their bodies: what waits and runs in the order of its turn, what has ended by the
        time of its purge, the last first."""
        keys = ("lane", "due_at", "id") if state is JobState.ENQUEUED else ("due_at", "id")
        standing = [jobs.c.state == in_state(state)]
        if state in FINISHED:
            standing.append(jobs.c.lane == 0)  # always so, and MariaDB's index wants to be told
        filtered = any(value is not None for name, value in wanted.items() if name != "state")
        conditions: Conditions | None = (lambda rows: matching(wanted, rows)) if filtered else None
        return self._page(jobs, LISTED, standing, keys, after, limit, state in FINISHED, conditions)

    def page_of_dead_letters(
        self, after: str = "", *, limit: int = 50, reason: str | None = None, source: str | None = None
    ) -> Page:
        """The newest dead letters first, without their bodies."""
        asked = {name: value for name, value in (("reason", reason), ("source", source)) if value is not None}
        conditions: Conditions | None = (
            (lambda rows: [rows.c[name] == value for name, value in asked.items()]) if asked else None
        )
        return self._page(dead_letters, LETTERS, [], ("received_at", "id"), after, limit, True, conditions)

    def _page(
        self,
        table: Table,
        columns: Sequence[Column[object]],
        standing: Sequence[ColumnElement[bool]],
        keys: Sequence[str],
        after: str,
        limit: int,
        descending: bool,
        conditions: Conditions | None,
    ) -> Page:
        def ordered(rows: FromClause) -> list[ColumnElement[object]]:
            return [rows.c[key].desc() if descending else rows.c[key].asc() for key in keys]

        looked = select(*columns).where(*standing).order_by(*ordered(table))
        if _PLACE.fullmatch(after) and after.count("-") == len(keys) - 1:
            *numbers, key = after.split("-")
            place = (*map(int, numbers), bytes.fromhex(key))
            mine, first = tuple_(*(table.c[key] for key in keys)), table.c[keys[0]]
            # The first column alone as well: MariaDB meets no tuple by an index.
            beyond = (first <= place[0], mine < place) if descending else (first >= place[0], mine > place)
            looked = looked.where(*beyond)
        if conditions is None:
            rows = self._records(looked.limit(limit + 1))
            return Page(rows[:limit], _place(rows[limit - 1], keys) if len(rows) > limit else None)
        among = looked.limit(LOOKED).subquery()
        rows = self._records(select(among).where(*conditions(among)).order_by(*ordered(among)).limit(limit + 1))
        if len(rows) > limit:
            return Page(rows[:limit], _place(rows[limit - 1], keys))
        place_of = [among.c[key] for key in keys]
        backward = [column.asc() if descending else column.desc() for column in place_of]
        number = select(func.count()).select_from(among).scalar_subquery()
        last = self._records(select(*place_of, number.label("number")).order_by(*backward).limit(1))
        more = bool(last) and last[0]["number"] == LOOKED
        return Page(rows, _place(last[0], keys) if more else None, not more)

    def count_some(self, state: JobState, bound: int) -> int:
        """How many jobs are in a state, counted no further than `bound`."""
        return self._count([jobs.c.state == in_state(state)], bound)

    def count_some_matching(self, verb: Verb, began: int, bound: int, **wanted: Unpack[Wanted]) -> int:
        """How many jobs matched by `began`, of those that an act is for, counted no further than `bound`."""
        return self._count([matched(verb, began, wanted)], bound)

    def count_some_dead_letters(self, bound: int) -> int:
        """How many dead letters are kept, counted no further than `bound`."""
        return self._counted(select(dead_letters.c.id).limit(bound))

    def _count(self, conditions: Sequence[ColumnElement[bool]], bound: int) -> int:
        # In an index's order, or PostgreSQL may read the table, which has rows of other states.
        return self._counted(select(jobs.c.id).where(*conditions).order_by(jobs.c.due_at).limit(bound))

    def _counted(self, rows: Select[bytes]) -> int:
        with self.connection() as connection:
            return connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one()

    def job_heads(self, keys: Iterable[bytes]) -> list[Record]:
        """Jobs by their keys, each with the first `HEAD` bytes of its body, and `size`, the length of it."""
        body = func.substr(jobs.c.body, 1, HEAD, type_=LargeBinary()).label("body")
        columns = (*LISTED, body, func.length(jobs.c.body).label("size"))
        return self._records(select(*columns).where(jobs.c.id.in_(list(keys))))

    def dead_letter_head(self, key: bytes) -> Record | None:
        """A dead letter with the first `HEAD` bytes of its body."""
        body = func.substr(dead_letters.c.body, 1, HEAD, type_=LargeBinary()).label("body")
        return next(iter(self._records(select(*LETTERS, body).where(dead_letters.c.id == key))), None)


def _place(row: Record, keys: Sequence[str]) -> str:
    return "-".join(str(row[key]).replace("-", "") for key in keys)
