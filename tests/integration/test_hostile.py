"""Giants on live brokers: bounded memory, and the message behind them goes on."""

import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from kafka import KafkaProducer

from bridge.config.model import Broker
from bridge.publish import publish_amqp, publish_kafka
from bridge.sources import kafka_session
from tests.conformance.desks import bodies, finish, numbered, receive
from tests.integration import test_amqp as amqp
from tests.integration import test_kafka as kafka_tests
from tests.integration.amqp_wire import field, publish_raw, table
from tests.servers.kafka import Kafka
from tests.servers.rabbitmq import RabbitMQ

MIB = 1024**2


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_session, "IDLE_POLL_MS", 100)


def resident_mib() -> int:
    """What this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    pytest.skip("no /proc")


@pytest.fixture
def rabbit(rabbitmq: RabbitMQ) -> Broker:
    return Broker(url=rabbitmq.url)


@pytest.fixture
def channel(rabbitmq: RabbitMQ) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened


def test_ten_thousand_headers(
    rabbit: Broker, channel: pika.adapters.blocking_connection.BlockingChannel, queue_name: str
) -> None:
    """As many as a frame takes: they arrive, or the message is undecodable; the next one goes on."""
    section = amqp.section_of(queue_name)
    publish_amqp(rabbit, section, numbered(1))
    headers = table(*(field(b"%d" % place, b"S", struct.pack(">I", 1) + b"v") for place in range(10_000)))
    publish_raw(channel, queue_name, b"many", headers, "many")
    publish_amqp(rabbit, section, numbered(1, first=1))
    with amqp.running(rabbit, section) as source:
        received = receive(source, 3)
        finish(source)
    assert bodies(received) == [b'{"id": 0}', b"many", b'{"id": 1}']
    assert len(received[1].headers) == 10_000


def test_a_body_of_128_mebibytes(
    rabbit: Broker, channel: pika.adapters.blocking_connection.BlockingChannel, queue_name: str
) -> None:
    """The largest that RabbitMQ takes: handed over whole, and let go of when it was acked."""
    section = amqp.section_of(queue_name, prefetch=1)
    publish_amqp(rabbit, section, [])
    for _ in range(3):
        channel.basic_publish("", queue_name, bytes(128 * MIB - 1), pika.BasicProperties(delivery_mode=1))
    publish_amqp(rabbit, section, numbered(1))
    before = resident_mib()
    most = 0
    with amqp.running(rabbit, section) as source:
        for _ in range(3):
            batch = source.receive(30)
            assert batch is not None
            assert [len(message.body) for message in batch.messages] == [128 * MIB - 1]
            most = max(most, resident_mib())
            source.ack(batch)
            del batch
        assert bodies(receive(source, 1)) == [b'{"id": 0}']
        finish(source)
    assert most - before < 600


def test_a_batch_of_kafka_that_unpacks_to_a_giant(kafka: Kafka, topic_name: str) -> None:
    """Told by its coordinates, never unpacked whole, and passed."""
    broker, section = Broker(url=kafka.url), kafka_tests.section_of(topic_name, partitions=1)
    publish_kafka(broker, section, numbered(1))
    producer = KafkaProducer(
        bootstrap_servers=kafka.bootstrap, compression_type="gzip", max_request_size=256 * MIB, linger_ms=0
    )
    producer.send(topic_name, bytes(200 * MIB)).get(60)
    producer.close()
    publish_kafka(broker, section, numbered(1, first=1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with kafka_tests.running(broker, section) as source:
        first, giant, last = receive(source, 3)
        finish(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= before + 200 * 1024
    assert (first.undecodable, last.undecodable) == (None, None)
    assert "unpacks to more than" in str(giant.undecodable)
    assert giant.coordinates == f"{topic_name}/0/1"


def test_a_record_of_kafka_with_ten_thousand_headers(kafka: Kafka, topic_name: str) -> None:
    broker, section = Broker(url=kafka.url), kafka_tests.section_of(topic_name, partitions=1)
    publish_kafka(broker, section, [])
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=0)
    producer.send(topic_name, b"many", headers=[(str(place), b"\xff") for place in range(10_000)]).get(20)
    producer.close()
    publish_kafka(broker, section, numbered(1))
    with kafka_tests.running(broker, section) as source:
        many, last = receive(source, 2)
        finish(source)
    assert (len(many.headers), many.undecodable, last.body) == (10_000, None, b'{"id": 0}')
