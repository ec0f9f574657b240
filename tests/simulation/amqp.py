"""A RabbitMQ in memory, and the product's AMQP source on it.

The source, its session, its acks and its isolation are the product's; pika's connection, channel and I/O loop are
replaced. What is sent waits until the source's I/O step reads it; a connection that is lost gives back what was not
acked, in its old order; an ack may be lost with its connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika

from bridge.sources import amqp_session
from bridge.sources.amqp import AmqpSource
from bridge.sources.amqp_session import AmqpSession
from tests.simulation.source import NeverWaits
from tests.simulation.traffic import Published

if TYPE_CHECKING:
    from tests.simulation.pods import SimPod

SILENCE = 20.0
"""Seconds after which the broker drops a connection that sends no heartbeat."""


class Loop:
    """Stands in for pika's IOLoop: callbacks and timers, on virtual time."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = lambda: 0.0
        self.stopped = False
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        if delay <= 0:
            self._soon.append(callback)
        else:
            self._timers.append((self.now() + delay, callback))

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self._soon.clear()
        self._timers.clear()

    def due(self) -> bool:
        return bool(self._soon) or any(at <= self.now() for at, _ in self._timers)

    def next_timer(self) -> float:
        return min((at for at, _ in self._timers), default=float("inf"))

    def run(self) -> None:
        """All that is due now."""
        now = self.now()
        self._soon += [callback for at, callback in self._timers if at <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _ in range(len(self._soon)):
            if self._soon:
                self._soon.popleft()()


class Queue:
    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[Published] = deque()
        self.channels: list[Channel] = []


class Link:
    """A connection as pika shows it."""

    def __init__(self, broker: AmqpBroker, session: AmqpSession, pod: SimPod) -> None:
        self.broker = broker
        self.session = session
        self.pod = pod
        self.is_open = True
        self.is_closing = False
        self.channel = Channel(self)

    @property
    def is_closed(self) -> bool:
        return not self.is_open

    def close(self) -> None:
        """The client says goodbye."""
        self.is_closing = True
        self.drop()
        self.session._on_over(self, amqp_session.LostSession("closed"))

    def drop(self) -> None:
        """The broker sees it end: what was not acked goes back."""
        if self.is_open:
            self.is_open = False
            self.channel.give_back()


class Channel:
    """A channel as pika shows it, and what the broker knows of it."""

    def __init__(self, connection: Link) -> None:
        self.connection = connection
        self.incoming: deque[tuple[int, Published]] = deque()
        self.unacked: dict[int, tuple[Queue, Published]] = {}
        self.prefetch = 0
        self.queue: Queue | None = None
        self._cancelled: set[str] = set()
        self._tag = 0
        self._on_message: Callable[..., object] = print

    @property
    def is_open(self) -> bool:
        return self.connection.is_open

    def add_on_close_callback(self, callback: object) -> None: ...
    def add_on_cancel_callback(self, callback: object) -> None: ...

    def _answer(self, callback: Callable[[object], object]) -> None:
        self.connection.session._ioloop.add_callback_threadsafe(lambda: callback(None))

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[object], object]) -> None:
        self.prefetch = prefetch_count
        self._answer(callback)

    def queue_declare(self, name: str, *, passive: bool, callback: Callable[[object], object]) -> None:
        count = pika.spec.Queue.DeclareOk(name, len(self.connection.broker.queue(name).ready), 1)
        self.connection.session._ioloop.add_callback_threadsafe(lambda: callback(pika.frame.Method(1, count)))

    def basic_consume(self, queue: str, on_message: Callable[..., object], callback: Callable[[object], object]) -> str:
        self._on_message = on_message
        self.queue = self.connection.broker.queue(queue)
        self.queue.channels.append(self)
        self._answer(callback)
        return "consumer"

    def basic_cancel(self, tag: str, callback: Callable[[object], object]) -> None:
        self._leave_queue()
        self._answer(callback)

    def basic_ack(self, tag: int, multiple: bool) -> None:
        pod = self.connection.pod
        pod.ack_point("before")
        if self.is_open and pod.loses_ack():
            self.connection.drop()
        if self.is_open:
            tags = [one for one in self.unacked if one <= tag] if multiple else [tag]
            for one in tags:
                if one not in self.unacked:
                    pod.world.checker.violated(
                        "I1", f"{pod.label} acked tag {one}, which was not delivered or is acked"
                    )
                    continue
                _, published = self.unacked.pop(one)
                pod.world.checker.acked(published, pod.label)
        pod.ack_point("after")

    def room(self) -> int:
        return max(0, self.prefetch - len(self.unacked))

    def deliver(self, queue: Queue, published: Published) -> None:
        self._tag += 1
        self.unacked[self._tag] = (queue, published)
        self.incoming.append((self._tag, published))

    def read(self) -> None:
        """Hand what has arrived to the session."""
        while self.incoming:
            tag, published = self.incoming.popleft()
            method = pika.spec.Basic.Deliver("consumer", tag, published.delivered > 1, "", published.source)
            properties = pika.BasicProperties(correlation_id=published.correlation, headers=published.headers or None)
            self._on_message(self, method, properties, published.body)

    def give_back(self) -> None:
        self._leave_queue()
        for tag in sorted(self.unacked, reverse=True):
            queue, published = self.unacked[tag]
            queue.ready.appendleft(published)
        self.unacked.clear()

    def _leave_queue(self) -> None:
        if self.queue is not None:
            self.queue.channels.remove(self)
            self.queue = None


class AmqpBroker:
    """Queues, and who consumes."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.links: list[Link] = []
        self.is_down = False

    def queue(self, name: str) -> Queue:
        return self.queues.setdefault(name, Queue(name))

    def connect(self, session: AmqpSession, pod: SimPod) -> Link:
        link = Link(self, session, pod)
        self.links.append(link)
        return link

    def pump(self, choose: Callable[[list[Channel]], Channel]) -> int:
        """Deliver what can be; how many."""
        count = 0
        self.links = [link for link in self.links if link.is_open]
        for queue in self.queues.values():
            while queue.ready and (free := [channel for channel in queue.channels if channel.room()]):
                published = queue.ready.popleft()
                published.delivered += 1
                choose(free).deliver(queue, published)
                count += 1
        return count

    def drop_silent(self, now: float) -> None:
        """Connections of pods that were frozen too long."""
        for link in self.links:
            if link.pod.frozen_since is not None and now - link.pod.frozen_since > SILENCE:
                link.drop()

    def rest(self) -> int:
        """Messages that wait or are not acked."""
        unacked = sum(len(link.channel.unacked) for link in self.links if link.is_open)
        return sum(len(queue.ready) for queue in self.queues.values()) + unacked


class SimAmqpSource(NeverWaits, AmqpSource):
    """The product's source; its I/O thread is `io_step`."""

    def __init__(self, *args: Any, pod: SimPod, broker: AmqpBroker, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._pod = pod
        self._amqp = broker
        self._link: Link | None = None

    def arrived(self) -> bool:
        return bool(self._inbox())

    def io_wakes(self) -> bool:
        link = self._link
        if link is None:
            return False
        return not link.is_open or bool(link.channel.incoming) or self._loop(link).due()

    def io_step(self) -> float:
        link = self._link
        if link is None:
            if self._closing.is_set():
                return float("inf")
            if self._amqp.is_down:
                return self._over(None, OSError("connection refused"))
            session = self._begin()
            self._link = link = self._amqp.connect(session, self._pod)
            self._loop(link).now = self._pod.world.monotonic
            session._connection = link
            session._on_channel(link.channel)
        loop = self._loop(link)
        link.channel.read()
        loop.run()
        if not link.is_open and not loop.stopped:
            link.session._on_over(link, amqp_session.LostSession("the connection was lost"))
        if loop.stopped:
            return self._end(link)
        return max(0.0, loop.next_timer() - self._pod.world.monotonic())

    def _end(self, link: Link) -> float:
        session, self._link = link.session, None
        link.drop()
        with self._room:
            session.ended, session.inbox, session.pending = True, [], 0
        return self._over(session, session._why or amqp_session.LostSession("over"))

    @staticmethod
    def _loop(link: Link) -> Loop:
        loop = link.session._ioloop
        assert isinstance(loop, Loop)
        return loop
