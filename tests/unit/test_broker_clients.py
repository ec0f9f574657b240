"""What brokers' clients are told, and what becomes of what they hand over; no broker needed."""

import datetime
import decimal
import json
import struct
import threading
from pathlib import Path

import pika
import pytest
import trustme
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition

from bridge import publish
from bridge.config.model import AmqpSourceSection, Broker, KafkaSourceSection
from bridge.message import Message
from bridge.sources import connect
from bridge.sources.amqp import AmqpSource, Receipt
from bridge.sources.amqp_message import amqp_message
from bridge.sources.amqp_session import Acked, AmqpSession, LostSession
from bridge.sources.amqp_topology import Binding, Exchange, Queue, Refusal, Unavailable, plan, routing_keys
from bridge.sources.kafka_progress import Progress
from bridge.sources.source import Batch
from tests.integration.amqp_wire import field, nested, table


def _delivered(headers: dict[str, object] | None = None, **properties: object) -> Message:
    method = pika.spec.Basic.Deliver("tag", 1, False, "", "orders")
    return amqp_message(method, pika.BasicProperties(headers=headers, **properties), b"body")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", b"text"),
        ("", b""),
        (b"\xff\x00", b"\xff\x00"),
        (None, b""),
        (True, b"true"),
        (-7, b"-7"),
        (pika.compat.long(5), b"5"),
        (decimal.Decimal("1.50"), b"1.50"),
        (datetime.datetime(2026, 11, 24, 23, 5, tzinfo=datetime.UTC), b"2026-11-24T23:05:00Z"),
        ([1, "a", None, b"\xff"], b'[1, "a", null, "\\\\xff"]'),
        ({"a": {"b": [True]}}, b'{"a": {"b": [true]}}'),
        ({"at": datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)}, b'{"at": "1970-01-01T00:00:00Z"}'),
    ],
)
def test_header_values_of_every_type_become_bytes(value: object, expected: bytes) -> None:
    assert _delivered({"name": value}).headers == (("name", expected),)


def test_a_header_name_that_is_no_utf_8_stays_readable() -> None:
    encoded = table(b"\x02\xff\xfeS" + struct.pack(">I", 1) + b"x", field(b"ok", b"t", b"\x01"))
    decoded, _ = pika.data.decode_table(encoded, 0)
    assert _delivered(decoded).headers == (("\\xff\\xfe", b"x"), ("ok", b"true"))


def test_deep_but_decodable_headers_become_json() -> None:
    decoded, _ = pika.data.decode_table(nested(200), 0)
    message = _delivered(decoded)
    assert message.undecodable is None
    ((_, value),) = message.headers
    assert json.loads(value)
    assert value.count(b"{") == 200


def test_properties_arrive_as_bytes_and_text() -> None:
    message = _delivered(
        None, correlation_id=b"\xff", message_id="m", type=b"\xfe", content_type="text/plain", content_encoding="gzip"
    )
    assert message == Message(
        b"body",
        correlation=b"\xff",
        message_id=b"m",
        routing_key="orders",
        type="\\xfe",
        content_type="text/plain",
        content_encoding="gzip",
    )


@pytest.mark.parametrize(
    ("path", "expected"), [("", "/"), ("/", "/"), ("/%2F", "/"), ("/a%2Fb", "a/b"), ("/orders", "orders")]
)
def test_virtual_hosts(path: str, expected: str) -> None:
    assert connect.amqp_parameters(Broker(url=f"amqp://host{path}")).virtual_host == expected


def test_credentials_come_from_url_or_keys_and_keys_win() -> None:
    parameters = connect.amqp_parameters(Broker(url="amqp://a%40b:p%2Fw@host:1234/"))
    assert (parameters.credentials.username, parameters.credentials.password) == ("a@b", "p/w")
    assert (parameters.host, parameters.port) == ("host", 1234)
    parameters = connect.amqp_parameters(Broker(url="amqp://a:b@host/", username="c", password="d"))
    assert (parameters.credentials.username, parameters.credentials.password) == ("c", "d")
    assert connect.amqp_parameters(Broker(url="amqp://host")).credentials.username == "guest"


def test_tls_verifies_unless_told_not_to_and_reads_its_files_each_time(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("pod")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pod.pem"))
    keys = {"ca": str(tmp_path / "ca.pem"), "cert": str(tmp_path / "pod.pem")}
    broker = Broker.model_validate({"url": "amqps://host/", "tls": keys})
    options = connect.amqp_parameters(broker).ssl_options
    assert options.context.check_hostname
    assert options.server_hostname == "host"
    assert connect.amqp_parameters(broker).ssl_options.context is not options.context
    assert connect.amqp_parameters(broker).port == 5671
    insecure = Broker.model_validate({"url": "amqps://host/", "tls": {"insecure": True}})
    assert not connect.amqp_parameters(insecure).ssl_options.context.check_hostname
    assert connect.amqp_parameters(Broker(url="amqps://host/")).ssl_options.context.check_hostname
    assert connect.amqp_parameters(Broker(url="amqp://host/")).ssl_options is None
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(OSError, match="No such file"):
        connect.amqp_parameters(broker)


def test_kafka_settings() -> None:
    plain = connect.kafka_settings(Broker(url="kafka://a:9092,b:9093"))
    assert plain["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert plain["security_protocol"] == "PLAINTEXT"
    sasl = Broker.model_validate(
        {
            "url": "kafka://a:9092",
            "tls": {},
            "sasl": {"mechanism": "SCRAM-SHA-512", "username": "u", "password": "p"},
        }
    )
    settings = connect.kafka_settings(sasl)
    assert settings["security_protocol"] == "SASL_SSL"
    assert settings["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (settings["sasl_plain_username"], settings["sasl_plain_password"]) == ("u", "p")
    in_url = connect.kafka_settings(Broker(url="kafka://u:p%40@a:9092,b:9092"))
    assert in_url["security_protocol"] == "SASL_PLAINTEXT"
    assert in_url["sasl_plain_password"] == "p@"
    assert in_url["bootstrap_servers"] == ["a:9092", "b:9092"]


def test_an_error_in_one_line_shows_no_password() -> None:
    broker = Broker(url="amqp://guest:sesame@host/")
    shown = connect.one_line(ValueError("no\nluck with sesame"), broker)
    assert shown == "ValueError: no luck with ***"
    assert connect.one_line(LostSession("the queue is gone"), broker) == "the queue is gone"
    assert "sesame" not in connect.describe(broker)


def _section(**keys: object) -> AmqpSourceSection:
    return AmqpSourceSection.model_validate({"broker": "rabbit", "queue": "q", **keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"exchange_type": "topic"}, ("#",)),
        ({"exchange_type": "direct"}, ("q",)),
        ({"exchange_type": "fanout"}, ("",)),
        ({"exchange_type": "direct", "routing_keys": ["a", "b"]}, ("a", "b")),
    ],
)
def test_default_routing_keys(keys: dict[str, object], expected: tuple[str, ...]) -> None:
    assert routing_keys(_section(exchange="x", **keys)) == expected


def test_a_plan_makes_what_is_missing_in_order_and_leaves_what_exists() -> None:
    missing = Refusal(404, "NOT_FOUND")
    steps = plan(_section(exchange="x", dead_letter_exchange="dead"), "pod")
    assert next(steps) == Exchange("x", "topic", passive=True)
    assert steps.send(missing) == Exchange("x", "topic", passive=False)
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "dead"}
    assert steps.send(None) == Queue("q", arguments, passive=True)
    assert steps.send(missing) == Queue("q", arguments, passive=False)
    assert steps.send(None) == Binding("q", "x", "#")
    with pytest.raises(StopIteration):
        steps.send(None)
    steps = plan(_section(declare=False), "pod")
    assert next(steps) == Queue("q", {"x-queue-type": "quorum"}, passive=True)
    with pytest.raises(Unavailable, match="does not exist"):
        steps.send(missing)


def test_acks_are_multiple_only_for_the_contiguous_prefix() -> None:
    acked = Acked()
    assert acked.add(4, 6) == (range(4, 7), False)
    assert acked.add(4, 6) == (range(0), False)
    assert acked.add(1, 3) == (range(3, 4), True)
    assert acked.add(1, 3) == (range(0), False)
    assert acked.prefix == 6
    assert acked.add(7, 7) == (range(7, 8), True)


def test_an_amqp_session_is_not_quiet_while_an_ack_or_a_pause_is_under_way() -> None:
    room = threading.Condition()
    session = AmqpSession(
        plan(_section(), "pod"), "q", 10, isolated=False, paused=False, room=room, on_attached=lambda _session: None
    )
    with room:
        assert session.quiet
        session.ack(1, 1)
        assert not session.quiet
    session._ack(1, 1)
    session._consuming = 10
    assert session.quiet
    session.pause(True)
    assert not session.quiet, "messages may be on their way"
    session._consuming = 0
    assert session.quiet
    session._ioloop.close()


def test_an_ack_goes_to_the_session_that_delivered_or_nowhere() -> None:
    """A tag means nothing on another channel: there it acks another message, or closes the channel."""
    source = AmqpSource("orders", Broker(url="amqp://h"), _section(), pod_name="pod")
    old, new = source._begin(), source._begin()
    source.ack(Batch([], Receipt((old, 1, 3))))
    assert (old.pending, new.pending) == (0, 0)
    source.ack(Batch([], Receipt((new, 1, 3))))
    assert (old.pending, new.pending) == (0, 1)
    new.ended = True
    source.ack(Batch([], Receipt((new, 4, 5))))
    assert new.pending == 1
    for session in (old, new):
        session._ioloop.close()


class _Record:
    def __init__(self, offset: int, value: bytes = b"x") -> None:
        self.offset = offset
        self.value = value


def _progress(*partitions: TopicPartition) -> Progress:
    progress = Progress(threading.Condition(threading.RLock()))
    progress.assigned(partitions)
    return progress


A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def test_an_offset_is_told_only_when_all_below_it_are_acked() -> None:
    progress = _progress(A)
    progress.read([(A, [_Record(offset) for offset in range(6)])])
    _, first = progress.take(2, 1000)
    _, second = progress.take(2, 1000)
    progress.ack(second)
    assert progress.unsent() == {}
    progress.ack(first)
    assert progress.unsent() == {A: 4}
    assert progress.in_flight == 2
    assert not progress.quiet()
    progress.sent({A: 4})
    assert progress.unsent() == {A: 4}, "it was refused"


def test_nothing_is_told_of_a_partition_that_moved_even_if_it_came_back() -> None:
    progress = _progress(A, B)
    progress.read([(A, [_Record(0)]), (B, [_Record(0)])])
    _, handed = progress.take(1, 1000)
    assert progress.forget([A, B]) == {}
    progress.assigned([A])
    progress.ack(handed)
    assert progress.unsent() == {}
    assert progress.in_flight == 0
    assert progress.take(10, 1000) == ([], [])
    assert progress.quiet()


def test_what_was_acked_before_a_partition_moves_can_still_be_told() -> None:
    progress = _progress(A)
    progress.read([(A, [_Record(41)])])
    _, handed = progress.take(1, 1000)
    progress.ack(handed)
    assert progress.forget([A]) == {A: 42}


def test_the_group_is_told_again_where_it_is_behind() -> None:
    progress = _progress(A, B)
    progress.read([(A, [_Record(9)]), (B, [_Record(9)])])
    _, handed = progress.take(2, 1000)
    progress.ack(handed)
    progress.unsent()
    progress.sent()
    progress.tell_again({A: 12, B: 3})
    assert progress.unsent() == {B: 10}


def test_a_frozen_broker_is_told_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither flush nor close comes to an end then, and both say so. Found by fault run kafka, postgres, seed 2."""

    closed: list[object] = []

    class Frozen:
        def __init__(self, **settings: object) -> None:
            pass

        def flush(self, timeout: float) -> None:
            raise KafkaTimeoutError("Timeout waiting for future")

        _sender = threading.Thread()

        def close(self, timeout: float) -> None:
            self.flush(timeout)
            self._sender.start()
            closed.append(self)

    monkeypatch.setattr(publish, "KafkaProducer", Frozen)
    monkeypatch.setattr(publish, "ensure_topics", lambda broker, section: None)
    broker = Broker(url="kafka://127.0.0.1:1")
    with pytest.raises(publish.BrokerUnreachable):
        publish.publish_kafka(broker, KafkaSourceSection(broker="b", topic="t"), [])
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("expiration", "seconds"),
    [(None, None), ("2500", 2.5), ("0", 0.0), ("soon", None), ("-1", None), ("\N{SUPERSCRIPT TWO}", None)],
)
def test_amqp_expiration_is_milliseconds(expiration: str | None, seconds: float | None) -> None:
    """What is none is none: the broker refuses it anyway."""
    assert _delivered(expiration=expiration).expires == seconds
