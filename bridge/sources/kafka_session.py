"""One consumer of a Kafka source, from its topics' look-up to its end. All but `Listener` runs on the poll thread.

Promises: `poll` is called in time whatever the ingest thread does; what is acked is committed to the group within
20 ms, and nothing of a partition that is not ours. Since the client never tells that the broker is gone, a probe
asks it whenever nothing arrived for a while.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from bridge.config.model import Broker, KafkaSourceSection
from bridge.sources import connect, kafka_patch
from bridge.sources.connect import Explained
from bridge.sources.kafka_patch import Undecodable
from bridge.sources.kafka_progress import Progress
from bridge.sources.kafka_topics import ensure_topics, pattern_of

ASSIGNORS = {
    "cooperative-sticky": CooperativeStickyAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
}
BATCHES_IN_FLIGHT = 4
FULL_PATIENCE = 0.5
"""Seconds without a poll while all that may be in flight is; then polls go on without records."""
BUSY_POLL_MS = 20
IDLE_POLL_MS = 1_000
"""A poll ends when records come, and by nothing else: so long may a pause or a close wait (acks are busy polls)."""
FETCH_WAIT_MS = 2_000
"""So long the broker holds a fetch without records. With half of both an idle source costs four times the CPU."""
PROBE_EVERY = 3.0
PROBE_PATIENCE_MS = 2_000
METADATA_AGE_MS = 10_000
"""So long a topic that came to match the pattern, or was made a moment before we joined, may go unseen."""
UNSTABLE_PATIENCE = 30.0
"""Seconds that a rebalance may take before the source counts as not attached."""
REBUILD_AFTER = 60.0
"""Seconds without a broker after which the consumer is built anew, with certificate files read anew."""
NOT_NOW = (CommitFailedError, RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError, RetriableError)


class Listener:
    """kafka-python calls this on its own I/O thread, while ours is inside `poll` or `close`: it may neither wait
    nor raise, or the whole group never rebalances."""

    def __init__(self, progress: Progress, consumer: KafkaConsumer, paused: Callable[[], bool]) -> None:
        self._progress = progress
        self._consumer = consumer
        self._paused = paused

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        self._progress.assigned(assigned)
        if self._paused():
            self._consumer.pause(*assigned)  # or this very poll brings their records

    def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        offsets = self._progress.forget(revoked)
        if offsets:
            try:
                self._consumer.commit_async(_offsets(offsets))
            except KafkaError:
                return  # the next owner reads them again

    def on_partitions_lost(self, lost: list[TopicPartition]) -> None:
        self._progress.forget(lost)


ConsumerRebalanceListener.register(Listener)


class KafkaSession:
    def __init__(
        self,
        broker: Broker,
        section: KafkaSourceSection,
        *,
        session_timeout: float,
        room: threading.Condition,
        monotonic: Callable[[], float],
        on_state: Callable[[str | None], None],
    ) -> None:
        self.progress = Progress(room)
        self.paused = False
        self.stopped = False
        """The consumer itself is paused: nothing more is read."""
        self.beat_due = False
        self.lag: int | None = None
        """Records of our partitions that are not read yet, as of the last beat."""
        self._broker = broker
        self._section = section
        self._session_timeout = session_timeout
        self._room = room
        self._monotonic = monotonic
        self._on_state = on_state
        """Told None: attached; else why not."""
        self._shared = section.delivery == "shared"
        self._partitions: list[TopicPartition] = []
        self._heard = self._stable = self._reachable = monotonic()
        self._attached = False

    def run(self, closing: threading.Event) -> None:
        """Until `closing`. :raises KafkaError, Explained, OSError, ValueError: start another one later."""
        topics = ensure_topics(self._broker, self._section)
        consumer = kafka_patch.build(KafkaConsumer, self._settings())
        try:
            self._subscribe(consumer, topics)
            while not closing.is_set():
                self._step(consumer)
            self._commit(consumer)
        finally:
            consumer.close(autocommit=False, timeout_ms=2_000)

    def quiet(self) -> bool:
        """Call with `room` held."""
        return self.progress.quiet() and (self.stopped or not self.paused)

    def _settings(self) -> dict[str, object]:
        section, timeout_ms = self._section, int(self._session_timeout * 1000)
        return connect.kafka_settings(self._broker) | {
            "group_id": section.group,
            "enable_auto_commit": False,
            "auto_offset_reset": section.auto_offset_reset,
            "allow_auto_create_topics": False,
            "isolation_level": "read_committed",
            "max_poll_records": section.batch.max,
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "fetch_max_bytes": 16 * 1024**2,
            "reconnect_backoff_max_ms": 2_000,
            "metadata_max_age_ms": METADATA_AGE_MS,
            "session_timeout_ms": timeout_ms,
            "heartbeat_interval_ms": timeout_ms // 5,
            "partition_assignment_strategy": [ASSIGNORS[section.assignor]],
        }

    def _subscribe(self, consumer: KafkaConsumer, topics: Mapping[str, int]) -> None:
        self._partitions = [TopicPartition(topic, number) for topic in topics for number in range(topics[topic])]
        if not self._shared:
            self.progress.assigned(self._partitions)
            consumer.assign(self._partitions)
            return
        pattern, listener = pattern_of(self._section), Listener(self.progress, consumer, lambda: self.paused)
        if pattern is None:
            consumer.subscribe(topics=list(topics), listener=listener)
        else:
            consumer.subscribe(pattern=pattern, listener=listener)

    def _step(self, consumer: KafkaConsumer) -> None:
        self._regulate(consumer, full=not self._has_room())
        progress = self.progress
        busy = progress.in_flight or not progress.quiet()
        try:
            polled = consumer.poll(timeout_ms=BUSY_POLL_MS if busy else IDLE_POLL_MS)
        except Undecodable as bad:
            progress.read([(bad.partition, [bad])])
            if bad.partition in consumer.assignment():
                consumer.seek(bad.partition, bad.offset + 1)
            polled = {}
        if polled:
            self._heard = self._monotonic()
            progress.read(polled.items())
        self._commit(consumer)
        self._watch(consumer)
        if self.beat_due and self._attached:
            self.beat_due = False
            try:
                self._beat(consumer)
            except RetriableError:
                self.beat_due = True

    def _has_room(self) -> bool:
        """Whether less is in flight than may be; waits for it, since no ack ends a poll."""
        most = BATCHES_IN_FLIGHT * self._section.batch.max
        with self._room:
            return self._room.wait_for(lambda: self.paused or self.progress.in_flight < most, FULL_PATIENCE)

    def _regulate(self, consumer: KafkaConsumer, *, full: bool) -> None:
        assigned, held = consumer.assignment(), consumer.paused()
        wanted = set(assigned) if self.paused or full else set()
        if wanted != held:
            consumer.pause(*(wanted - held))
            consumer.resume(*(held - wanted))
        self.stopped = self.paused

    def _commit(self, consumer: KafkaConsumer) -> None:
        offsets = self.progress.unsent()
        if not offsets:
            return
        failed: dict[TopicPartition, int] | None = offsets
        try:
            consumer.commit(_offsets(offsets), timeout_ms=5_000)
            failed = None
        except NOT_NOW:
            pass
        finally:
            self.progress.sent(failed)

    def _watch(self, consumer: KafkaConsumer) -> None:
        """Whether the broker answers and the group has us."""
        now = self._monotonic()
        if not self._shared or consumer.group_metadata().state == MemberState.STABLE:
            self._stable = now
        unstable, reason = now - self._stable, None
        if unstable > (UNSTABLE_PATIENCE if self._attached else 0):
            reason = f"the group {self._section.group!r} rebalances and has not let us in yet"
        if now - self._heard >= PROBE_EVERY:
            try:
                consumer.end_offsets(sorted(consumer.assignment()) or self._partitions[:1], PROBE_PATIENCE_MS)
                self._heard = self._monotonic()
            except KafkaError as error:
                reason = f"the broker does not answer: {connect.one_line(error, self._broker)}"
        if reason is None:
            self._reachable = self._monotonic()
        elif self._monotonic() - self._reachable > REBUILD_AFTER:
            raise Explained(reason)
        self._attached = reason is None
        self._on_state(reason)

    def _beat(self, consumer: KafkaConsumer) -> None:
        """How far we are; in delivery to every pod the group's offset may be behind ours, and partitions may be new."""
        with contextlib.suppress(KafkaError):  # a partition that is being taken away has no position
            ends = consumer.end_offsets(sorted(consumer.assignment()), PROBE_PATIENCE_MS)
            read = {one: consumer.position(one, timeout_ms=PROBE_PATIENCE_MS) or 0 for one in ends}
            self.lag = sum(max(0, end - read[one]) for one, end in ends.items())
        if self._shared:
            return
        committed = {partition: consumer.committed(partition, timeout_ms=2_000) for partition in self.progress.owned()}
        self.progress.tell_again({partition: offset for partition, offset in committed.items() if offset is not None})
        topics = ensure_topics(self._broker, self._section)
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(topics[topic])]
        if set(partitions) != set(self._partitions):
            self.progress.forget(set(self._partitions) - set(partitions))
            self.progress.assigned(partitions)
            consumer.assign(partitions)
            self._partitions = partitions


def _offsets(offsets: dict[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
