"""All of pika's inside that we touch, in one place; importing this module applies it.

Promises: a header table that pika cannot decode reaches us as `{MARKER: Undecodable}` instead of costing the
connection, and with it the whole queue for ever, since the broker sends the message again after each reconnect
(`tests/unit/test_client_patches.py`, and with a broker `tests/integration/test_amqp.py`). pika's loggers are
silent: a source tells its own state, once for each change.
Does not promise to save what is readable of such a table: its bytes are kept as they came.
"""

from __future__ import annotations

import logging
import struct

import pika
import pika.data
from pika.adapters.select_connection import SelectConnection

MARKER = "jobbridge-undecodable"


class Undecodable:
    """Stands in the place of a header table that pika could not decode. A publisher cannot forge it."""

    __slots__ = ("raw", "reason")

    def __init__(self, reason: str, raw: bytes) -> None:
        self.reason = reason
        self.raw = raw


_decode_table = pika.data.decode_table


def tolerant_decode_table(encoded: bytes, offset: int) -> tuple[dict[str | bytes, object], int]:
    """pika's `decode_table`, but what it raises (RecursionError too) becomes a marker, and the length that the
    table states is what is skipped. Nested tables come through here as well."""
    (size,) = struct.unpack_from(">I", encoded, offset)
    end = offset + 4 + size
    try:
        table, reached = _decode_table(encoded, offset)
        if reached == end:
            return table, end
        reason = f"a header table of {size} bytes ended after {reached - offset - 4}"
    except Exception as error:
        reason = f"header table: {type(error).__name__}: {error}"
    return {MARKER: Undecodable(reason, bytes(encoded[offset:end]))}, end


pika.data.decode_table = tolerant_decode_table
logging.getLogger("pika").setLevel(logging.CRITICAL)


def cancel_keeping_deliveries(channel: pika.channel.Channel, consumer_tag: str, callback: object) -> None:
    """`basic_cancel`, but what is on its way still reaches the consumer.

    pika rejects such messages: they go back to the queue, out of order, and a quorum queue counts a delivery
    against each of them.
    """
    channel.basic_cancel(consumer_tag, callback=callback)
    channel._cancelled.discard(consumer_tag)


def abort(connection: SelectConnection, reason: Exception) -> None:
    """Drop the socket of a connection whose broker no longer answers; its close callback follows."""
    connection._terminate_stream(reason)
