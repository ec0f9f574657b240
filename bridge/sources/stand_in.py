"""A local queue in the place of a broker's source, for tests: it hands out what that source would.

Promises: a record's headers become its IDs and its type as on Kafka; what has no stable place on AMQP has none here.
It never waits.
"""

import warnings
from collections.abc import Callable

from bridge.config.model import AmqpSourceSection, AnySource, KafkaSourceSection, LocalSourceSection
from bridge.message import Message
from bridge.sources.local import LocalSource
from bridge.sources.source import Batch
from scheduler.storage import Storage


class StandIn(LocalSource):
    """A queue in the store, under the name of the source."""

    def __init__(self, name: str, section: AnySource, storage: Storage, monotonic: Callable[[], float]) -> None:
        super().__init__(name, queue_of(name, section), storage, monotonic=monotonic)
        self._original = section
        if isinstance(section, KafkaSourceSection):
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of kafka-python's own import
                import kafka.consumer.fetcher  # noqa: F401

    def receive(self, timeout: float) -> Batch | None:
        batch = super().receive(0.0)
        return batch and batch._replace(messages=[delivered(one, self._original) for one in batch.messages])


def delivered(message: Message, section: AnySource) -> Message:
    """The message as this source would hand it over."""
    if isinstance(section, AmqpSourceSection):
        routing_key = section.queue if message.routing_key is None else message.routing_key
        return message._replace(coordinates="", key=None, routing_key=routing_key)
    return _consumed(message, section) if isinstance(section, KafkaSourceSection) else message


def queue_of(name: str, section: AnySource) -> LocalSourceSection:
    """The section of a source's stand-in."""
    return LocalSourceSection(
        queue=name,
        batch=section.batch.model_copy(update={"linger": 0.0}),
        max_message_bytes=section.max_message_bytes,
        otherwise=section.otherwise,
    )


def _consumed(message: Message, section: KafkaSourceSection) -> Message:
    # A program without Kafka loads no Kafka client.
    from kafka.consumer.fetcher import ConsumerRecord

    from bridge.sources.kafka_message import kafka_headers, kafka_message

    offset = int(message.coordinates.rpartition("/")[2] or 0)
    headers = kafka_headers(message)
    record = ConsumerRecord(
        message.topic or section.topic[0], 0, None, offset, 0, 0, message.key, message.body, headers, None, -1, -1, -1
    )
    return kafka_message(record)
