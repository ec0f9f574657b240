"""The servers table: who is there, who beat when."""

from sqlalchemy import bindparam, delete, select, update

from scheduler.storage.database import Contended, Database, retried
from scheduler.storage.records import ServerRow
from scheduler.storage.tables import servers

TIMEOUT_INTERVALS = 4
"""A server that has not beaten for so many of its own intervals is held for dead."""


class Cluster(Database):
    """The verbs that membership needs."""

    @retried
    def register(self, server: bytes, *, host: str, pid: int, interval_us: int, status: str) -> int:
        """Enter a server under a new id; its number, which is higher than all before. May be done twice."""
        # Whoever saw an earlier try, and held it for dead, sees another beat; also where it struck that one off.
        row = self.counted(servers, ("id",), {"beat": servers.c.beat + 1, "last_heartbeat": self.now}).values(
            id=server,
            host=host,
            pid=pid,
            beat=self.random.getrandbits(32),
            interval_us=interval_us,
            started_at=self.now,
            last_heartbeat=self.now,
            status=status,
        )
        with self.connection() as connection:
            connection.execute(row)
            number = connection.execute(select(servers.c.number).where(servers.c.id == server)).scalar()
        if number is None:
            raise Contended("it was struck off while it registered")
        return int(number)

    @retried
    def beat(self, server: bytes, status: str) -> bool:
        """One heartbeat. False: the row is gone, others hold this server for dead."""
        statement = (
            update(servers)
            .where(servers.c.id == bindparam("of_id"))
            .values(beat=servers.c.beat + 1, last_heartbeat=self.now, status=bindparam("new_status"))
        )
        with self.connection() as connection:
            return connection.execute(statement, {"of_id": server, "new_status": status}).rowcount == 1

    def servers(self) -> list[ServerRow]:
        """All registered servers, the longest running first."""
        statement = select(
            servers.c.number,
            servers.c.id,
            servers.c.host,
            servers.c.pid,
            servers.c.beat,
            servers.c.interval_us,
            servers.c.started_at,
            servers.c.last_heartbeat,
            servers.c.status,
            self.now - servers.c.last_heartbeat,
        ).order_by(servers.c.number)
        with self.connection() as connection:
            return [ServerRow(*row) for row in connection.execute(statement)]

    def live_servers(self) -> list[tuple[ServerRow, bool]]:
        """The servers that beat within their timeout; the master among them has the lowest number."""
        live = [row for row in self.servers() if row.age_us <= TIMEOUT_INTERVALS * row.interval_us]
        return [(row, row is live[0]) for row in live]

    @retried
    def remove_silent(self, server: bytes, beat: int) -> bool:
        """Strike off a server that was seen silent since this beat; a beat in between wins, and False is told."""
        statement = delete(servers).where(servers.c.id == bindparam("of_id"), servers.c.beat == bindparam("seen"))
        with self.connection() as connection:
            return connection.execute(statement, {"of_id": server, "seen": beat}).rowcount == 1

    @retried
    def unregister(self, server: bytes) -> None:
        """Strike off a server that is gone for certain."""
        with self.connection() as connection:
            connection.execute(delete(servers).where(servers.c.id == server))
