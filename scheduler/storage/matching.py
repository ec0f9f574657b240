"""Which jobs an operator means: the one place of the filters that lists and acts share."""

from typing import TypedDict

from sqlalchemy import FromClause, func, select
from sqlalchemy.sql.elements import ColumnElement

from scheduler.job import JobState
from scheduler.storage.tables import job_events, jobs
from scheduler.storage.tables import state as in_state


class Wanted(TypedDict, total=False):
    """Jobs that match all that is given; None: whatever it is."""

    state: JobState | None
    route: str | None
    handler: str | None
    source: str | None
    error: str | None
    """Text in the last failure, in capitals or not."""
    since: int | None
    """Ended since then, or created where they have not ended; microseconds since 1970."""


def matching(wanted: Wanted, jobs: FromClause = jobs) -> list[ColumnElement[bool]]:
    """The conditions.

    :param jobs: what is looked through: the table, or some of its rows.
    """
    found: list[ColumnElement[bool]] = []
    if (state := wanted.get("state")) is not None:
        found.append(jobs.c.state == in_state(state))
    for column, value in (
        (jobs.c.route, wanted.get("route")),
        (jobs.c.handler, wanted.get("handler")),
        (jobs.c.source, wanted.get("source")),
    ):
        if value is not None:
            found.append(column == value)
    if (error := wanted.get("error")) is not None:
        # What made a job FAILED that was orphaned too often is its last rescue.
        orphaned = (job_events.c.kind == "RESCUED") & (jobs.c.state == in_state(JobState.FAILED))
        last = (
            select(job_events.c.detail)
            .where(job_events.c.job_id == jobs.c.id, (job_events.c.kind == "FAILED") | orphaned)
            .order_by(job_events.c.seq.desc())
            .limit(1)
            .scalar_subquery()
        )
        found.append(last.icontains(error, autoescape=True))
    if (since := wanted.get("since")) is not None:
        found.append(func.coalesce(jobs.c.finished_at, jobs.c.created_at) >= since)
    return found
