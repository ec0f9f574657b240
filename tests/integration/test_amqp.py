"""AMQP beyond the conformance suite: poison headers, topology, isolation, TLS, publishing, `check --connect`."""

import contextlib
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pika
import pika.exceptions
import pytest
import trustme

from bridge.config.model import AmqpSourceSection, BatchBounds, Broker
from bridge.message import Message
from bridge.probe import probe_amqp
from bridge.publish import BrokerUnreachable, PublishError, publish_amqp
from bridge.sources import amqp_session, connect, pika_patch
from bridge.sources.amqp import AmqpSource
from tests.conformance.desks import PATIENCE, bodies, finish, numbered, receive
from tests.integration.amqp_wire import POISON, publish_raw, tls_front
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ


def section_of(queue: str, **keys: object) -> AmqpSourceSection:
    return AmqpSourceSection.model_validate({"broker": "rabbit", "queue": queue, "queue_type": "classic", **keys})


@contextlib.contextmanager
def running(
    broker: Broker, section: AmqpSourceSection, pod_name: str = "pod", *, attached: bool = True
) -> Iterator[AmqpSource]:
    source = AmqpSource("orders", broker, section, pod_name=pod_name, random=Random(1))
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        if attached:
            assert wait_until(lambda: source.status().attached, PATIENCE), source.status()
        yield source
    finally:
        source.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Broker:
    return Broker(url=rabbitmq.url)


@pytest.fixture
def channel(broker: Broker) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(connect.amqp_parameters(broker))
    yield connection.channel()
    if connection.is_open:
        connection.close()


def exists(broker: Broker, queue: str) -> bool:
    connection = pika.BlockingConnection(connect.amqp_parameters(broker))
    try:
        connection.channel().queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_poison_headers_are_handed_over_as_undecodable_and_block_nothing(
    broker: Broker,
    channel: pika.adapters.blocking_connection.BlockingChannel,
    queue_name: str,
    queue_type: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    section = section_of(queue_name, queue_type=queue_type)
    publish_amqp(broker, section, numbered(1))
    channel.confirm_delivery()
    for name, headers in POISON.items():
        publish_raw(channel, queue_name, name.encode(), headers, f"id-{name}")
    publish_amqp(broker, section, numbered(1, first=1))
    with caplog.at_level(logging.INFO), running(broker, section) as source:
        received = {message.body: message for message in receive(source, len(POISON) + 2)}
        finish(source)
    for name, headers in POISON.items():
        message = received[name.encode()]
        assert message.undecodable
        assert message.correlation == f"id-{name}".encode()
        assert message.headers == ((pika_patch.MARKER, headers),) or name == "nested"
    assert [received[body].undecodable for body in (b'{"id": 0}', b'{"id": 1}')] == [None, None]
    assert not [record for record in caplog.records if "not attached" in record.getMessage()]


def test_what_breaks_the_connection_is_dead_lettered_alone(
    broker: Broker,
    channel: pika.adapters.blocking_connection.BlockingChannel,
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the tolerant decoder one poison message among 39 good ones costs deliveries of its own alone."""
    dead = f"{queue_name}.dead"
    channel.exchange_declare(dead, "fanout", durable=True)
    channel.queue_declare(dead, durable=True)
    channel.queue_bind(dead, dead)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 4, "x-dead-letter-exchange": dead}
    channel.queue_declare(queue_name, durable=True, arguments=arguments)
    section = section_of(queue_name, prefetch=40)
    publish_amqp(broker, section, numbered(20))
    channel.confirm_delivery()
    publish_raw(channel, queue_name, b"poison", POISON["year-10000"], "poison")
    publish_amqp(broker, section, numbered(19, first=20))
    monkeypatch.setattr(pika.data, "decode_table", pika_patch._decode_table)
    with running(broker, section, attached=False) as source:
        received: set[bytes] = set()

        def settled() -> bool:
            received.update(bodies(receive(source, 1, seconds=0.2)))
            return all(channel.queue_declare(name, passive=True).method.message_count == count for name, count in ends)

        ends = [(queue_name, 0), (dead, 1)]
        assert wait_until(settled, 40)
        finish(source)
    assert received == set(bodies(numbered(39)))
    monkeypatch.undo()
    assert channel.basic_get(dead, auto_ack=True)[2] == b"poison"


def test_a_pause_in_full_flow_returns_nothing_to_the_queue(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pika's own cancel rejects what is on its way."""
    redelivered: list[bool] = []
    take = amqp_session.AmqpSession._on_message

    def on_message(session: amqp_session.AmqpSession, *delivery: object) -> None:
        redelivered.append(delivery[1].redelivered)
        take(session, *delivery)

    monkeypatch.setattr(amqp_session.AmqpSession, "_on_message", on_message)
    section = section_of(queue_name, prefetch=1000, batch={"max": 100})
    publish_amqp(broker, section, [message._replace(body=b"x" * 2000) for message in numbered(3000)])
    received: list[Message] = []
    with running(broker, section) as source:
        while len(received) < 3000:
            received += receive(source, 100)
            source.pause("now and then")
            while not source.drained():
                received += receive(source, 1, seconds=0.01)
            source.resume()
        finish(source)
    assert len(received) == 3000
    assert not any(redelivered)


def test_a_deleted_queue_is_made_again_and_consumed(
    broker: Broker, channel: pika.adapters.blocking_connection.BlockingChannel, queue_name: str
) -> None:
    section = section_of(queue_name)
    with running(broker, section) as source:
        publish_amqp(broker, section, numbered(3))
        assert len(receive(source, 3)) == 3
        finish(source)
        channel.queue_delete(queue_name)
        assert wait_until(lambda: exists(broker, queue_name), PATIENCE)
        assert wait_until(lambda: source.status().attached, PATIENCE)
        publish_amqp(broker, section, numbered(3))
        assert len(receive(source, 3)) == 3


def test_a_missing_queue_is_waited_for_where_nothing_may_be_declared(
    broker: Broker, channel: pika.adapters.blocking_connection.BlockingChannel, queue_name: str
) -> None:
    section = section_of(queue_name, declare=False)
    with running(broker, section, attached=False) as source:
        assert wait_until(lambda: f"the queue '{queue_name}' does not exist" in source.status().detail, PATIENCE)
        assert not source.status().attached
        assert not exists(broker, queue_name)
        channel.queue_declare(queue_name, durable=False, auto_delete=False)
        assert wait_until(lambda: source.status().attached, PATIENCE)


def test_what_exists_is_used_as_it_is(
    broker: Broker, channel: pika.adapters.blocking_connection.BlockingChannel, queue_name: str
) -> None:
    channel.exchange_declare(f"{queue_name}.x", "direct", durable=False, auto_delete=True)
    channel.queue_declare(queue_name, durable=True, arguments={"x-max-length": 7})
    section = section_of(
        queue_name, exchange=f"{queue_name}.x", exchange_type="topic", queue_type="quorum", routing_keys=["a"]
    )
    with running(broker, section) as source:
        publish_amqp(broker, section, numbered(2, routing_key="a"))
        assert len(receive(source, 2)) == 2
    warnings = probe_amqp(broker, section, "pod")
    assert any(f"the exchange '{queue_name}.x' is used as it is" in warning for warning in warnings), warnings
    assert any(f"the queue '{queue_name}' is used as it is" in warning for warning in warnings), warnings


def test_makes_exchange_queue_and_bindings(broker: Broker, queue_name: str) -> None:
    section = section_of(queue_name, exchange=f"{queue_name}.x", routing_keys=["order.*", "refund"])
    assert probe_amqp(broker, section, "pod") == []
    assert not exists(broker, queue_name), "the probe made it"
    with running(broker, section) as source:
        orders, refunds = numbered(1, routing_key="order.placed"), numbered(1, first=1, routing_key="refund")
        publish_amqp(broker, section, [*orders, *refunds])
        received = receive(source, 2)
        finish(source)
    assert {message.routing_key for message in received} == {"order.placed", "refund"}
    with pytest.raises(PublishError, match=r"no queue takes it.*invoice"):
        publish_amqp(broker, section, numbered(1, routing_key="invoice"))


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_every_pod_gets_every_message(
    broker: Broker,
    channel: pika.adapters.blocking_connection.BlockingChannel,
    queue_name: str,
    queue_type: str,
) -> None:
    section = section_of(
        queue_name, exchange=f"{queue_name}.x", delivery="every-pod", queue_type=queue_type, routing_keys=["#"]
    )
    with running(broker, section, "pod-a") as one, running(broker, section, "pod-b") as other:
        publish_amqp(broker, section, numbered(30))
        for source in (one, other):
            assert sorted(bodies(receive(source, 30))) == sorted(bodies(numbered(30)))
            finish(source)
    arguments = {"x-queue-type": queue_type, "x-expires": 24 * 3600 * 1000}
    channel.queue_declare(f"{queue_name}.pod-a", durable=True, arguments=arguments)


def test_every_pod_needs_an_exchange(broker: Broker) -> None:
    with pytest.raises(ValueError, match="needs an exchange"):
        AmqpSource("orders", broker, section_of("q", delivery="every-pod"), pod_name="pod")


def test_a_wrong_password_is_told_but_not_shown(rabbitmq: RabbitMQ, queue_name: str) -> None:
    url = rabbitmq.url.replace("guest:guest", "guest:sesame-sesame")
    with running(Broker(url=url), section_of(queue_name), attached=False) as source:
        assert wait_until(lambda: "ACCESS_REFUSED" in source.status().detail, PATIENCE), source.status()
        assert "sesame" not in source.status().detail
    with pytest.raises(BrokerUnreachable, match="ACCESS_REFUSED") as caught:
        publish_amqp(Broker(url=url), section_of(queue_name), numbered(1))
    assert "sesame" not in str(caught.value)


def test_keys_win_over_the_credentials_of_the_url(rabbitmq: RabbitMQ, queue_name: str) -> None:
    url = rabbitmq.url.replace("guest:guest", "nobody:nothing")
    with running(Broker(url=url, username="guest", password="guest"), section_of(queue_name)):
        pass


def test_a_broker_that_answers_no_consume_is_left_and_tried_again(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a quorum queue that lost its leader: the connection's heartbeats go on."""
    monkeypatch.setattr(amqp_session, "ATTACH_PATIENCE", 0.2)
    monkeypatch.setattr(amqp_session.AmqpSession, "_consume", lambda *_: None)
    with running(broker, section_of(queue_name), attached=False) as source:
        assert wait_until(lambda: "did not let us consume" in source.status().detail, PATIENCE)
        monkeypatch.undo()
        assert wait_until(lambda: source.status().attached, PATIENCE)


def test_an_error_of_ours_in_a_callback_costs_one_session(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(amqp_session.AmqpSession, "_hand_over", fail)
    publish_amqp(broker, section_of(queue_name), numbered(5))
    with running(broker, section_of(queue_name), attached=False) as source:
        assert wait_until(lambda: "a bug" in source.status().detail, PATIENCE)
        monkeypatch.undo()
        assert len(receive(source, 5)) == 5


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_port(rabbitmq: RabbitMQ, authority: trustme.CA) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with tls_front(rabbitmq.port, context) as port:
        yield port


def test_speaks_tls_and_verifies(secure_port: int, authority: trustme.CA, queue_name: str, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusted = Broker.model_validate(
        {"url": f"amqps://guest:guest@localhost:{secure_port}/", "tls": {"ca": str(tmp_path / "ca.pem")}}
    )
    with running(trusted, section_of(queue_name)) as source:
        publish_amqp(trusted, section_of(queue_name), numbered(50))
        assert len(receive(source, 50)) == 50
        finish(source)


def test_refuses_a_broker_that_it_cannot_verify(secure_port: int, queue_name: str) -> None:
    url = f"amqps://guest:guest@localhost:{secure_port}/"
    with pytest.raises(BrokerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        publish_amqp(Broker(url=url), section_of(queue_name), numbered(1))
    insecure = Broker.model_validate({"url": url, "tls": {"insecure": True}})
    assert publish_amqp(insecure, section_of(queue_name), numbered(1)) == 1


def test_publishing_tells_what_is_wrong(broker: Broker, rabbitmq: RabbitMQ, queue_name: str) -> None:
    with pytest.raises(BrokerUnreachable, match="refused"):
        publish_amqp(Broker(url="amqp://127.0.0.1:9/"), section_of(queue_name), numbered(1))
    with pytest.raises(BrokerUnreachable, match="vhost"):
        publish_amqp(Broker(url=f"{rabbitmq.url}nowhere"), section_of(queue_name), numbered(1))
    with pytest.raises(PublishError, match="does not exist"):
        publish_amqp(broker, section_of(queue_name, declare=False), numbered(1))
    with pytest.raises(PublishError, match=r"message 3 cannot be published.*ShortString") as caught:
        publish_amqp(broker, section_of(queue_name), [*numbered(2), Message(b"", correlation=b"x" * 256)])
    assert caught.value.confirmed <= 2
    with pytest.raises(ZeroDivisionError):
        publish_amqp(broker, section_of(queue_name), (Message(b"%d" % (1 // number)) for number in (1, 0)))


def test_publishes_thousands_and_counts_them(broker: Broker, queue_name: str) -> None:
    section = section_of(queue_name, batch=BatchBounds(max=500))
    assert publish_amqp(broker, section, []) == 0
    assert publish_amqp(broker, section, numbered(5000)) == 5000
    with running(broker, section) as source:
        assert len(receive(source, 5000)) == 5000


def test_the_probe_tells_what_would_be_lost_or_waited_for(broker: Broker, queue_name: str) -> None:
    waited = probe_amqp(broker, section_of(queue_name, exchange=f"{queue_name}.x", declare=False), "pod")
    assert len(waited) == 2
    assert all("does not exist, and declare is false" in warning for warning in waited)
    (lost,) = probe_amqp(broker, section_of(queue_name, dead_letter_exchange="no-such"), "pod")
    assert "the dead-letter exchange 'no-such' does not exist" in lost
    (dropped,) = probe_amqp(broker, section_of(queue_name, queue_type="quorum"), "pod")
    assert "quorum queue without dead_letter_exchange" in dropped
    with pytest.raises(BrokerUnreachable):
        probe_amqp(Broker(url="amqp://127.0.0.1:9/"), section_of(queue_name), "pod")
