"""One desk for each kind of source: where a conformance test publishes, and opens sources on what it published.

A new kind joins by a subclass here and an entry in the fixture of `test_sources.py`.
"""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from random import Random

from bridge.config.model import AmqpSourceSection, BatchBounds, Broker, KafkaSourceSection, LocalSourceSection
from bridge.message import Message
from bridge.publish import publish_amqp, publish_kafka
from bridge.sources.amqp import AmqpSource
from bridge.sources.kafka import KafkaSource
from bridge.sources.local import LocalSource, publish_local
from bridge.sources.source import Source
from scheduler.storage import open_storage
from tests.servers.processes import wait_until

PATIENCE = 20.0


class Desk(ABC):
    """A queue or topic of one test, empty at first."""

    acks_in_any_order = True
    """A later batch can be acked for good before an earlier one."""

    @abstractmethod
    def publish(self, messages: list[Message]) -> None: ...

    @abstractmethod
    def open(self, batch: BatchBounds | None = None) -> Source:
        """A source, not running."""

    @contextlib.contextmanager
    def running(self, batch: BatchBounds | None = None) -> Iterator[Source]:
        """A source that runs and is attached; closed at the end, whatever is unacked then."""
        source = self.open(batch)
        thread = threading.Thread(target=source.run)
        thread.start()
        try:
            assert wait_until(lambda: source.status().attached, PATIENCE), source.status()
            yield source
        finally:
            source.close()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "run did not return after close"


class AmqpDesk(Desk):
    def __init__(self, url: str, queue: str, queue_type: str) -> None:
        self.broker = Broker(url=url)
        self.section = AmqpSourceSection.model_validate(
            {"broker": "rabbit", "queue": queue, "queue_type": queue_type, "prefetch": 200}
        )

    def publish(self, messages: list[Message]) -> None:
        publish_amqp(self.broker, self.section, messages)

    def open(self, batch: BatchBounds | None = None) -> AmqpSource:
        section = self.section.model_copy(update={"batch": batch or BatchBounds()})
        return AmqpSource("conformance", self.broker, section, pod_name="pod", random=Random(1))


class KafkaDesk(Desk):
    acks_in_any_order = False

    def __init__(self, url: str, topic: str) -> None:
        self.broker = Broker(url=url)
        self.section = KafkaSourceSection.model_validate(
            {"broker": "events", "topic": topic, "group": topic, "partitions": 1}
        )

    def publish(self, messages: list[Message]) -> None:
        publish_kafka(self.broker, self.section, messages)

    def open(self, batch: BatchBounds | None = None) -> KafkaSource:
        section = self.section.model_copy(update={"batch": batch or BatchBounds()})
        return KafkaSource("conformance", self.broker, section, pod_name="pod", random=Random(1), session_timeout=6)


class LocalDesk(Desk):
    def __init__(self, url: str, queue: str) -> None:
        self.storage = open_storage(url)
        self.storage.migrate()
        self.section = LocalSourceSection(queue=queue)

    def publish(self, messages: list[Message]) -> None:
        publish_local(self.storage, self.section, messages)

    def open(self, batch: BatchBounds | None = None) -> LocalSource:
        section = self.section.model_copy(update={"batch": batch or BatchBounds()})
        return LocalSource("conformance", section, self.storage, random=Random(threading.get_ident()))


def numbered(count: int, first: int = 0, routing_key: str | None = None) -> list[Message]:
    """Messages whose body and correlation ID tell them apart."""
    common = Message(b"", routing_key=routing_key, type="order.placed")
    return [
        common._replace(
            body=b'{"id": %d}' % number, headers=(("number", b"%d" % number),), correlation=b"order-%d" % number
        )
        for number in range(first, first + count)
    ]


def receive(source: Source, count: int, *, ack: bool = True, seconds: float = PATIENCE) -> list[Message]:
    """At least so many messages, or all that came in time."""
    messages: list[Message] = []
    deadline = time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < deadline:
        batch = source.receive(0.2)
        if batch is not None:
            messages += batch.messages
            if ack:
                source.ack(batch)
    return messages


def finish(source: Source) -> None:
    """Wait until every ack is sent."""
    assert wait_until(source.drained, PATIENCE), "the source was not drained"


def bodies(messages: list[Message]) -> list[bytes]:
    return [message.body for message in messages]
