"""Publishing through a source's broker: `jobbridge publish`, tests and benchmarks.

Promises: when `publish_amqp` or `publish_kafka` returns, the broker has confirmed every message, and each reached a
queue or a partition. A publisher has a connection of its own: a broker short of memory stops reading those that
publish, acks included.
Does not promise all or nothing: on an error those before `confirmed` are published.
"""

import itertools
from collections.abc import Iterable, Iterator

import pika
import pika.exceptions
from kafka import KafkaProducer
from kafka.errors import KafkaError
from pika.adapters.select_connection import SelectConnection

from bridge.config.model import AmqpSourceSection, Broker, KafkaSourceSection
from bridge.message import Message
from bridge.sources import connect, kafka_patch, pika_patch
from bridge.sources.amqp_topology import Plan, carry_out, exchange_plan, plan
from bridge.sources.kafka_message import kafka_headers
from bridge.sources.kafka_topics import TopicMissing, ensure_topics

WINDOW = 500
"""Messages on their way to an AMQP broker and not yet confirmed."""
BLOCKED_TIMEOUT = 30.0


class PublishError(Exception):
    """The text says why, without secrets."""

    confirmed = 0
    """How many messages, from the first, the broker had confirmed."""


class BrokerUnreachable(PublishError):
    """No connection, or it was lost."""


def publish_amqp(broker: Broker, section: AmqpSourceSection, messages: Iterable[Message]) -> int:
    """To the source's exchange, else its queue; how many. What the source may declare is declared first, but no
    pod's own queue. A message without a routing key has the queue's name for one.

    :raises PublishError:
    """
    steps = exchange_plan(section) if section.delivery == "every-pod" else plan(section, "")
    publisher = AmqpPublisher(broker, steps, section.exchange or "", section.queue, iter(messages))
    return publisher.run()


class AmqpPublisher:
    """Runs a connection's loop in the caller's thread until all is confirmed."""

    def __init__(self, broker: Broker, steps: Plan, exchange: str, queue: str, messages: Iterator[Message]) -> None:
        self._broker = broker
        self._steps = steps
        self._exchange = exchange
        self._queue = queue
        self._messages = messages
        self._sent = 0
        self._confirmed = 0
        """All up to this tag are confirmed."""
        self._overtook: set[int] = set()
        self._exhausted = False
        self._connected = False
        self._error: Exception | None = None

    def run(self) -> int:
        try:
            parameters = connect.amqp_parameters(self._broker, BLOCKED_TIMEOUT)
        except (OSError, ValueError) as why:
            raise BrokerUnreachable(self._explain(why)) from why
        connection = SelectConnection(parameters, self._on_open, self._on_over, self._on_over)
        try:
            connection.ioloop.start()
        finally:
            if not connection.is_closed:
                pika_patch.abort(connection, PublishError("given up"))
                connection.ioloop.start()
            connection.ioloop.close()
        if isinstance(self._error, PublishError):
            self._error.confirmed = self._confirmed
        if self._error is not None:
            raise self._error
        return self._sent

    def _explain(self, why: BaseException) -> str:
        return f"{connect.describe(self._broker)}: {connect.one_line(why, self._broker)}"

    def _fail(self, connection: SelectConnection, error: Exception) -> None:
        self._error = self._error or error
        if connection.is_open:
            connection.close()

    def _on_over(self, connection: SelectConnection, why: BaseException) -> None:
        if not self._connected or not isinstance(why, pika.exceptions.ConnectionClosedByClient):
            self._error = self._error or BrokerUnreachable(self._explain(why))
        connection.ioloop.stop()

    def _on_open(self, connection: SelectConnection) -> None:
        self._connected = True
        carry_out(
            connection,
            self._steps,
            lambda: connection.channel(on_open_callback=self._on_channel),
            lambda why: self._fail(connection, PublishError(str(why))),
        )

    def _on_channel(self, channel: pika.channel.Channel) -> None:
        channel.add_on_return_callback(self._on_returned)
        channel.add_on_close_callback(self._on_channel_closed)
        channel.confirm_delivery(
            lambda frame: self._on_confirmed(channel, frame.method), callback=lambda _frame: self._pump(channel)
        )

    def _on_channel_closed(self, channel: pika.channel.Channel, why: BaseException) -> None:
        if channel.connection.is_open:
            self._fail(channel.connection, PublishError(self._explain(why)))

    def _on_returned(self, channel: pika.channel.Channel, method: pika.spec.Basic.Return, *_content: object) -> None:
        place = f"exchange {self._exchange!r}" if self._exchange else "the default exchange"
        text = f"no queue takes it: {place}, routing key {method.routing_key!r} ({method.reply_text})"
        self._fail(channel.connection, PublishError(text))

    def _on_confirmed(self, channel: pika.channel.Channel, method: pika.spec.Basic.Ack) -> None:
        if isinstance(method, pika.spec.Basic.Nack):
            self._fail(channel.connection, PublishError("the broker refused a message (basic.nack)"))
        if self._error is not None:
            return
        if method.multiple:
            self._confirmed = max(self._confirmed, method.delivery_tag)
        else:
            self._overtook.add(method.delivery_tag)
        while self._confirmed + 1 in self._overtook:
            self._confirmed += 1
            self._overtook.discard(self._confirmed)
        self._pump(channel)

    def _pump(self, channel: pika.channel.Channel) -> None:
        """Fill the window. What it raises would be lost inside pika, and the connection with it."""
        try:
            self._fill(channel)
        except pika.exceptions.AMQPError as why:
            text = f"message {self._sent + 1} cannot be published: {connect.one_line(why, self._broker)}"
            self._fail(channel.connection, PublishError(text))
        except Exception as error:
            self._fail(channel.connection, error)
        if self._exhausted and self._confirmed >= self._sent and channel.connection.is_open:
            channel.connection.close()

    def _fill(self, channel: pika.channel.Channel) -> None:
        room = WINDOW - (self._sent - self._confirmed - len(self._overtook))
        if self._exhausted or room <= 0:
            return
        chunk = list(itertools.islice(self._messages, room))
        self._exhausted = room > len(chunk)
        for message in chunk:
            key = self._queue if message.routing_key is None else message.routing_key
            channel.basic_publish(self._exchange, key, message.body, _properties(message), mandatory=True)
            self._sent += 1


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        delivery_mode=2,
        correlation_id=message.correlation,
        message_id=message.message_id,
        type=message.type,
        content_type=message.content_type,
        headers={name: _amqp_text(value) for name, value in message.headers} or None,
    )


def _amqp_text(value: bytes) -> str | bytes:
    """Text where it is some, so that other clients see a string; else a byte array."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def publish_kafka(broker: Broker, section: KafkaSourceSection, messages: Iterable[Message]) -> int:
    """To the source's topic (the first, if it names several), which is created if the source may; how many.

    :raises PublishError:
    """
    topic = section.topic[0]
    if topic.startswith("pattern:"):
        raise PublishError(f"the source reads topics by a pattern, {topic!r}: there is no single one to publish to")
    failures: list[BaseException] = []
    confirmed = sent = 0

    def count(_metadata: object) -> None:
        nonlocal confirmed
        confirmed += 1

    try:
        ensure_topics(broker, section)
        settings = {
            "acks": "all",
            "linger_ms": 5,
            "delivery_timeout_ms": 30_000,
            "max_block_ms": 30_000,
            "request_timeout_ms": 10_000,
        }
        producer = kafka_patch.build(KafkaProducer, connect.kafka_settings(broker) | settings)
    except TopicMissing as why:
        raise PublishError(str(why)) from why
    except (KafkaError, OSError, ValueError) as why:
        text = f"{connect.describe(broker)}: {connect.one_line(why, broker)}"
        raise BrokerUnreachable(text) from why
    try:
        for message in messages:
            future = producer.send(topic, message.body, key=message.key, headers=kafka_headers(message))
            future.add_callback(count).add_errback(failures.append)
            sent += 1
            if failures:
                break
        producer.flush(timeout=35)
    except (KafkaError, AssertionError, TypeError, ValueError) as why:
        failures.append(why)
    finally:
        close_producer(producer)
    if failures:
        lost = isinstance(failures[0], KafkaError) and failures[0].retriable
        text = f"{connect.describe(broker)}: {connect.one_line(failures[0], broker)}"
        error = BrokerUnreachable(text) if lost else PublishError(text)
        error.confirmed = confirmed
        raise error
    return sent


def close_producer(producer: KafkaProducer) -> None:
    """Close it, whether or not the broker still takes what is on its way: `close` flushes first, and where a frozen
    broker lets that fail it raises and closes nothing."""
    try:
        producer.close(timeout=5)
    except KafkaError:
        producer.flush = lambda timeout=None: None
        producer.close(timeout=0)
        producer._sender.join(5.0)  # it closes the sockets
