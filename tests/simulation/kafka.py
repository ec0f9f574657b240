"""A Kafka in memory, and the product's Kafka source on it.

The source, its session and its progress are the product's; kafka-python's consumer is replaced. A group moves
partitions one by one: first their owner gives them up inside its poll, then another gets them, each at the group's
offset. A member that is silent too long is put out, and learns it by its next poll or commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka.errors import KafkaError, KafkaTimeoutError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from bridge.sources.connect import Explained
from bridge.sources.kafka import KafkaSource
from bridge.sources.kafka_session import IDLE_POLL_MS
from tests.simulation.source import NeverWaits
from tests.simulation.traffic import Published

if TYPE_CHECKING:
    from tests.simulation.pods import SimPod

PARTITIONS = 3


class Record(NamedTuple):
    """What kafka-python calls a ConsumerRecord."""

    topic: str
    partition: int
    offset: int
    headers: list[tuple[str, bytes]]
    value: bytes
    key: bytes | None = None


class Metadata(NamedTuple):
    state: str


class Group:
    """Who is in it, who is to have what, and how far it is."""

    def __init__(self, topic: str, random: Random) -> None:
        self.partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self.committed: dict[TopicPartition, int] = {}
        self.members: list[Consumer] = []
        self.wanted: dict[TopicPartition, Consumer] = {}
        self._random = random

    def join(self, consumer: Consumer) -> None:
        self.members.append(consumer)
        self.balance()

    def leave(self, consumer: Consumer) -> None:
        if consumer in self.members:
            self.members.remove(consumer)
            self.balance()

    def balance(self) -> None:
        """Decide anew who is to have what."""
        shuffled = self._random.sample(self.members, len(self.members))
        self.wanted = {}
        for number, partition in enumerate(self._random.sample(self.partitions, len(self.partitions))):
            if shuffled:
                self.wanted[partition] = shuffled[number % len(shuffled)]

    def is_free(self, partition: TopicPartition) -> bool:
        return not any(partition in member.owned for member in self.members)

    def is_settled(self, member: Consumer) -> bool:
        return member.owned == {partition for partition, owner in self.wanted.items() if owner is member}


class KafkaCluster:
    """Topics with their logs, and one group for each."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.logs: dict[TopicPartition, list[Published]] = {}
        self.groups: dict[str, Group] = {}
        self.consumers: list[Consumer] = []
        self.is_down = False

    def group(self, topic: str) -> Group:
        if topic not in self.groups:
            self.groups[topic] = Group(topic, self._random)
            self.logs |= {partition: [] for partition in self.groups[topic].partitions}
        return self.groups[topic]

    def publish(self, topic: str, published: Published) -> None:
        self.logs[self._random.choice(self.group(topic).partitions)].append(published)

    def put_out_silent(self, now: float, patience: float) -> int:
        """Members that have not polled for so long; how many."""
        gone = 0
        for group in self.groups.values():
            for member in list(group.members):
                if now - member.polled > patience:
                    group.leave(member)
                    gone += 1
        return gone

    def lag(self) -> int:
        """Records above the groups' offsets."""
        return sum(
            len(self.logs[partition]) - group.committed.get(partition, 0)
            for group in self.groups.values()
            for partition in group.partitions
        )


class Consumer:
    """What the product's session uses of a KafkaConsumer."""

    def __init__(self, cluster: KafkaCluster, topic: str, pod: SimPod, random: Random) -> None:
        self.cluster = cluster
        self.pod = pod
        self.group = cluster.group(topic)
        self.owned: set[TopicPartition] = set()
        self.polled = pod.world.now
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._listener: Any = None
        self._random = random

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._gain(partition)

    def subscribe(self, *, topics: list[str], listener: Any) -> None:
        self._listener = listener
        self.group.join(self)

    def assignment(self) -> set[TopicPartition]:
        return set(self.owned)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused -= set(partitions)

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        if self.cluster.is_down:
            return {}
        self.polled = self.pod.world.now
        if self._listener is not None:
            self._rebalance()
        polled: dict[TopicPartition, list[Record]] = {}
        for partition in sorted(self.owned - self._paused):
            position = self._positions[partition]
            fresh = self.cluster.logs[partition][position : position + self._random.randint(1, 20)]
            if fresh:
                polled[partition] = [
                    _record(partition, position + number, published) for number, published in enumerate(fresh)
                ]
                self._positions[partition] = position + len(fresh)
        return polled

    def has_more(self) -> bool:
        """Whether the next poll brings something."""
        if self.cluster.is_down:
            return False
        if self._listener is not None and (self not in self.group.members or any(self._moves())):
            return True
        return any(self._positions[one] < len(self.cluster.logs[one]) for one in self.owned - self._paused)

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int = 0) -> None:
        pod = self.pod
        pod.ack_point("before")
        if self.cluster.is_down:
            raise KafkaTimeoutError("no broker")
        self._check_member()
        if pod.loses_ack():
            raise KafkaTimeoutError("the request was lost")
        self._take(offsets)
        pod.ack_point("after")
        if pod.loses_ack():
            raise KafkaTimeoutError("the reply was lost")

    def commit_async(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if not self.cluster.is_down and not self.pod.loses_ack():
            self._take(offsets)

    def committed(self, partition: TopicPartition, timeout_ms: int) -> int | None:
        if self.cluster.is_down:
            raise KafkaTimeoutError("no broker")
        return self.group.committed.get(partition)

    def end_offsets(self, partitions: Iterable[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        if self.cluster.is_down:
            raise KafkaTimeoutError("no broker")
        self.polled = self.pod.world.now
        return {partition: len(self.cluster.logs[partition]) for partition in partitions}

    def position(self, partition: TopicPartition, timeout_ms: int) -> int:
        return self._positions[partition]

    def group_metadata(self) -> Metadata:
        is_in = self in self.group.members
        return Metadata(MemberState.STABLE if is_in and self.group.is_settled(self) else MemberState.REBALANCING)

    def close(self, **_: object) -> None:
        self.group.leave(self)
        self.owned.clear()

    def _gain(self, partition: TopicPartition) -> None:
        self.owned.add(partition)
        self._positions[partition] = self.group.committed.get(partition, 0)

    def _rebalance(self) -> None:
        group = self.group
        if self not in group.members:
            lost = sorted(self.owned)
            self.owned.clear()
            self._listener.on_partitions_lost(lost)
            group.join(self)
            return
        revoked, _ = self._moves()
        if revoked:
            self._listener.on_partitions_revoked(revoked)
            self.owned -= set(revoked)
            self._paused -= set(revoked)
        _, gained = self._moves()
        if gained:
            for partition in gained:
                self._gain(partition)
            self._listener.on_partitions_assigned(gained)

    def _moves(self) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """The partitions to give up, and those to get that are free by now."""
        wanted = self.group.wanted
        return (
            sorted(partition for partition in self.owned if wanted.get(partition) is not self),
            [one for one in self.group.partitions if wanted.get(one) is self and self.group.is_free(one)],
        )

    def _check_member(self) -> None:
        if self._listener is None:
            return
        if self not in self.group.members:
            raise UnknownMemberIdError("put out")
        if not self.group.is_settled(self) and self._random.random() < 0.5:
            raise RebalanceInProgressError("it rebalances")

    def _take(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        checker = self.pod.world.checker
        for partition, given in offsets.items():
            if partition not in self.owned:
                checker.violated("I1", f"{self.pod.label} committed {partition}, which is not its own")
            before = self.group.committed.get(partition, 0)
            for published in self.cluster.logs[partition][before : given.offset]:
                checker.acked(published, self.pod.label)
            self.group.committed[partition] = given.offset


def _record(partition: TopicPartition, offset: int, published: Published) -> Record:
    published.delivered += 1
    headers = [] if published.correlation is None else [("correlation_id", published.correlation.encode())]
    headers += [(name, value.encode()) for name, value in published.headers.items()]
    return Record(partition.topic, partition.partition, offset, headers, published.body)


class SimKafkaSource(NeverWaits, KafkaSource):
    """The product's source; its I/O thread is `io_step`."""

    def __init__(self, *args: Any, pod: SimPod, cluster: KafkaCluster, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._pod = pod
        self._cluster = cluster
        self._consumer: Consumer | None = None

    def arrived(self) -> bool:
        return self._session is not None and self._session.progress.waiting() > 0

    def io_wakes(self) -> bool:
        consumer, session = self._consumer, self._session
        if consumer is None or session is None:
            return False
        return consumer.has_more() or bool(session.progress._unsent) or self._closing.is_set()

    def io_step(self) -> float:
        topic = self._section.topic[0]
        session = self._session
        if session is None and self._closing.is_set():
            return float("inf")
        try:
            if session is None or self._consumer is None:
                session = self._begin()
                self._consumer = Consumer(self._cluster, topic, self._pod, self._random)
                session._subscribe(self._consumer, {topic: PARTITIONS})
            if self._closing.is_set():
                session._commit(self._consumer)
                raise Explained("the source is closed")
            session._step(self._consumer)
        except (KafkaError, Explained, OSError, ValueError):
            return self._ended()
        return IDLE_POLL_MS / 1000  # where a poll is a busy one, `io_wakes` tells when it would bring or send something

    def _ended(self) -> float:
        if self._consumer is not None:
            self._consumer.close()
        with self._room:
            self._session = self._consumer = None
            self._failures += 1
        return self._random.uniform(0.0, min(10.0, 0.2 * 2 ** min(self._failures, 10)))
