"""Kafka as a source, on kafka-python: a poll thread owns the consumer, the ingest thread never touches it.

Promises: what `source.py` promises. In `shared` delivery the group shares the partitions out; in `every-pod`
delivery each pod reads all of them, and all commit under the one group: whoever committed an offset has all below it
in the database, so that a pod that starts anew loses nothing, and an offset that goes backwards only replays.
Does not promise order across partitions. A missing topic is waited for, and not created unless asked for.
"""

import logging
import threading
import time
from collections.abc import Callable
from random import Random

from kafka.errors import KafkaError

from bridge.config.model import Broker, KafkaSourceSection
from bridge.sources import connect
from bridge.sources.connect import Explained
from bridge.sources.kafka_message import kafka_message
from bridge.sources.kafka_progress import Handed
from bridge.sources.kafka_session import KafkaSession
from bridge.sources.source import Batch, Source, SourceStatus

LOG = logging.getLogger("jobbridge.source")
BACKOFF_BASE = 0.2
BACKOFF_CAP = 10.0
SESSION_TIMEOUT = 15.0
"""Seconds after which the group gives the partitions of a pod that died to the others."""


class Receipt(tuple[KafkaSession, list[Handed]]):
    """The session, and what of it the batch holds."""


class KafkaSource(Source):
    def __init__(
        self,
        name: str,
        broker: Broker,
        section: KafkaSourceSection,
        *,
        pod_name: str,
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        session_timeout: float = SESSION_TIMEOUT,
    ) -> None:
        self.name = name
        self._broker = broker
        self._section = section
        self._pod_name = pod_name
        self._random = random or Random()
        self._monotonic = monotonic
        self._session_timeout = session_timeout
        self._room = threading.Condition(threading.RLock())
        self._session: KafkaSession | None = None
        self._paused: str | None = None
        self._attached = False
        self._detail = "not connected yet"
        self._failures = 0
        self._closing = threading.Event()

    def run(self) -> None:
        while not self._closing.is_set():
            session = self._begin()
            try:
                session.run(self._closing)
            except (KafkaError, Explained, OSError, ValueError) as error:
                self._tell(connect.one_line(error, self._broker))
            except Exception as error:
                LOG.exception("source %s: the consumer ended by an error of its client or of ours", self.name)
                self._tell(connect.one_line(error, self._broker))
            with self._room:
                self._session = None
                self._failures += 1
                self.reconnects += not self._closing.is_set()
                failures = min(self._failures, 10)
                self._room.notify_all()
            self._closing.wait(self._random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2**failures)))
        self._tell("the source is closed")

    def receive(self, timeout: float) -> Batch | None:
        bounds = self._section.batch
        deadline = self._monotonic() + timeout
        with self._room:
            if not self._wait(1, deadline):
                return None
            if bounds.linger:
                self._wait(bounds.max, self._monotonic() + bounds.linger)
            session = self._session
            if session is None:
                return None
            records, handed = session.progress.take(bounds.max, bounds.max_bytes)
        if not records:
            return None
        return Batch([kafka_message(record) for record in records], Receipt((session, handed)))

    def ack(self, batch: Batch) -> None:
        if not isinstance(batch.receipt, Receipt):
            raise TypeError("a batch of another source")
        session, handed = batch.receipt
        self.acks_dropped += session is not self._session
        session.progress.ack(handed)

    def pause(self, reason: str) -> None:
        self._set_paused(reason)

    def resume(self) -> None:
        self._set_paused(None)

    def drained(self) -> bool:
        with self._room:
            return self._session is None or self._session.quiet()

    def close(self) -> None:
        self._closing.set()
        with self._room:
            self._room.notify_all()

    def status(self) -> SourceStatus:
        with self._room:
            lag = self._session.lag if self._session is not None else None
            return SourceStatus(self._attached, "" if self._attached else self._detail, self._paused, lag)

    def beat(self) -> None:
        with self._room:
            if self._session is not None:
                self._session.beat_due = True

    def _begin(self) -> KafkaSession:
        with self._room:
            self._session = KafkaSession(
                self._broker,
                self._section,
                session_timeout=self._session_timeout,
                room=self._room,
                monotonic=self._monotonic,
                on_state=self._on_state,
            )
            self._session.paused = self._paused is not None
            return self._session

    def _on_state(self, reason: str | None) -> None:
        if reason is not None:
            self._tell(reason)
            return
        with self._room:
            if self._attached:
                return
            self._attached, self._detail, self._failures = True, "", 0
        topics, place = ", ".join(self._section.topic), connect.describe(self._broker)
        LOG.info("source %s: attached to %s, topic %s, group %s", self.name, place, topics, self._section.group)

    def _tell(self, reason: str) -> None:
        """Not attached; logged when that is news."""
        detail = f"{connect.describe(self._broker)}: {reason}"
        with self._room:
            new = self._attached or self._detail != detail
            self._attached, self._detail = False, detail
        if self._closing.is_set():
            LOG.info("source %s: closed", self.name)
        elif new:
            LOG.warning("source %s: not attached: %s", self.name, detail)

    def _set_paused(self, reason: str | None) -> None:
        with self._room:
            self._paused = reason
            if self._session is not None:
                self._session.paused = reason is not None

    def _wait(self, count: int, deadline: float) -> bool:
        """For so many records."""
        while self._session is None or self._session.progress.waiting() < count:
            left = deadline - self._monotonic()
            if left <= 0 or self._closing.is_set():
                return False
            self._room.wait(left)
        return True
