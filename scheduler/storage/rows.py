"""What SQLite, MariaDB and MySQL share: jobs are inserted as rows of parameters, and finished one group at a time."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Insert, Integer, bindparam, case, func, null

from scheduler.job import JobState
from scheduler.storage.intake import Placed, first_lane, first_state
from scheduler.storage.tables import Clock


def insertion(statement: Insert, now: Clock) -> Insert:
    """An insert-if-absent of jobs: one set of `parameters` for each row."""
    return statement.values(
        attempts=0,
        rescues=0,
        created_at=now,
        due_at=func.coalesce(bindparam("at_us", type_=BigInteger), now + bindparam("delay_us", type_=BigInteger))
        + bindparam("position", type_=BigInteger),
        expires_at=now + bindparam("expires_us", type_=BigInteger),
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
            "state": JobState.PROCESSING.value if place < claimed else first_state(job).value,
            "lane": first_lane(job),
            "owner": owner if place < claimed else None,
        }
        | job._asdict()
        for place, job in placed
    ]
