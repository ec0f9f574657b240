"""What pika delivered, as a `Message`.

Promises never to raise: a header of any AMQP type becomes bytes, and what pika could not decode becomes
`Message.undecodable`, its table's bytes kept under the name `jobbridge-undecodable`.
"""

import json
from datetime import datetime

import pika

from bridge.message import Message, text
from bridge.sources.pika_patch import MARKER, Undecodable


class _Unreadable(Exception):
    """args: the `Undecodable`."""


def amqp_message(method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> Message:
    table = properties.headers
    headers: tuple[tuple[str, bytes], ...] = ()
    undecodable = None
    if table:
        try:
            headers = tuple(
                [
                    (name, value.encode()) if type(value) is str and type(name) is str else _header(name, value)
                    for name, value in table.items()
                ]
            )
        except Exception as error:
            headers, undecodable = _unreadable(error)
    correlation, message_id = properties.correlation_id, properties.message_id
    return Message(
        body,
        headers,
        correlation.encode() if type(correlation) is str else correlation,
        message_id.encode() if type(message_id) is str else message_id,
        None,
        _text(method.routing_key),
        None,
        _text(properties.type),
        _text(properties.content_type),
        _text(properties.content_encoding),
        "",
        undecodable,
        None if properties.expiration is None else _seconds(properties.expiration),
    )


def _seconds(milliseconds: str | bytes) -> float | None:
    plain = len(milliseconds) < 15 and milliseconds.isascii() and milliseconds.isdigit()
    return int(milliseconds) / 1000 if plain else None


def _text(value: str | bytes | None) -> str | None:
    return text(value) if isinstance(value, bytes) else value


def _header(name: str | bytes, value: object) -> tuple[str, bytes]:
    if isinstance(value, Undecodable):
        raise _Unreadable(value)
    plain = _plain(value)
    if isinstance(value, bytes):
        raw = value
    elif value is None:
        raw = b""
    elif isinstance(plain, str):
        raw = plain.encode("utf-8", "surrogateescape")
    else:
        raw = json.dumps(plain, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return name if isinstance(name, str) else text(name), raw


def _plain(value: object) -> object:
    """The value in JSON's types; loops instead of comprehensions, for depth."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, dict):
        table: dict[str, object] = {}
        for name, inner in value.items():
            table[name if isinstance(name, str) else text(bytes(name))] = _plain(inner)
        return table
    if isinstance(value, list):
        array: list[object] = []
        for inner in value:
            array.append(_plain(inner))
        return array
    if isinstance(value, Undecodable):
        raise _Unreadable(value)
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _unreadable(error: Exception) -> tuple[tuple[tuple[str, bytes], ...], str]:
    if isinstance(error, _Unreadable):
        undecodable: Undecodable = error.args[0]
        return ((MARKER, undecodable.raw),), undecodable.reason
    return (), f"headers: {type(error).__name__}: {error}"
