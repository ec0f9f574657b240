"""The embedded broker: a table. Claimed messages are invisible for a while; an ack deletes them by their token."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, bindparam, delete, func, insert, select, update

from scheduler.storage.database import Database, retried
from scheduler.storage.records import LocalMessage
from scheduler.storage.tables import messages


class LocalQueue(Database):
    """The verbs of the local queue. A queue is there once something is published to it."""

    @retried
    def publish(self, queue: str, published: Sequence[tuple[str, bytes]]) -> None:
        """Add messages, (envelope, body) each, all of them or none.

        :raises StoreUnavailable: they may have been added; publish them again, under the same correlation IDs.
        """
        with self.transaction() as connection:
            connection.execute(
                insert(messages).values(queue=queue, published_at=self.now, visible_at=self.now),
                [{"envelope": envelope, "body": body} for envelope, body in published],
            )

    @retried
    def receive(
        self, queue: str, *, token: int, limit: int, max_bytes: int, visibility_us: int, at_least: int = 1
    ) -> list[LocalMessage]:
        """Take the oldest visible messages up to the two bounds; nobody else sees them for `visibility_us`.

        :param token: random, signed 64 bits: the receipt for `acknowledge`.
        :param at_least: so many are taken whatever their bytes are, if they are there.
        """
        length = func.length(messages.c.body)
        oldest = (
            select(messages.c.seq, length.label("length"))
            .where(messages.c.queue == queue, messages.c.visible_at <= self.now)
            .order_by(messages.c.seq)
            .limit(limit)
        )
        with self.connection() as connection:
            if connection.execute(oldest.limit(1)).first() is None:
                return []  # an idle queue is only read
        with self.transaction() as connection:
            taken: list[int] = []
            for seq, size in connection.execute(oldest.with_for_update(skip_locked=True)).all():
                max_bytes -= size
                if len(taken) >= at_least and max_bytes < 0:
                    break
                taken.append(seq)
            if not taken:
                return []
            connection.execute(
                update(messages)
                .where(messages.c.seq.in_(bindparam("taken", expanding=True)))
                .values(token=token, visible_at=self.now + bindparam("visibility", type_=BigInteger)),
                {"taken": taken, "visibility": visibility_us},
            )
            rows = connection.execute(
                select(messages.c.seq, messages.c.envelope, messages.c.body)
                .where(messages.c.seq.in_(taken))
                .order_by(messages.c.seq)
            )
            return [LocalMessage(*row) for row in rows]

    @retried
    def acknowledge(self, token: int) -> int:
        """Delete the messages that were taken with this token and not taken by another since; how many."""
        with self.connection() as connection:
            return connection.execute(delete(messages).where(messages.c.token == token)).rowcount

    @retried
    def give_back(self, token: int) -> None:
        """Make the messages that were taken with this token visible at once."""
        with self.connection() as connection:
            connection.execute(
                update(messages).where(messages.c.token == token).values(token=None, visible_at=self.now)
            )

    def queues(self, prefix: str) -> list[str]:
        """The queues that have messages and whose names begin so."""
        rows = select(messages.c.queue).where(
            messages.c.queue >= prefix, messages.c.queue < prefix[:-1] + chr(ord(prefix[-1]) + 1)
        )
        with self.connection() as connection:
            return sorted(connection.execute(rows.distinct()).scalars())

    def depth(self, queue: str) -> int:
        """How many messages wait or are being ingested."""
        with self.connection() as connection:
            return connection.execute(select(func.count()).where(messages.c.queue == queue)).scalar_one()
