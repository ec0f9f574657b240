"""All of pika's inside that we touch, in one place; importing this module applies it.

Promises: a header table that pika cannot decode reaches us as `{MARKER: Undecodable}` instead of costing the
connection, and with it the whole queue for ever, since the broker sends the message again after each reconnect
(`tests/unit/test_client_patches.py`, and with a broker `tests/integration/test_amqp.py`). pika's loggers are
silent: a source tells its own state, once for each change.
A delivery that has arrived whole is handed to its consumer at once, decoded by pika's own codecs: 6 us instead of 14,
most of what a message costs this process; all other frames, and all parts of larger ones, go pika's way.
Does not promise to save what is readable of such a table: its bytes are kept as they came.
"""

import logging
import struct

import pika
import pika.data
from pika import spec
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils.io_services_utils import _AsyncTransportBase
from pika.connection import Connection

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


_method = struct.Struct(">BHLI").unpack_from
"""Frame type, channel, size of the payload; class and method."""
_header = struct.Struct(">BHLHHQ").unpack_from
"""Frame type, channel, size of the payload; class, weight, size of the body."""
_body = struct.Struct(">BHL").unpack_from
_HEADER_SIZE = 19
_AROUND = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
_DELIVER = spec.Basic.Deliver.INDEX
LARGEST = 64 * 1024
"""Bytes of a body up to which it waits in the buffer until it is whole."""
RECEIVE = 32 * 1024
"""Bytes that one look at the socket takes, instead of 4096: each look lets go of the GIL and waits for it again."""


def hand_over(connection: Connection, buffer: bytes) -> tuple[int, bool]:
    """Give the deliveries that the buffer begins with to their consumers.

    :return: how many bytes were used, and whether pika must look at the rest: it is no part of a delivery of ours.
    """
    place, end = 0, len(buffer)
    while end - place > spec.FRAME_HEADER_SIZE + 4:
        kind, number, size, method_id = _method(buffer, place)
        channel = connection._channels.get(number)
        if kind != spec.FRAME_METHOD or method_id != _DELIVER or channel is None:
            return place, True
        header = place + size + _AROUND
        if end < header + _HEADER_SIZE:
            return place, False
        kind, of_header, size, _class, _weight, length = _header(buffer, header)
        body = header + size + _AROUND
        after = body + length + _AROUND if length else body
        if kind != spec.FRAME_HEADER or length > LARGEST:
            return place, True
        if end < after:
            return place, False
        if (length and (_body(buffer, body) != (spec.FRAME_BODY, number, length))) or of_header != number:
            return place, True
        if not buffer[header - 1] == buffer[body - 1] == buffer[after - 1] == spec.FRAME_END:
            return place, True
        method = spec.Basic.Deliver.__new__(spec.Basic.Deliver)
        method.decode(buffer, place + spec.FRAME_HEADER_SIZE + 4)
        consumer = channel._consumers.get(method.consumer_tag)
        if consumer is None or method.consumer_tag in channel._cancelled:
            return place, True
        properties = pika.BasicProperties.__new__(pika.BasicProperties)
        properties.decode(buffer, header + _HEADER_SIZE)
        begin = body + spec.FRAME_HEADER_SIZE
        consumer(channel, method, properties, buffer[begin : begin + length])
        place = after
    return place, end > place and buffer[place] != spec.FRAME_METHOD


_on_data_available = Connection._on_data_available


def on_data_available(connection: Connection, data: bytes) -> None:
    buffer = connection._frame_buffer + data
    place, is_for_pika = hand_over(connection, buffer)
    connection._frame_buffer = buffer[place:]
    connection.bytes_received += place
    if is_for_pika:
        _on_data_available(connection, b"")


pika.data.decode_table = tolerant_decode_table
Connection._on_data_available = on_data_available
_AsyncTransportBase._MAX_RECV_BYTES = RECEIVE
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
