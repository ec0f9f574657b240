"""All of kafka-python's inside that we touch, but for its codecs (`kafka_codecs.py`); importing this applies both.

Promises (`tests/unit/test_client_patches.py`):
- A record that kafka-python cannot decode arrives in its place, with `MARKER` for its only header.
- A batch that cannot be unpacked at all makes `poll` raise `Undecodable`, and raise it again until someone seeks past
  that offset; at worst each offset of the batch is told once, and of one that is too large to unpack the last alone.
  Unpatched, the poll after an error spins at full load and never returns, a pause in between hides the error
  altogether, and no seek gets past a broken record within its batch, because the batch is unpacked from its start
  each time.
- A join of the group that a poll began and had no time to end is ended by the next polls. Unpatched, where new
  metadata was why it began, the leader never takes its assignment, sends no heartbeat and reads nothing.
- A client that cannot be built leaves no thread behind; a connect or a TLS handshake that fails, and a close amid a
  write, no socket.
- Its loggers, which repeat a lost broker six times a second, are silent: a source tells its own state, once for each
  change.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint
from kafka.structs import TopicPartition

from bridge.sources.kafka_codecs import TooLarge

Client = TypeVar("Client")

MARKER = "".join(("jobbridge-", "undecodable"))
"""Compared by identity, so that no publisher can forge it."""

_read_msg = DefaultRecordBatch._read_msg
_take = Fetcher.PartitionRecords.take


def tolerant_read_msg(batch: DefaultRecordBatch) -> DefaultRecord:
    """The next record; where it cannot be decoded, what it is by its length and offset, and its value if that stands
    before the fault."""
    start = batch._pos
    try:
        return _read_msg(batch)
    except Exception as reason:
        buffer = batch._buffer
        length, begin = decode_varint(buffer, start)
        if length < 0 or begin + length > len(buffer) or batch.is_control_batch:
            raise
        _attributes, place = decode_varint(buffer, begin)
        _time, place = decode_varint(buffer, place)
        delta, place = decode_varint(buffer, place)
        batch._pos = begin + length
        told = [(MARKER, f"record: {type(reason).__name__}: {reason}".encode("utf-8", "backslashreplace"))]
        value = _value(buffer, place, batch._pos)
        return DefaultRecord(length, batch.base_offset + delta, batch.max_timestamp, 0, None, value, told)


def _value(buffer: bytes | bytearray, place: int, end: int) -> bytes:
    for _field in ("key", "value"):
        try:
            size, place = decode_varint(buffer, place)
        except (IndexError, ValueError):
            return b""
        begin, place = place, place + max(size, 0)
        if place > end:
            return b""
    return bytes(buffer[begin:place])


class Undecodable(Exception):
    """A batch that kafka-python cannot unpack, at the offset from which it was to be read."""

    def __init__(self, partition: TopicPartition, offset: int, reason: BaseException) -> None:
        super().__init__(f"{type(reason).__name__}: {reason}")
        self.partition = partition
        self.offset = offset


def sticky_take(records: Fetcher.PartitionRecords, count: int | None = None) -> list[object]:
    """`PartitionRecords.take`, whose error stays with the records instead of being told once."""
    failed: Undecodable | None = getattr(records, "undecodable", None)
    if failed is None:
        try:
            taken: list[object] = _take(records, count)
        except Exception as reason:
            offset = max(records.next_fetch_offset, records.fetch_offset)
            if isinstance(reason, TooLarge):
                offset = max(offset, reason.last_offset)  # once for the whole batch: none is unpacked again
            failed = Undecodable(records.topic_partition, offset, reason)
            records.undecodable = failed
        else:
            return taken
    raise failed


_need_rejoin = ConsumerCoordinator.need_rejoin


def steady_need_rejoin(coordinator: ConsumerCoordinator) -> bool:
    """`ConsumerCoordinator.need_rejoin`, which compares the topics' metadata with what the assignment was made from:
    as soon as we, the leader, have made one, it finds no more reason, though the join is not over."""
    return coordinator.rejoining or bool(_need_rejoin(coordinator))


def build(kind: Callable[..., Client], settings: Mapping[str, object]) -> Client:
    """A consumer, producer or admin client. Where its constructor fails, as it does while the broker is away,
    kafka-python leaves its I/O thread and six descriptors behind: they are ended here."""
    begun: list[KafkaNetClient] = []

    def net_client(**configs: object) -> KafkaNetClient:
        begun.append(KafkaNetClient(**configs))
        return begun[-1]

    try:
        return kind(**settings, kafka_client=net_client)
    except BaseException:
        for client in begun:
            client.close()
        raise


_sock_connect = KafkaNetSocket.sock_connect


async def closing_sock_connect(
    factory: KafkaNetSocket,
    net: NetworkSelector,
    sock: socket.socket,
    address: tuple[object, ...],
    timeout_at: float | None = None,
) -> socket.socket:
    """kafka-python's, which leaves the sockets of failed connects to the garbage collector: at a try every two
    seconds, descriptors pile up while the broker is away."""
    try:
        connected: socket.socket = await _sock_connect(factory, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise
    return connected


_handshake = KafkaSSLTransport.handshake


async def closing_handshake(transport: KafkaSSLTransport) -> None:
    """kafka-python's, which leaves its socket to the garbage collector too when it fails."""
    try:
        await _handshake(transport)
    except BaseException:
        transport._sock.close()
        raise


_write_to_sock = KafkaTCPTransport._write_to_sock


async def closing_write_to_sock(transport: KafkaTCPTransport) -> None:
    """kafka-python's, which closes the socket once all is written: where its client ends first, never."""
    sock = transport._sock
    try:
        await _write_to_sock(transport)
    except GeneratorExit:
        sock.close()
        raise


DefaultRecordBatch._read_msg = tolerant_read_msg
Fetcher.PartitionRecords.take = sticky_take
ConsumerCoordinator.need_rejoin = steady_need_rejoin
KafkaNetSocket.sock_connect = closing_sock_connect
KafkaSSLTransport.handshake = closing_handshake
KafkaTCPTransport._write_to_sock = closing_write_to_sock
logging.getLogger("kafka").setLevel(logging.CRITICAL)
