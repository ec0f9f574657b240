"""Publishes with confirms and writes down what it tried and what was confirmed.

Promises: an attempt is written down before its first byte is sent, a confirmation after the broker gave it. What was
not confirmed is, mostly, sent again under a new number, as a producer would.
"""

import contextlib
import json
import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator

import pika
from kafka import KafkaProducer
from kafka.errors import KafkaError

from bridge.config.model import LocalSourceSection
from bridge.message import Message as BusMessage
from bridge.publish import close_producer
from bridge.sources.local import publish_local
from scheduler.job import preview
from scheduler.storage import Storage, StoreUnavailable
from tests.faults.history import Journal
from tests.faults.observer import body_digest
from tests.faults.terms import BOOKED, KEY, KEYS, LIMITED, LOCKED, ROUTE, TASKS
from tests.integration import amqp_wire

TOO_LARGE = 512 * 1024
"""The source's `max_message_bytes` in fault runs."""


class Message:
    """What is sent, and whether it must become a job."""

    def __init__(
        self,
        body: bytes,
        correlation: bytes | None,
        *,
        good: bool = True,
        encoding: str = "",
        table: bytes = b"",
        route: str = TASKS,
        key: str = "",
    ) -> None:
        self.body = body
        self.correlation = correlation
        self.good = good
        self.encoding = encoding
        self.table = table
        """Headers of AMQP as they are on the wire, which no client would send."""
        self.route = route
        self.key = key

    @property
    def headers(self) -> dict[str, str]:
        """What says which route it is to go, and with which lock."""
        route = {} if self.route == TASKS else {ROUTE: self.route}
        return route | ({KEY: self.key} if self.key else {})


class Traffic:
    """An endless mix of messages, decided by a seed: duplicates, poison, giants, handlers that raise, a tenth that goes
    the limited route, others the locked and the booked one, and plain ones.

    :param giant: bytes of the largest giant.
    :param without: kinds of poison that the broker can't carry.
    """

    DUPLICATES, POISON, CONFLICTS, GIANTS, BIG = 0.30, 0.01, 0.002, 0.0005, 0.003
    POISONS = ("json", "type", "no-id", "deep", "number", "nan", "encoding", "twice", "empty", "headers")

    def __init__(self, seed: int, giant: int, without: Collection[str] = ()) -> None:
        self._dice = random.Random(seed)
        self._giant = giant
        self._poisons = [kind for kind in self.POISONS if kind not in without]
        self._recent: list[Message] = []
        self._count = 0

    def task(self, act: str = "", sleep: float = 0.0, pad: int = 0, *, route: str = TASKS, key: str = "") -> Message:
        """A new message that becomes a job."""
        self._count += 1
        body: dict[str, object] = {"n": self._count}
        body |= {"sleep": round(sleep, 3)} if sleep else {}
        body |= {"act": act} if act else {}
        body |= {"pad": "x" * pad} if pad else {}
        identity = f"task-{self._count}".encode()
        if self._count % 50 == 0:
            identity += b"\xff\x00 " if self._count % 100 else b" "
        return Message(json.dumps(body).encode(), identity, route=route, key=key)

    def __iter__(self) -> Iterator[Message]:
        dice = self._dice
        while True:
            draw = dice.random()
            if draw < self.DUPLICATES and self._recent:
                yield dice.choice(self._recent[-50:] if dice.random() < 0.7 else self._recent)
            elif draw < self.DUPLICATES + self.POISON:
                yield self._poison(dice.choice(self._poisons))
            elif draw < self.DUPLICATES + self.POISON + self.CONFLICTS and self._recent:
                other = json.dumps({"n": -self._count, "pad": "another body under the same ID"}).encode()
                first = dice.choice(self._recent)
                yield Message(other, first.correlation, route=first.route, key=first.key)
            else:
                yield self._keep(self._plain(draw))

    def _plain(self, draw: float) -> Message:
        dice = self._dice
        if draw > 1 - self.GIANTS:
            self._count += 1
            return Message(
                b"x" * dice.randrange(TOO_LARGE + 1, self._giant), f"giant-{self._count}".encode(), good=False
            )
        if draw > 1 - self.GIANTS - self.BIG:
            return self.task(pad=dice.randrange(10_000, TOO_LARGE - 1000))
        if draw > 0.98:
            return self.task(act=dice.choice(["raise-once", "raise-once", "raise-once", "leave", "recurse"]))
        if draw > 0.9795:
            return self.task(act="raise")
        if draw > 0.955:
            return self.task(sleep=dice.uniform(1.0, 4.0))
        if draw < 0.38:
            act = "raise-once" if dice.random() < 0.03 else ""
            return self.task(act=act, sleep=dice.uniform(0.02, 0.25), route=LIMITED)
        if draw < 0.45:
            act = "raise-once" if dice.random() < 0.25 else ""
            return self.task(act=act, sleep=dice.uniform(0.02, 0.15), route=LOCKED, key=dice.choice(KEYS))
        if draw < 0.49:
            act = dice.choice(["raise", "raise-once", "raise-once"]) if dice.random() < 0.1 else ""
            return self.task(act=act, sleep=dice.uniform(0.0, 0.05), route=BOOKED)
        return self.task(sleep=dice.uniform(0.02, 0.2) if draw > 0.85 else 0.0)

    def _keep(self, message: Message) -> Message:
        if message.good:
            self._recent.append(message)
            if len(self._recent) > 5000:
                del self._recent[:2500]
        return message

    def _poison(self, kind: str) -> Message:
        self._count += 1
        n, identity = self._count, f"poison-{self._count}".encode()
        bodies = {
            "json": b'{"n": %d' % n,
            "type": b'{"n": "no number %d"}' % n,
            "deep": b"[" * 50_000 + b"%d" % n,
            "number": b'{"n": ' + b"9" * 5000 + b"%d}" % n,
            "nan": b'{"n": %d, "sleep": NaN}' % n,
            "twice": b'{"n": %d, "n": 1}' % n,
            "empty": b" " * n,
        }
        body = bodies.get(kind, b'{"n": %d}' % n)
        encoding = "gzip" if kind == "encoding" else ""
        table = self._dice.choice(list(amqp_wire.POISON.values())) if kind == "headers" else b""
        return Message(body, None if kind == "no-id" else identity, good=False, encoding=encoding, table=table)


class Wire(ABC):
    """How messages leave: one connection that may break at any time."""

    @abstractmethod
    def send(self, message: Message, confirmed: Callable[[], None], failed: Callable[[], None]) -> None:
        """Send; one of the two is called, now or later, at most once."""

    @abstractmethod
    def close(self) -> None:
        """Wait for what is under way, then close."""


class Amqp(Wire):
    """One message at a time."""

    def __init__(self, url: str, exchange: str, routing_key: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 4
        self._parameters.socket_timeout = 3
        self._parameters.stack_timeout = 5
        self._parameters.blocked_connection_timeout = 5
        self._place = exchange, routing_key
        self._connection: pika.BlockingConnection | None = None
        self._channel: pika.adapters.blocking_connection.BlockingChannel | None = None

    def send(self, message: Message, confirmed: Callable[[], None], failed: Callable[[], None]) -> None:
        try:
            if self._channel is None:
                self._connection = pika.BlockingConnection(self._parameters)
                self._channel = self._connection.channel()
                self._channel.confirm_delivery()
            properties = pika.BasicProperties(
                delivery_mode=2,
                correlation_id=message.correlation,
                content_encoding=message.encoding or None,
                headers=message.headers or None,
            )
            if message.table:
                properties = amqp_wire.RawProperties(message.table, (message.correlation or b"").decode())
            self._channel.basic_publish(*self._place, message.body, properties, mandatory=True)
        except Exception:  # some of the client's own errors derive from none of its classes
            self._drop()
            failed()
        else:
            confirmed()

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.close()

    def close(self) -> None:
        self._drop()


class KafkaWire(Wire):
    """Many on their way at a time."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer: KafkaProducer | None = None
        self._broken = threading.Event()

    def send(self, message: Message, confirmed: Callable[[], None], failed: Callable[[], None]) -> None:
        if self._broken.is_set():
            self.close()
            self._broken.clear()
        headers = [("correlation_id", message.correlation)] if message.correlation is not None else []
        headers += [(name, value.encode()) for name, value in message.headers.items()]
        if message.encoding:
            headers.append(("content-encoding", message.encoding.encode()))
        try:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    linger_ms=5,
                    max_block_ms=3000,
                    request_timeout_ms=4000,
                    delivery_timeout_ms=10_000,
                    bootstrap_timeout_ms=3000,
                )
            future = self._producer.send(self._topic, message.body, headers=headers)
        except (KafkaError, OSError):
            self._broken.set()
            failed()
            return

        def on_failure(_: BaseException) -> None:
            self._broken.set()
            failed()

        future.add_callback(lambda _: confirmed()).add_errback(on_failure)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, AssertionError):
                producer.flush(timeout=5)
            close_producer(producer)


class Local(Wire):
    """A commit is the confirmation."""

    def __init__(self, storage: Storage, section: LocalSourceSection) -> None:
        self._storage = storage
        self._section = section

    def send(self, message: Message, confirmed: Callable[[], None], failed: Callable[[], None]) -> None:
        try:
            headers = tuple((name, value.encode()) for name, value in message.headers.items())
            publish_local(self._storage, self._section, [BusMessage(message.body, headers, message.correlation)])
        except StoreUnavailable:
            failed()
        else:
            confirmed()

    def close(self) -> None:
        """Nothing is held."""


class Publisher(threading.Thread):
    """Sends so many messages a second from the traffic, and what is injected."""

    def __init__(self, wire: Wire, traffic: Traffic, rate: float, journal: Journal, seed: int) -> None:
        super().__init__(name="publisher", daemon=True)
        self._wire = wire
        self._traffic = traffic
        self._rate = rate
        self._journal = journal
        self._dice = random.Random(seed + 1)
        self._injected: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._again: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._number = 0
        self.confirmed = 0
        self._failures = 0

    def inject(self, message: Message) -> None:
        """Send this one next."""
        self._injected.put(message)

    def run(self) -> None:
        messages = iter(self._traffic)
        due = time.monotonic()
        while not self._stopping.is_set():
            self._send(self._next(messages))
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            if self._failures:
                self._stopping.wait(0.2)  # the broker is away: no storm of attempts
            elif (ahead := due - time.monotonic()) > 0.005:
                self._stopping.wait(ahead)

    def _next(self, messages: Iterator[Message]) -> Message:
        for waiting in (self._injected, self._again):
            with contextlib.suppress(queue.Empty):
                return waiting.get_nowait()
        return next(messages)

    def _send(self, message: Message) -> None:
        self._number += 1
        number = self._number
        shown = preview((message.correlation or b"")[:255])
        digest = body_digest(message.body)
        self._journal.write(
            "attempted", n=number, id=shown, digest=digest, good=message.good, route=message.route, key=message.key
        )

        def confirmed() -> None:
            self._journal.write("confirmed", n=number)
            self.confirmed += 1
            self._failures = 0

        def failed() -> None:
            self._failures += 1
            if self._dice.random() < 0.8:
                self._again.put(message)

        self._wire.send(message, confirmed, failed)

    def stop(self) -> None:
        """Send no more; what is on its way is confirmed, or never will be."""
        self._stopping.set()
        self.join(60)
        self._wire.close()
