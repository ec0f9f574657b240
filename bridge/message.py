"""A message as every broker's source hands it over before it is routed, and as it is published.

Pure data: no broker's client type reaches past this file.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Message(NamedTuple):
    """One message. All text of its broker is optional; the bytes are as they were received."""

    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    """In the order received; a name may repeat."""
    correlation: bytes | None = None
    """The AMQP correlation_id property, the Kafka correlation header, raw; None or empty: there was none."""
    message_id: bytes | None = None
    key: bytes | None = None
    """The Kafka record key."""
    routing_key: str | None = None
    topic: str | None = None
    """The Kafka topic."""
    type: str | None = None
    """The AMQP type property, the Kafka header `type`."""
    content_type: str | None = None
    content_encoding: str | None = None
    coordinates: str = ""
    """Where the broker keeps it, if that is stable: `topic/partition/offset` on Kafka, the row's number on the
    local queue, nothing on AMQP."""
    undecodable: str | None = None
    """Why the broker's client could not decode it: such a message is a dead letter."""
    expires: float | None = None
    """Seconds after which nobody wants it any more: AMQP's expiration property."""


def written(
    body: bytes,
    headers: Iterable[tuple[str, str]] = (),
    *,
    correlation_id: str | None = None,
    message_id: str | None = None,
    key: str | None = None,
    routing_key: str | None = None,
    topic: str | None = None,
    type: str | None = None,
    content_type: str | None = None,
) -> Message:
    """A message that people wrote; bytes that are not UTF-8 are lone surrogates in its texts, as Python reads them."""
    pairs = tuple((name, octets(value) or b"") for name, value in headers)
    ids = octets(correlation_id), octets(message_id), octets(key)
    return Message(body, pairs, *ids, routing_key, topic, type, content_type)


def octets(text: str | None) -> bytes | None:
    """The bytes of a text that people wrote."""
    return None if text is None else text.encode("utf-8", "surrogateescape")


def text(raw: bytes) -> str:
    """Bytes as text that can always be printed and stored: what is not UTF-8 becomes `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def header_texts(message: Message) -> dict[str, str]:
    """The headers, name to text; the values of a repeated name are joined by a comma and a blank."""
    texts: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in message.headers:
        shown = text(value)
        if name in texts:
            repeated.setdefault(name, [texts[name]]).append(shown)
        else:
            texts[name] = shown
    return texts | {name: ", ".join(values) for name, values in repeated.items()} if repeated else texts
