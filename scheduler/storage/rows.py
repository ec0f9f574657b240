"""What SQLite, MariaDB and MySQL share: jobs are inserted as rows of parameters, and finished one group at a time."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Insert, Integer, bindparam, case, null

from scheduler.job import JobState
from scheduler.storage.intake import Placed
from scheduler.storage.tables import Clock


def insertion(statement: Insert, now: Clock) -> Insert:
    """An insert-if-absent of jobs: one set of `parameters` for each row."""
    return statement.values(
        lane=0,
        attempts=0,
        rescues=0,
        created_at=now,
        due_at=now + bindparam("position", type_=BigInteger),
        started_at=case((bindparam("claimed", type_=Integer) == 1, now), else_=null()),
    )


def parameters(placed: Sequence[Placed], token: int, owner: bytes | None, claimed: int) -> list[dict[str, object]]:
    """The parameters of `insertion`."""
    shared: dict[str, object] = {"token": token}
    return [
        shared
        | {
            "position": place,
            "claimed": int(place < claimed),
            "version": int(place < claimed),
            "state": JobState.PROCESSING.value if place < claimed else JobState.ENQUEUED.value,
            "owner": owner if place < claimed else None,
        }
        | job._asdict()
        for place, job in placed
    ]
