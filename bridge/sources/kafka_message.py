"""A Kafka record as a `Message`, and what of a message a record's headers hold.

Promises never to raise: a record that could not be decoded has its coordinates, the reason, and its body if that
could be read.
"""

from kafka.consumer.fetcher import ConsumerRecord

from bridge.message import Message, text
from bridge.sources.kafka_patch import MARKER, Undecodable

CORRELATION = ("correlation_id", "correlation-id", "ce_correlationid")
MESSAGE_ID = ("message_id", "message-id", "ce_id")
CONTENT_TYPE = ("content-type", "content_type")
CONTENT_ENCODING = ("content-encoding", "content_encoding")

Headers = tuple[tuple[str, bytes], ...]


def kafka_message(record: ConsumerRecord | Undecodable) -> Message:
    if isinstance(record, Undecodable):
        topic, partition = record.partition
        return _undecodable(topic, partition, record.offset, b"", str(record))
    headers: Headers = ()
    correlation = message_id = kind = content_type = content_encoding = None
    if record.headers:
        if record.headers[0][0] is MARKER:
            reason = text(record.headers[0][1])
            return _undecodable(record.topic, record.partition, record.offset, record.value, reason)
        headers = tuple([(name, value or b"") for name, value in record.headers])
        named = dict(reversed(headers))
        correlation, message_id = _first(named, CORRELATION), _first(named, MESSAGE_ID)
        kind, content_type = _first(named, ("type",)), _first(named, CONTENT_TYPE)
        content_encoding = _first(named, CONTENT_ENCODING)
    return Message(
        record.value or b"",
        headers,
        correlation,
        message_id,
        record.key,
        None,
        record.topic,
        None if kind is None else text(kind),
        None if content_type is None else text(content_type),
        None if content_encoding is None else text(content_encoding),
        f"{record.topic}/{record.partition}/{record.offset}",
    )


def kafka_headers(message: Message) -> list[tuple[str, bytes]]:
    """What a record tells beside its key and value."""
    named = {
        "correlation_id": message.correlation,
        "message_id": message.message_id,
        "type": None if message.type is None else message.type.encode(),
        "content-type": None if message.content_type is None else message.content_type.encode(),
    }
    return [*message.headers, *((name, value) for name, value in named.items() if value is not None)]


def _undecodable(topic: str, partition: int, offset: int, body: bytes, reason: str) -> Message:
    return Message(body, topic=topic, coordinates=f"{topic}/{partition}/{offset}", undecodable=reason)


def _first(named: dict[str, bytes], names: tuple[str, ...]) -> bytes | None:
    for name in names:
        if name in named:
            return named[name]
    return None
