"""Sources and routes that an operator has paused. All pods read them once a heartbeat."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sqlalchemy import delete, select

from scheduler.storage.database import Database, retried
from scheduler.storage.tables import pauses

Kind = Literal["source", "route"]


class Pause(NamedTuple):
    """One of them."""

    kind: str
    name: str
    at: int
    by: str


class Pauses(Database):
    """The verbs that pause and resume."""

    @retried
    def pause(self, kind: Kind, name: str, by: str) -> None:
        """Pause it; what is paused already stays as it is."""
        statement = self.counted(pauses, ("kind", "name"), {"at": pauses.c.at})
        with self.connection() as connection:
            connection.execute(statement.values(kind=kind, name=name, at=self.now, by=by))

    @retried
    def resume(self, kind: Kind, name: str) -> None:
        """Let it go on; what is not paused stays as it is."""
        with self.connection() as connection:
            connection.execute(delete(pauses).where(pauses.c.kind == kind, pauses.c.name == name))

    def pauses(self) -> Sequence[Pause]:
        """All that is paused."""
        statement = select(pauses.c.kind, pauses.c.name, pauses.c.at, pauses.c.by).order_by(*pauses.primary_key)
        with self.connection() as connection:
            return [Pause(*row) for row in connection.execute(statement)]
