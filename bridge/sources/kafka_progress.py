"""How far each partition of a Kafka session is: read, handed out, committed to the database, committed to the group.

Promises: an offset is given to the group only when all records below it are acked, and never for an assignment that
is over (I1). Every method takes the lock itself.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kafka.structs import TopicPartition

from bridge.sources.kafka_patch import Undecodable


class Assignment:
    """One stretch of time in which a partition is ours. A later one of the same partition is another object."""

    __slots__ = ("outstanding", "partition", "stored")

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.outstanding: deque[Handed] = deque()
        self.stored: int | None = None
        """The next offset after the last record of which it and all before it are acked."""


class Handed:
    """Records of one partition that were handed out together."""

    __slots__ = ("acked", "assignment", "count", "next_offset")

    def __init__(self, assignment: Assignment, count: int, next_offset: int) -> None:
        self.assignment = assignment
        self.count = count
        self.next_offset = next_offset
        self.acked = False


class Read(NamedTuple):
    """Records of one partition that one poll brought."""

    assignment: Assignment
    records: Sequence[object]
    """kafka-python's, each with an `offset`; or one `Undecodable`."""


class Progress:
    def __init__(self, room: threading.Condition) -> None:
        self._room = room
        self._owned: dict[TopicPartition, Assignment] = {}
        self._inbox: deque[Read] = deque()
        self._unsent: dict[TopicPartition, int] = {}
        """Next offsets that the group is to be told."""
        self._sending = False
        self.in_flight = 0
        """Records read and not acked."""

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        with self._room:
            for partition in partitions:
                self._owned.setdefault(partition, Assignment(partition))

    def forget(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The partitions are ours no longer; what of them was not handed out is the next owner's.

        :return: next offsets that could still be told.
        """
        with self._room:
            gone = {partition: self._owned.pop(partition, None) for partition in partitions}
            kept = deque(read for read in self._inbox if gone.get(read.assignment.partition) is not read.assignment)
            self.in_flight -= sum(len(read.records) for read in self._inbox) - sum(len(read.records) for read in kept)
            self._inbox = kept
            return {partition: self._unsent.pop(partition) for partition in gone if partition in self._unsent}

    def owned(self) -> list[TopicPartition]:
        with self._room:
            return list(self._owned)

    def read(self, polled: Iterable[tuple[TopicPartition, Sequence[object]]]) -> None:
        with self._room:
            for partition, records in polled:
                if records and (assignment := self._owned.get(partition)) is not None:
                    self._inbox.append(Read(assignment, records))
                    self.in_flight += len(records)
            self._room.notify_all()

    def waiting(self) -> int:
        """Records to hand out. Call with the lock held."""
        return sum(len(read.records) for read in self._inbox)

    def take(self, most: int, most_bytes: int) -> tuple[list[object], list[Handed]]:
        """The oldest records within the bounds, at least one if there is any, and what acks them."""
        taken: list[object] = []
        handed: list[Handed] = []
        left = most_bytes
        with self._room:
            while self._inbox and len(taken) < most:
                assignment, records = self._inbox.popleft()
                count, left = _fitting(records, most - len(taken), left, first=not taken)
                if count < len(records):
                    self._inbox.appendleft(Read(assignment, records[count:]))
                if count == 0:
                    break
                taken += records[:count]
                handed.append(Handed(assignment, count, _offset(records[count - 1]) + 1))
                assignment.outstanding.append(handed[-1])
        return taken, handed

    def ack(self, handed: Iterable[Handed]) -> None:
        with self._room:
            for part in handed:
                if part.acked:
                    continue
                part.acked = True
                self.in_flight -= part.count
                assignment = part.assignment
                while assignment.outstanding and assignment.outstanding[0].acked:
                    assignment.stored = assignment.outstanding.popleft().next_offset
                if assignment.stored is not None and self._owned.get(assignment.partition) is assignment:
                    self._unsent[assignment.partition] = assignment.stored
            self._room.notify_all()

    def unsent(self) -> dict[TopicPartition, int]:
        """What the group is to be told now; give it back to `sent`."""
        with self._room:
            offsets, self._unsent = self._unsent, {}
            self._sending = bool(offsets)
            return offsets

    def sent(self, failed: dict[TopicPartition, int] | None = None) -> None:
        """The group was told, or, for those given, it was not; they are told later if they are still ours."""
        with self._room:
            still = {partition: offset for partition, offset in (failed or {}).items() if partition in self._owned}
            self._unsent = still | self._unsent
            self._sending = False

    def tell_again(self, committed: dict[TopicPartition, int]) -> None:
        """The group's offsets as they are: where they are behind what is stored here, tell it again."""
        with self._room:
            for partition, assignment in self._owned.items():
                if assignment.stored is not None and committed.get(partition, -1) < assignment.stored:
                    self._unsent.setdefault(partition, assignment.stored)

    def quiet(self) -> bool:
        """Nothing to hand out and nothing to tell. Call with the lock held."""
        return not (self._inbox or self._unsent or self._sending)


def _offset(record: object) -> int:
    offset: int = record.offset if isinstance(record, Undecodable) else getattr(record, "offset")  # noqa: B009
    return offset


def _fitting(records: Sequence[object], most: int, most_bytes: int, *, first: bool) -> tuple[int, int]:
    """How many of them fit, and the bytes left then."""
    for count, record in enumerate(records[:most]):
        size = len(getattr(record, "value", None) or b"")
        if size > most_bytes and not (first and count == 0):
            return count, most_bytes
        most_bytes -= size
    return min(len(records), most), most_bytes
