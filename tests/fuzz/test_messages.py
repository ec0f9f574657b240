"""Whatever a sender makes of a message: a request for a job or a rejection, bounded and in time, never an exception.

What once broke something stays as an explicit example.
"""

import datetime
import decimal
import json
import string
import struct
import time
from collections.abc import Callable

import pika
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.structs import TopicPartition
from pydantic import BaseModel, field_validator

from bridge.config.routes import Dedupe
from bridge.dead_letters import dead_letter, envelope, message_of
from bridge.decode import Decoded, Decoder, Ignored, Rejection, Request
from bridge.message import Message, header_texts
from bridge.sources import kafka_patch, pika_patch
from bridge.sources.amqp_message import amqp_message
from bridge.sources.kafka_message import kafka_message
from scheduler.bodies import InvalidBody, parse_json
from scheduler.job import JobState, headers_json, job_id, new_job, preview
from tests.integration.amqp_wire import POISON, field, nested, table
from tests.unit.test_decode import Order, decoder

DEADLINE = 5.0
"""Seconds of CPU for one hostile message of a megabyte; what grows with its square takes minutes."""
MIB = 1024**2


class Fragile(BaseModel):
    """A model whose own code fails on some bodies."""

    lines: dict[str, str] = {}

    @field_validator("lines")
    @classmethod
    def _first(cls, lines: dict[str, str]) -> dict[str, str]:
        return {"first": lines["1"]} if lines else lines


def order(body: Order) -> None:
    """Take an order."""


def fragile(body: Fragile) -> None:
    """Take what its model can't always read."""


def text(body: str) -> None:
    """Take text."""


def octets(body: bytes) -> None:
    """Take anything."""


def plain(body: dict) -> None:  # type: ignore[type-arg]
    """Take an object."""


def anything(body) -> None:  # type: ignore[no-untyped-def]
    """Take any JSON."""


HANDLERS: list[Callable[..., None]] = [order, fragile, text, octets, plain, anything]
KEYS = ["correlation_id", "message_id", "key", "content", "header:x", "body:/id", "body:/0", "body:/-", "body:/a~1b/-"]

json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "a/b", "lines", "1"]), inner),
    max_leaves=10,
)
bodies = st.one_of(
    st.binary(max_size=60),
    json_values.map(json.dumps).map(str.encode),
    json_values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")),
    st.builds(lambda head, tail: head + tail, json_values.map(json.dumps).map(str.encode), st.binary(max_size=3)),
    st.sampled_from(
        [
            *(b"[" * 100_000, b'{"id":' * 20_000, b"9" * 5000, b"-" * 10, b'{"id": 1e999}', b'{"id": "\xed\xa0\x80"}'),
            *(b'{"id": "\\ud800"}', b'{"id": NaN}', b'{"id": 1, "id": 2}', b"\xef\xbb\xbf{}", b"{}\x00", b"\x00{\x00}"),
        ]
    ),
)
names = st.text(max_size=5) | st.sampled_from(["x", "type", "correlation_id", kafka_patch.MARKER, pika_patch.MARKER])
messages = st.builds(
    Message,
    body=bodies,
    headers=st.lists(st.tuples(names, st.binary(max_size=8)), max_size=4).map(tuple),
    correlation=st.none() | st.binary(max_size=300),
    message_id=st.none() | st.binary(max_size=5),
    key=st.none() | st.binary(max_size=5),
    routing_key=st.none() | st.text(max_size=5),
    topic=st.none() | st.text(max_size=5),
    type=st.none() | st.text(max_size=5),
    content_type=st.none() | st.text(max_size=5),
    content_encoding=st.none() | st.sampled_from(["", "identity", "gzip"]),
    coordinates=st.sampled_from(["", "t/0/1"]),
    undecodable=st.none() | st.none() | st.text(max_size=5),
    expires=st.none() | st.floats(0, 1e11),
)
patterns = st.sampled_from(["*", "a*", "[!a]*", "[", "?", "", "a", "**a**b**"])
whens = st.dictionaries(
    st.sampled_from(["header:x", "routing_key", "topic", "type", "content_type"]), patterns, max_size=2
)


def check(source: str, message: Message, decoded: Decoded) -> None:
    """What holds of all that comes out of a decoder: it can be stored, and is no more than what came in."""
    if isinstance(decoded, Request):
        job = decoded.job
        assert job.body == message.body
        assert len(job.id) == len(job.digest) == 16
        assert len(job.correlation_bytes) <= 255
        assert len(job.correlation_id) <= 1024
        assert job.correlation_id.isprintable()
        assert job.headers.isascii()
        assert json.loads(job.headers) == header_texts(message)
        job.handler.encode()
    elif isinstance(decoded, Rejection):
        assert 0 < len(decoded.reason) <= 50
        letter = dead_letter(source, message, decoded.reason, decoded.detail)
        assert letter == dead_letter(source, message, decoded.reason, decoded.detail)
        for shown in (letter.detail, letter.correlation_id, letter.coordinates, letter.envelope):
            shown.encode()
            assert "\0" not in shown
        assert len(letter.detail) <= 2000
        assert len(letter.correlation_id) <= 1024
        assert letter.body == message.body
    else:
        assert isinstance(decoded, Ignored)


@settings(deadline=None)
@given(
    message=messages,
    handler=st.sampled_from(HANDLERS),
    key=st.sampled_from(KEYS),
    missing=st.sampled_from(["reject", "content", "allow"]),
    when=whens,
    otherwise=st.sampled_from(["dead-letter", "ignore"]),
)
@example(Message(b"[1]"), octets, "body:/-", "reject", {}, "dead-letter")
@example(Message(b'{"lines": {"2": "x"}}', correlation=b"c"), fragile, "correlation_id", "reject", {}, "dead-letter")
def test_any_message_is_a_request_or_a_rejection(
    message: Message, handler: Callable[..., None], key: str, missing: str, when: dict[str, str], otherwise: str
) -> None:
    dedupe = {"key": key, "missing": missing}
    decode = decoder({"name": "r", "when": when, "dedupe": dedupe}, function=handler, otherwise=otherwise).decode
    try:
        decoded = decode(message)
    except Exception as error:
        raise AssertionError(f"the decoder raised {error!r}") from error
    check("s", message, decoded)


@given(messages)
def test_an_envelope_gives_back_the_message(message: Message) -> None:
    """A dead letter is replayed as it came, whatever its bytes were."""
    assert message_of(envelope(message), message.body) == message


@given(st.binary(), st.text(), st.binary(min_size=1, max_size=400), st.binary(min_size=1, max_size=400))
def test_ids_that_differ_are_different_jobs(namespace: bytes, other: str, one: bytes, two: bytes) -> None:
    """By the bytes, whatever text would make of them, and framed: no namespace runs over into an ID."""
    first = namespace.decode("latin-1")
    ids = {job_id(n, c): (n, c) for n in (first, other + "x", "") for c in (one, two)}
    assert len(ids) == len({(n, c) for n in (first, other + "x", "") for c in (one, two)})
    job = new_job(namespace=first, correlation=one, handler="h", body=b"")
    assert (job.id, job.correlation_length) == (job_id(first, one), len(one))
    assert preview(one).isprintable()


@given(st.dictionaries(st.text(), st.text()))
def test_any_headers_are_stored_in_ascii(headers: dict[str, str]) -> None:
    assert headers_json(headers).isascii()
    assert json.loads(headers_json(headers)) == headers


@given(st.text(max_size=300))
def test_any_text_is_a_dedupe_key_or_a_mistake(key: str) -> None:
    try:
        Dedupe(key=key)
    except ValueError as error:
        assert len(str(error)) < 1000


def many_names(number: int) -> bytes:
    """An object of so many names, the last of them twice."""
    return ("{" + "".join(f'"{place}":1,' for place in range(number)) + f'"{number - 1}":1}}').encode()


GIANTS = {
    "a name twice among 100,000": Message(many_names(100_000), correlation=b"c"),
    "a name of a megabyte twice": Message(
        b'{"%b":1,"%b":2}' % (b"n" * (MIB // 2), b"n" * (MIB // 2)), correlation=b"c"
    ),
    "one header 250,000 times": Message(b"{}", (("", b"1234"),) * 250_000, b"c"),
    "10,000 headers": Message(b"{}", tuple((str(place), b"\xff" * 100) for place in range(10_000)), b"c"),
    "a header of a megabyte": Message(b"{}", (("x", b"ab" * (MIB // 2)),), b"c"),
    "brackets": Message(b"[" * MIB, correlation=b"c"),
    "escapes": Message(b'"' + rb"\u0000" * (MIB // 6) + b'"', correlation=b"c"),
    "digits": Message(b"9" * MIB, correlation=b"c"),
    "exponent": Message(b'{"id": 1e%b}' % (b"9" * 4000), correlation=b"c"),
    "white space": Message(b" " * (MIB - 1), correlation=b"c"),
    "an open text": Message(b'{"id": "' + b"\\" * MIB, correlation=b"c"),
    "an ID of a megabyte": Message(b"{}", correlation=b"\xff" * MIB),
    "100,000 errors": Message(b'{"id":[' + b",".join([b"[]"] * 100_000) + b"]}", correlation=b"c"),
}


@pytest.mark.parametrize("name", GIANTS)
@pytest.mark.parametrize("handler", [order, anything, octets], ids=["model", "json", "bytes"])
def test_a_giant_message_is_decoded_in_time(name: str, handler: Callable[..., None]) -> None:
    """CPU time that grows with the message, not with its square; what is told of it is short."""
    started = time.thread_time()
    for key in ("correlation_id", "body:/id"):
        when = {"header:x": "*a*a*a*a*a*b*c"}
        routes = ({"name": "w", "when": when}, {"name": "r", "dedupe": {"key": key}})
        decoded = decoder(*routes, function=handler, max_message_bytes=2 * MIB).decode(GIANTS[name])
        check("s", GIANTS[name], decoded)
    assert time.thread_time() - started < DEADLINE


def test_a_name_twice_is_found_in_time() -> None:
    started = time.thread_time()
    with pytest.raises(InvalidBody, match="'99999' appears twice"):
        parse_json(many_names(100_000))
    assert time.thread_time() - started < DEADLINE


# What the brokers' clients hand over.

field_values: st.SearchStrategy[object] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.decimals(),
        st.datetimes(),
        st.just(decimal.Decimal("NaN")),
        st.just(datetime.datetime(1, 1, 1)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
words = st.none() | st.text(max_size=5) | st.binary(max_size=5)
tables = st.one_of(
    st.binary(max_size=80).map(lambda content: struct.pack(">I", len(content)) + content),
    st.builds(
        lambda kind, value, size: (
            struct.pack(">I", size if size is not None else 4 + len(value)) + b"\x02ab" + kind + value
        ),
        st.sampled_from([c.encode() for c in string.ascii_letters]),
        st.binary(max_size=40),
        st.none() | st.integers(0, 60),
    ),
    st.sampled_from(list(POISON.values())),
    st.integers(0, 3000).map(nested),
)


@given(
    headers=st.none() | st.dictionaries(words.filter(lambda word: word is not None), field_values, max_size=4),
    correlation=words,
    message_id=words,
    kind=words,
    content_type=words,
    body=st.binary(max_size=10),
)
def test_any_properties_of_amqp_become_a_message(
    headers: dict[object, object] | None,
    correlation: object,
    message_id: object,
    kind: object,
    content_type: object,
    body: bytes,
) -> None:
    properties = pika.BasicProperties(headers=headers, type=kind, content_type=content_type)
    properties.correlation_id, properties.message_id = correlation, message_id
    method = pika.spec.Basic.Deliver("c", 1, False, "e", "key")
    _decode_and_check(amqp_message(method, properties, body))


@settings(deadline=None)
@given(tables)
@example(table(field(b"t", b"V", b"")) + b"")
def test_any_header_table_of_amqp_is_skipped_by_its_length(encoded: bytes) -> None:
    """Whatever stands in it, the connection lives, and what follows is read from where it begins."""
    (size,) = struct.unpack_from(">I", encoded)
    padded = encoded + b"\0" * (4 + size - len(encoded)) + b"what follows"
    found, end = pika.data.decode_table(padded, 0)
    assert end == 4 + size
    properties = pika.BasicProperties(headers=found, correlation_id="c")
    _decode_and_check(amqp_message(pika.spec.Basic.Deliver("c", 1, False, "e", "key"), properties, b"{}"))


def _decode_and_check(message: Message) -> None:
    check("s", message, Decoder("s", decoder(function=anything)._rules).decode(message))


def _batch(records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]], compression: int) -> bytes:
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1_000_000)
    for offset, (key, value, headers) in enumerate(records):
        builder.append(offset, timestamp=1, key=key, value=value, headers=headers)
    return bytes(builder.build())


def _taken(data: bytes) -> list[ConsumerRecord | kafka_patch.Undecodable]:
    """All records of these bytes, as the session takes them: what can't be read is passed by its offset."""
    found: list[ConsumerRecord | kafka_patch.Undecodable] = []
    offset = 0
    for _ in range(20):
        records = Fetcher.PartitionRecords(offset, TopicPartition("t", 0), MemoryRecords(data), check_crcs=False)
        try:
            while records:
                found += records.take()
        except kafka_patch.Undecodable as bad:
            assert bad.offset >= offset
            found.append(bad)
            offset = bad.offset + 1
            continue
        break
    return found


kafka_records = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=5),
        st.none() | st.binary(max_size=20),
        st.lists(
            st.tuples(names.filter(lambda name: max(name, default="a") < "\ud800"), st.binary(max_size=5)), max_size=3
        ),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(records=kafka_records, compression=st.integers(0, 4))
def test_any_record_of_kafka_becomes_a_message(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]], compression: int
) -> None:
    found = [kafka_message(record) for record in _taken(_batch(records, compression))]
    assert [message.body for message in found] == [value or b"" for _, value, _ in records]
    for message in found:
        assert message.undecodable is None
        _decode_and_check(message)


@settings(deadline=None)
@given(records=kafka_records, compression=st.integers(0, 4), place=st.integers(0, 10_000), byte=st.integers(1, 255))
def test_any_corrupt_batch_of_kafka_is_passed(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]], compression: int, place: int, byte: int
) -> None:
    """One byte of its records is another: what comes out is messages, some of them undecodable, and it ends."""
    data = bytearray(_batch(records, compression))
    begin = 61
    data[begin + place % (len(data) - begin)] ^= byte
    for record in _taken(bytes(data)):
        _decode_and_check(kafka_message(record))


def test_states_are_not_read_from_data() -> None:
    """A state that is none is refused where it is read, and names nothing."""
    with pytest.raises(ValueError, match=r"os\.system"):
        JobState("os.system")
