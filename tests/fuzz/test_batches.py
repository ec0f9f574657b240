"""Kafka batches that unpack to far more than was sent: memory stays bounded, and what stands behind them is read."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from kafka import codec
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from bridge.sources import kafka_codecs, kafka_patch
from bridge.sources.kafka_message import kafka_message

MIB = 1024**2
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def packed(kind: int, mebibytes: int) -> bytes:
    """So many mebibytes of zeros."""
    if kind == 1:
        block = gzip.compress(bytes(MIB))
        return block * mebibytes
    if kind == 2:
        # A snappy block that claims its length and breaks off: what is allocated is what is claimed.
        claimed, varint = mebibytes * MIB, bytearray()
        while claimed > 0x7F:
            varint.append(claimed & 0x7F | 0x80)
            claimed >>= 7
        return bytes([*varint, claimed, 0])
    if kind == 3:
        packer = lz4.frame.LZ4FrameCompressor()
        parts = [packer.begin(), *(packer.compress(bytes(MIB)) for _ in range(mebibytes)), packer.flush()]
        return b"".join(parts)
    stream = zstandard.ZstdCompressor().compressobj()
    return b"".join([*(stream.compress(bytes(MIB)) for _ in range(mebibytes)), stream.flush()])


def batch_with(kind: int, payload: bytes, base: int, count: int) -> bytes:
    """A batch whose records are this packed payload, with a good checksum."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000)
    for number in range(count):
        builder.append(number, timestamp=1, key=None, value=b"x", headers=[])
    data = bytearray(bytes(builder.build())[:61] + payload)
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">h", data, 21, kind)
    struct.pack_into(">I", data, 17, calc_crc32c(memoryview(data)[21:]))
    return bytes(data)


def records_at(offset: int, data: bytes) -> Fetcher.PartitionRecords:
    return Fetcher.PartitionRecords(offset, TopicPartition("t", 0), MemoryRecords(data))


@pytest.mark.parametrize("name", CODECS)
def test_a_bomb_is_told_once_and_passed(name: str) -> None:
    """The whole batch by one offset, its last; the next batch is read."""
    kind = CODECS[name]
    data = batch_with(kind, packed(kind, 65), 10, 5) + batch_with(0, good(), 15, 1)
    with pytest.raises(kafka_patch.Undecodable, match="unpacks to more than") as caught:
        records_at(10, data).take()
    assert caught.value.offset == 14
    assert kafka_message(caught.value).coordinates == "t/0/14"
    records = records_at(15, data[len(data) - len(batch_with(0, good(), 15, 1)) :])
    assert [record.value for record in records.take()] == [b"good"]


def good() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000)
    builder.append(0, timestamp=1, key=None, value=b"good", headers=[])
    return bytes(builder.build())[61:]


@pytest.mark.parametrize("name", CODECS)
def test_what_kafka_python_packs_is_unpacked_as_it_unpacks_it(name: str) -> None:
    """Of a few megabytes, and of what breaks off: an error, and never what is not whole."""
    body = os.urandom(1000) * 3000
    encoded = getattr(codec, f"{name}_encode")(body)
    decode = getattr(kafka_codecs, f"{name}_decode")
    assert decode(encoded) == getattr(codec, f"{name}_decode")(encoded) == body
    for broken in (encoded[:-20], encoded[: len(encoded) // 2], b"", b"\xff" * 40):
        try:
            expected = getattr(codec, f"{name}_decode")(broken)
        except Exception:
            with pytest.raises(Exception):  # noqa: B017
                decode(broken)
        else:
            assert decode(broken) == expected


BOMB = """
import resource, sys
sys.path.insert(0, {root!r})
from tests.fuzz.test_batches import batch_with, kafka_patch, packed, records_at
data = batch_with({kind}, packed({kind}, {mebibytes}), 0, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    records_at(0, data).take()
except kafka_patch.Undecodable:
    print(len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", CODECS)
def test_a_bomb_of_a_gigabyte_costs_little_memory(name: str) -> None:
    """In a process of its own: at most two and a half times the bound more than before."""
    program = BOMB.format(root=str(Path(__file__).parents[2]), kind=CODECS[name], mebibytes=1024)
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    sent, grown_kib = map(int, asked.stdout.split())
    assert sent < 8 * MIB
    assert grown_kib * 1024 < 2.5 * kafka_codecs.MOST, f"{sent} bytes grew to {grown_kib // 1024} MiB"


def test_the_codecs_are_in_place() -> None:
    from kafka.record import default_records, legacy_records

    for name in CODECS:
        assert getattr(default_records, f"{name}_decode") is getattr(kafka_codecs, f"{name}_decode")
        assert name == "zstd" or getattr(legacy_records, f"{name}_decode") is getattr(kafka_codecs, f"{name}_decode")
