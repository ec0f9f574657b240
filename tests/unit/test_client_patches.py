"""Each patch of a client is still needed and still fits: when a new release changes that, a test here says so."""

import gc
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pika
import pika.channel
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import CorruptRecordError, KafkaTimeoutError
from kafka.net.inet import KafkaNetSocket
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.structs import TopicPartition

from bridge.sources import kafka_patch, pika_patch
from bridge.sources.kafka_message import kafka_message
from tests.integration.amqp_wire import POISON, RawProperties, field, table

PARTITION = TopicPartition("payments", 3)


@pytest.mark.parametrize("name", POISON)
def test_pika_still_cannot_decode_these_header_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pika.data, "decode_table", pika_patch._decode_table)  # nested tables come by this name
    with pytest.raises((ValueError, OverflowError, OSError, RecursionError)):
        pika_patch._decode_table(POISON[name], 0)


@pytest.mark.parametrize("name", POISON)
def test_a_header_table_that_pika_cannot_decode_leaves_the_other_properties(name: str) -> None:
    encoded = b"".join(RawProperties(POISON[name], "order-7").encode())
    properties = pika.BasicProperties()
    properties.decode(encoded)
    assert properties.correlation_id == "order-7"
    assert pika_patch.MARKER in str(properties.headers)


def test_a_table_whose_length_lies_is_undecodable_and_skipped_by_that_length() -> None:
    inner = struct.pack(">I", 3) + field(b"a", b"S", struct.pack(">I", 1) + b"x")
    decoded, end = pika_patch.tolerant_decode_table(inner, 0)
    assert end == 7
    assert isinstance(decoded[pika_patch.MARKER], pika_patch.Undecodable)


def test_good_header_tables_decode_as_pika_decodes_them() -> None:
    encoded = b"\x00" + table(field(b"a", b"I", struct.pack(">i", 7)), field(b"t", b"F", table())) + b"rest"
    assert pika.data.decode_table(encoded, 1) == ({"a": 7, "t": {}}, len(encoded) - 4)


def _cancelled_channel(cancel: Callable[..., None]) -> tuple[list[bytes], list[int]]:
    """What reaches the consumer, and what is rejected, of a delivery that was on its way when we cancelled."""
    taken: list[bytes] = []
    rejected: list[int] = []
    connection = SimpleNamespace(is_open=True, callbacks=pika.callback.CallbackManager())
    channel = pika.channel.Channel(connection, 1, lambda _channel: None)
    channel._state = channel.OPEN
    channel._rpc = lambda *_arguments, **_keywords: None
    channel.basic_reject = rejected.append
    channel._consumers["tag"] = lambda _channel, _method, _properties, body: taken.append(body)
    cancel(channel, "tag", lambda _frame: None)
    method = pika.spec.Basic.Deliver("tag", 1)
    channel._on_deliver(SimpleNamespace(method=method), SimpleNamespace(properties=None), b"body")
    return taken, rejected


def test_pika_still_rejects_what_is_on_its_way_at_a_cancel() -> None:
    assert _cancelled_channel(lambda channel, tag, done: channel.basic_cancel(tag, callback=done)) == ([], [1])


def test_our_cancel_lets_it_arrive() -> None:
    assert _cancelled_channel(pika_patch.cancel_keeping_deliveries) == ([b"body"], [])


class RawName(str):
    """A header's name that is encoded to bytes that are no UTF-8."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


def batch_of(poison: int | None, count: int = 5, compression: int = 0) -> bytes:
    """Records from offset 0 in one batch."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=100_000,
    )
    for number in range(count):
        headers = [(RawName("x"), b"1")] if number == poison else [("n", b"%d" % number)]
        builder.append(number, timestamp=1, key=b"key", value=b"body-%d" % number, headers=headers)
    return bytes(builder.build())


def records_of(data: bytes, fetch_offset: int = 0) -> Fetcher.PartitionRecords:
    return Fetcher.PartitionRecords(fetch_offset, PARTITION, MemoryRecords(data))


def test_kafka_python_still_gives_up_a_record_whose_header_name_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DefaultRecordBatch, "_read_msg", kafka_patch._read_msg)
    records = records_of(batch_of(poison=2))
    assert len(kafka_patch._take(records)) == 2
    with pytest.raises(CorruptRecordError):
        kafka_patch._take(records)


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4], ids=["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("poison", [0, 2, 4])
def test_a_record_that_cannot_be_decoded_stands_in_its_place(poison: int, compression: int) -> None:
    messages = [kafka_message(record) for record in records_of(batch_of(poison, 5, compression)).take()]
    assert [message.coordinates for message in messages] == [f"payments/3/{offset}" for offset in range(5)]
    assert [message.body for message in messages] == [b"body-%d" % number for number in range(5)]
    assert [number for number, message in enumerate(messages) if message.undecodable] == [poison]
    assert "UnicodeDecodeError" in str(messages[poison].undecodable)


def test_a_publisher_cannot_forge_the_marker() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1000)
    builder.append(0, timestamp=1, key=None, value=b"", headers=[(str(kafka_patch.MARKER), b"forged")])
    (record,) = records_of(bytes(builder.build())).take()
    assert kafka_message(record).undecodable is None


def _corrupt() -> bytes:
    data = bytearray(batch_of(poison=None))
    data[-1] ^= 0xFF
    return bytes(data)


def test_kafka_python_still_tells_a_corrupt_batch_once_and_then_keeps_silent() -> None:
    """Its consumer then spins on records that give nothing and are never done."""
    records = records_of(_corrupt())
    with pytest.raises(CorruptRecordError):
        kafka_patch._take(records)
    assert kafka_patch._take(records) == []
    assert records, "never done"


def test_a_corrupt_batch_is_told_each_time_until_it_is_passed() -> None:
    for offset in (0, 3):
        records = records_of(_corrupt(), fetch_offset=offset)
        for _ in range(2):
            with pytest.raises(kafka_patch.Undecodable, match="crc") as caught:
                records.take()
            assert (caught.value.partition, caught.value.offset) == (PARTITION, offset)


def test_a_batch_that_breaks_off_is_told_past_what_was_asked_for() -> None:
    """It is unpacked from its start each time: an offset before the one asked for would be sought for ever."""
    broken = bytearray(batch_of(poison=None))
    broken[broken.rindex(b"body-4") - 9] = 0x7E  # the last record's length reaches past the end
    for asked in (0, 4, 5):
        records = Fetcher.PartitionRecords(asked, PARTITION, MemoryRecords(bytes(broken)), check_crcs=False)
        with pytest.raises(kafka_patch.Undecodable) as caught:
            while records.take():
                pass
        assert caught.value.offset >= asked


NOWHERE = {"bootstrap_servers": "127.0.0.1:9", "bootstrap_timeout_ms": 200}


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("kafka-io")}


@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaProducer, KafkaAdminClient])
def test_a_client_that_cannot_be_built_leaves_no_thread_and_no_descriptor(kind: Callable[..., object]) -> None:
    gc.collect()
    before = _threads(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(KafkaTimeoutError) as caught:
        kafka_patch.build(kind, NOWHERE)
    assert (_threads(), len(os.listdir("/proc/self/fd"))) == before
    del caught


@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaAdminClient])
def test_kafka_python_still_leaves_one(kind: Callable[..., object]) -> None:
    made: list[kafka_patch.KafkaNetClient] = []

    def net_client(**configs: object) -> object:
        made.append(kafka_patch.KafkaNetClient(**configs))
        return made[-1]

    before = _threads()
    with pytest.raises(KafkaTimeoutError):
        kind(**NOWHERE, kafka_client=net_client)
    assert len(_threads() - before) == 1
    made[0].close()


def test_a_join_under_way_is_still_needed_and_kafka_python_still_forgets_it() -> None:
    coordinator = ConsumerCoordinator.__new__(ConsumerCoordinator)
    coordinator._subscription = SimpleNamespace(partitions_auto_assigned=lambda: True, subscription={"payments"})
    coordinator.config = {"group_id": "bridge", "api_version": (4, 0)}
    coordinator._joined_subscription = {"payments"}
    coordinator._assignment_snapshot = coordinator._metadata_snapshot = {"payments": {0}}
    coordinator.rejoin_needed, coordinator.rejoining = False, True
    assert not kafka_patch._need_rejoin(coordinator)
    assert kafka_patch.steady_need_rejoin(coordinator)
    coordinator.rejoining = False
    assert not kafka_patch.steady_need_rejoin(coordinator)


def _refused(connect: Callable[..., object]) -> bool:
    """Whether the socket of a refused connect is closed."""
    sock = socket.socket()
    try:
        connect(KafkaNetSocket(), None, sock, ("127.0.0.1", 9)).send(None)
    except Exception:
        return sock.fileno() == -1
    finally:
        sock.close()
    raise AssertionError("somebody listens on port 9")


def test_a_failed_connect_closes_its_socket_and_kafka_python_still_does_not() -> None:
    assert _refused(kafka_patch.closing_sock_connect)
    assert not _refused(kafka_patch._sock_connect)


def _shaken(handshake: Callable[..., object]) -> bool:
    """Whether the socket is closed of a TLS handshake with a broker that speaks no TLS."""
    sock, broker = socket.socketpair()
    with sock, broker:
        broker.sendall(b"this is no TLS record\n")
        transport = KafkaSSLTransport(None, sock, host="broker")
        with transport._sock as wrapped:
            with pytest.raises(ssl.SSLError):
                handshake(transport).send(None)
            return bool(wrapped.fileno() == -1)


def test_a_failed_handshake_closes_its_socket_and_kafka_python_still_does_not() -> None:
    assert _shaken(kafka_patch.closing_handshake)
    assert not _shaken(kafka_patch._handshake)


def _closed_amid_a_write() -> bool:
    """Whether the socket is closed of a client that ended before its broker took all of a request."""
    net, (sock, broker) = NetworkSelector(), socket.socketpair()
    with sock, broker:
        sock.setblocking(False)
        transport = KafkaTCPTransport(net, sock)
        transport.write(bytes(10_000_000))
        net.drain()
        transport.close()
        net.close()
        return sock.fileno() == -1


def test_a_close_amid_a_write_closes_the_socket_and_kafka_python_still_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _closed_amid_a_write()
    monkeypatch.setattr(KafkaTCPTransport, "_write_to_sock", kafka_patch._write_to_sock)
    assert not _closed_amid_a_write()


def test_the_patches_are_in_place() -> None:
    assert pika.data.decode_table is pika_patch.tolerant_decode_table
    assert Fetcher.PartitionRecords.take is kafka_patch.sticky_take
    assert DefaultRecordBatch._read_msg is kafka_patch.tolerant_read_msg
    assert ConsumerCoordinator.need_rejoin is kafka_patch.steady_need_rejoin
    assert KafkaNetSocket.sock_connect is kafka_patch.closing_sock_connect
    assert KafkaSSLTransport.handshake is kafka_patch.closing_handshake
    assert KafkaTCPTransport._write_to_sock is kafka_patch.closing_write_to_sock
