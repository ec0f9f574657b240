"""RabbitMQ, or any AMQP 0-9-1 broker, as a source, on pika's SelectConnection.

Promises: what `source.py` promises. The I/O thread lives in `run`, one `AmqpSession` after another; the ingest
thread takes all that has arrived when it becomes free, so that batches grow with the load. A connection that is
lost twice with no ack between fetches one message at a time until as many as the prefetch got through: if a
message is what breaks it, a quorum queue counts the deliveries against that one and not against the hundreds that
are fetched with it.
Does not promise bounds on a single message: a body over `max_message_bytes` is handed over whole, and memory is
bounded by `prefetch`.
"""

import logging
import threading
import time
from collections.abc import Callable
from random import Random

from bridge.config.model import AmqpSourceSection, Broker
from bridge.sources import connect
from bridge.sources.amqp_message import amqp_message
from bridge.sources.amqp_session import AmqpSession, Delivery
from bridge.sources.amqp_topology import plan, queue_name
from bridge.sources.source import Batch, Source, SourceStatus

LOG = logging.getLogger("jobbridge.source")
BACKOFF_BASE = 0.2
BACKOFF_CAP = 10.0
ISOLATE_AFTER = 2
"""Losses of a consuming session, with no ack between, after which messages are fetched one by one."""


class Receipt(tuple[AmqpSession, int, int]):
    """Session, first and last delivery tag."""


class AmqpSource(Source):
    def __init__(
        self,
        name: str,
        broker: Broker,
        section: AmqpSourceSection,
        *,
        pod_name: str,
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """:raises ValueError: delivery to every pod, and no exchange."""
        if section.delivery == "every-pod" and not section.exchange:
            raise ValueError(f"source {name}: delivery every-pod needs an exchange")
        self.name = name
        self._broker = broker
        self._section = section
        self._pod_name = pod_name
        self._queue = queue_name(section, pod_name)
        self._random = random or Random()
        self._monotonic = monotonic
        self._room = threading.Condition()
        self._session: AmqpSession | None = None
        self._paused: str | None = None
        self._attached = False
        self._detail = "not connected yet"
        self._failures = 0
        self._losses = 0
        self._isolated = False
        self._closing = threading.Event()

    def run(self) -> None:
        while not self._closing.is_set():
            session: AmqpSession | None = None
            try:
                parameters = connect.amqp_parameters(self._broker)
                session = self._begin()
                why = session.run(parameters)
            except (OSError, ValueError) as error:
                why = error
            self._closing.wait(self._over(session, why))

    def receive(self, timeout: float) -> Batch | None:
        bounds = self._section.batch
        deadline = self._monotonic() + timeout
        with self._room:
            if not self._wait(lambda: bool(self._inbox()), deadline):
                return None
            if bounds.linger:
                self._wait(lambda: len(self._inbox()) >= bounds.max, self._monotonic() + bounds.linger)
            session = self._session
            if session is None or not session.inbox:
                return None
            taken = session.inbox[: self._fitting(session.inbox)]
            del session.inbox[: len(taken)]
        receipt = Receipt((session, int(taken[0][0].delivery_tag), int(taken[-1][0].delivery_tag)))
        return Batch([amqp_message(*delivery) for delivery in taken], receipt)

    def ack(self, batch: Batch) -> None:
        if not isinstance(batch.receipt, Receipt):
            raise TypeError("a batch of another source")
        session, first, last = batch.receipt
        with self._room:
            if session is self._session and not session.ended:
                session.ack(first, last)
            else:
                self.acks_dropped += 1

    def pause(self, reason: str) -> None:
        self._set_paused(reason)

    def resume(self) -> None:
        self._set_paused(None)

    def drained(self) -> bool:
        with self._room:
            return self._session is None or self._session.quiet

    def close(self) -> None:
        with self._room:
            self._closing.set()
            if self._session is not None:
                self._session.close()
            self._room.notify_all()

    def status(self) -> SourceStatus:
        with self._room:
            lag = self._session.depth if self._session is not None else None
            return SourceStatus(self._attached, "" if self._attached else self._detail, self._paused, lag)

    def beat(self) -> None:
        with self._room:
            if self._session is not None and not self._session.ended:
                self._session.ask_depth()

    def _begin(self) -> AmqpSession:
        with self._room:
            self._session = AmqpSession(
                plan(self._section, self._pod_name),
                self._queue,
                self._section.prefetch,
                isolated=self._isolated,
                paused=self._paused is not None,
                room=self._room,
                on_attached=self._on_attached,
            )
            if self._closing.is_set():
                self._session.close()
            return self._session

    def _on_attached(self, session: AmqpSession) -> None:
        with self._room:
            first, self._attached, self._detail, self._failures = not self._attached, True, "", 0
        if first:
            LOG.info("source %s: attached to %s, queue %s", self.name, connect.describe(self._broker), self._queue)

    def _over(self, session: AmqpSession | None, why: BaseException) -> float:
        """Note the end of a session, None if none could begin; the seconds to wait before the next."""
        detail = f"{connect.describe(self._broker)}: {connect.one_line(why, self._broker)}"
        with self._room:
            self._session = None
            self._failures += 1
            self.reconnects += not self._closing.is_set()
            if session is not None:
                self._losses = (0 if session.acks else self._losses) + session.consumed
                self._isolated = session.isolated or self._losses >= ISOLATE_AFTER
            new = (self._attached, self._detail) != (False, detail)
            self._attached, self._detail = False, detail
            tries = max(self._failures, self._losses)
        if self._closing.is_set():
            LOG.info("source %s: closed", self.name)
        elif new:
            LOG.warning("source %s: not attached: %s", self.name, detail)
        return self._random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2 ** min(tries, 10)))

    def _set_paused(self, reason: str | None) -> None:
        with self._room:
            self._paused = reason
            if self._session is not None:
                self._session.pause(reason is not None)

    def _inbox(self) -> list[Delivery]:
        return self._session.inbox if self._session is not None else []

    def _wait(self, ready: Callable[[], bool], deadline: float) -> bool:
        while not ready():
            left = deadline - self._monotonic()
            if left <= 0 or self._closing.is_set():
                return False
            self._room.wait(left)
        return True

    def _fitting(self, inbox: list[Delivery]) -> int:
        """How many of the oldest are within the batch's bounds; at least one."""
        bounds, total = self._section.batch, 0
        for count, delivery in enumerate(inbox[: bounds.max]):
            total += len(delivery[2])
            if total > bounds.max_bytes and count:
                return count
        return min(len(inbox), bounds.max)
