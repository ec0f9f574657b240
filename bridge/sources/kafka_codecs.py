"""Compressed batches of Kafka, unpacked no further than a bound; importing this module puts these in place of
kafka-python's own codecs, which unpack all that a batch holds: a gigabyte of zeros comes as a megabyte.

Promises (`tests/fuzz/test_batches.py`): a batch that unpacks to more than `MOST` bytes raises `TooLarge`, before more
than that was allocated.
"""

import gzip
import io
import struct
from typing import Protocol

from kafka import codec
from kafka.record import default_records, legacy_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

MOST = 64 * 1024**2
"""A broker takes a megabyte by default, as sent; text seldom packs to less than a twentieth."""
CHUNK = 1024**2


class TooLarge(Exception):
    """A batch unpacks to more than `MOST` bytes."""

    last_offset = -1
    """Of the batch, where it says so: none of its records can be read."""


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(stream: Stream) -> bytes:
    found = bytearray()
    while chunk := stream.read(CHUNK):
        found += chunk
        _check(len(found))
    return bytes(found)


def _check(size: int) -> None:
    if size > MOST:
        raise TooLarge(f"a batch that unpacks to more than {MOST} bytes")


def gzip_decode(payload: bytes | memoryview) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(payload), mode="r") as stream:
        return _read(stream)


def lz4_decode(payload: bytes) -> bytes:
    frame = codec.lz4.LZ4FrameDecompressor()
    unpacked: bytes = frame.decompress(payload, max_length=MOST + 1)
    _check(len(unpacked))
    if not frame.eof:
        raise EOFError("a frame that breaks off")
    return unpacked


def zstd_decode(payload: bytes) -> bytes:
    stream = codec.zstd.ZstdDecompressor(max_window_size=MOST).stream_reader(payload, read_across_frames=True)
    with stream:
        return _read(stream)


def snappy_decode(payload: bytes) -> bytes:
    """Each block says first how long it is, and is unpacked into as much."""
    xerial, place, claimed = codec._detect_xerial_stream(payload), 16, 0
    if not xerial:
        claimed, _ = decode_unsigned(payload, 0)
    while xerial and place < len(payload):
        (size,) = struct.unpack_from(">I", payload, place)
        length, _ = decode_unsigned(payload, place + 4)
        claimed += length
        place += 4 + size
        _check(claimed)
    _check(claimed)
    unpacked: bytes = _snappy_decode(payload)
    return unpacked


def decode_unsigned(buffer: bytes, place: int) -> tuple[int, int]:
    """Snappy's varint, which is Kafka's without the zigzag."""
    signed, place = decode_varint(buffer, place)
    return (signed << 1) ^ (signed >> 63), place


def uncompress(batch: DefaultRecordBatch) -> None:
    try:
        _maybe_uncompress(batch)
    except TooLarge as error:
        error.last_offset = batch.last_offset
        raise


_snappy_decode = codec.snappy_decode
_maybe_uncompress = DefaultRecordBatch._maybe_uncompress
DefaultRecordBatch._maybe_uncompress = uncompress
for _module in (default_records, legacy_records):
    for _decode in (gzip_decode, lz4_decode, snappy_decode):
        setattr(_module, _decode.__name__, _decode)
default_records.zstd_decode = zstd_decode
