"""One connection of an AMQP source, from connect to loss: delivery tags live and die with it.

Promises: a batch's ack never covers a message outside the batch that was not acked before; acks in arrival order
are one frame each, others one frame a message. What came and was not acked is the broker's again when the session
ends. A pause lets what is on its way arrive; nothing is returned by us. (A quorum queue itself takes back what it
had sent off just before a cancel, and counts one delivery.)
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from bridge.sources import pika_patch
from bridge.sources.amqp_topology import Plan, carry_out
from bridge.sources.connect import Explained

LOG = logging.getLogger("jobbridge.source")
CLOSE_PATIENCE = 2.0
"""Seconds that a closing broker may take to answer before its socket is dropped."""

ATTACH_PATIENCE = 30.0
"""Seconds from open connection to consuming. A quorum queue without a leader answers nothing, for ever, and
heartbeats go on."""
ISOLATION = 10.0
"""Seconds of fetching one by one, at most, without a loss: what breaks connections is not there, or not a message."""

Delivery = tuple[pika.spec.Basic.Deliver, pika.BasicProperties, bytes]


class LostSession(Explained):
    """Why a session ended, where no client's error says so."""


class Acked:
    """Which delivery tags are acked: all up to `prefix`, and single ranges that overtook it."""

    def __init__(self) -> None:
        self.prefix = 0
        self._overtook: dict[int, int] = {}

    def add(self, first: int, last: int) -> tuple[range, bool]:
        """The tags to ack now, and whether each stands for all before it (`multiple`)."""
        if first <= self.prefix or first in self._overtook:
            return range(0), False
        if first == self.prefix + 1:
            self.prefix = last
            while self.prefix + 1 in self._overtook:
                self.prefix = self._overtook.pop(self.prefix + 1)
            return range(last, last + 1), True
        self._overtook[first] = last
        return range(first, last + 1), False


class AmqpSession:
    """`run` is the I/O thread's; methods without an underscore are any thread's; the rest run on the I/O loop.

    Shared with the ingest thread, under `room`: `inbox`, `pending`, `ended`.
    """

    def __init__(
        self,
        plan: Plan,
        queue: str,
        prefetch: int,
        *,
        isolated: bool,
        paused: bool,
        room: threading.Condition,
        on_attached: Callable[[AmqpSession], None],
    ) -> None:
        self.inbox: list[Delivery] = []
        self.pending = 0
        """Acks given and not yet sent."""
        self.ended = False
        self.consumed = False
        """It got as far as consuming: its loss may be a message's fault."""
        self.acks = 0
        self.depth: int | None = None
        """Messages that waited in the queue when it was asked last."""
        self._plan = plan
        self._queue = queue
        self._prefetch = prefetch
        self.isolated = isolated
        """One message at a time."""
        self._alone = 0
        """Messages that got through so."""
        self._paused = paused
        self._room = room
        self._on_attached = on_attached
        self._fresh: list[Delivery] = []
        self._acked = Acked()
        self._ioloop = IOLoop()
        self._connection: SelectConnection | None = None
        self._channel: pika.channel.Channel | None = None
        self._consumer_tag = ""
        self._consuming = 0
        """The prefetch of the running consumer; 0: there is none."""
        self._changing = False
        self._why: BaseException | None = None

    def run(self, parameters: pika.ConnectionParameters) -> BaseException:
        """Connect, consume, and return why it ended; raises nothing."""
        try:
            self._connection = SelectConnection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_over,
                on_close_callback=self._on_over,
                custom_ioloop=self._ioloop,
            )
            self._ioloop.start()
        except Exception as error:
            LOG.exception("the connection's loop ended by an error of ours")
            self._fail(error)
        finally:
            self._drop_connection()
            with self._room:
                self.ended, self.inbox, self.pending = True, [], 0
                self._room.notify_all()
            self._ioloop.close()
        return self._why or LostSession("the connection is closed")

    def ack(self, first: int, last: int) -> None:
        """Call with `room` held."""
        self.pending += 1
        self._soon(functools.partial(self._ack, first, last))

    def pause(self, paused: bool) -> None:
        self._paused = paused
        self._soon(self._regulate)

    def ask_depth(self) -> None:
        self._soon(self._ask_depth)

    def _ask_depth(self) -> None:
        if self._channel is not None and self._channel.is_open:
            self._channel.queue_declare(self._queue, passive=True, callback=self._on_depth)

    def _on_depth(self, answer: pika.frame.Method) -> None:
        self.depth = answer.method.message_count

    def close(self) -> None:
        self._soon(functools.partial(self._fail, LostSession("the source is closed")))

    @property
    def quiet(self) -> bool:
        """Nothing waits to be handed out or to be sent, and, if paused, nothing more comes. Call with `room` held."""
        if self.ended:
            return True
        flowing = self._paused and (self._consuming > 0 or self._changing)
        return not (self.inbox or self._fresh or self.pending or flowing)

    def _soon(self, callback: Callable[[], None]) -> None:
        self._ioloop.add_callback_threadsafe(callback)

    def _ack(self, first: int, last: int) -> None:
        channel = self._channel
        if channel is not None and channel.is_open:
            tags, multiple = self._acked.add(first, last)
            for tag in tags:
                channel.basic_ack(tag, multiple=multiple)
            self.acks += 1
            self._alone += last - first + 1
            if self.isolated and self._alone >= self._prefetch:
                self._leave_isolation()
        with self._room:
            self.pending -= 1

    # A failure of any kind ends the session; the source starts the next.

    def _fail(self, why: BaseException) -> None:
        self._why = self._why or why
        connection = self._connection
        if connection is None or connection.is_closed:
            self._ioloop.stop()
        elif not connection.is_closing:
            connection.close()
            self._ioloop.call_later(CLOSE_PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self._connection is not None and not self._connection.is_closed:
            pika_patch.abort(self._connection, LostSession("the broker did not answer"))
            self._ioloop.call_later(1.0, self._ioloop.stop)

    def _on_over(self, _connection: SelectConnection, why: BaseException) -> None:
        self._why = self._why or why
        self._ioloop.stop()

    def _drop_connection(self) -> None:
        """After an error of ours left the loop: the socket is still open."""
        connection = self._connection
        if connection is not None and not connection.is_closed:
            try:
                pika_patch.abort(connection, LostSession("given up"))
                self._ioloop.call_later(1.0, self._ioloop.stop)
                self._ioloop.start()
            except Exception:
                LOG.exception("the connection could not be dropped")

    def _on_open(self, connection: SelectConnection) -> None:
        self._ioloop.call_later(ATTACH_PATIENCE, self._expect_attached)
        carry_out(connection, self._plan, lambda: connection.channel(on_open_callback=self._on_channel), self._fail)

    def _expect_attached(self) -> None:
        ready = self._channel is not None and self._paused
        if not (self.consumed or ready):
            self._fail(LostSession(f"the broker did not let us consume from {self._queue!r} in {ATTACH_PATIENCE:g} s"))

    # Consuming.

    def _on_channel(self, channel: pika.channel.Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled)
        if self._paused:
            self._on_attached(self)
        self._regulate()

    def _on_channel_closed(self, channel: pika.channel.Channel, why: BaseException) -> None:
        if channel.connection.is_open:
            self._fail(why)

    def _on_cancelled(self, _frame: object) -> None:
        self._fail(LostSession(f"the broker cancelled the consumer: the queue {self._queue!r} was deleted or moved"))

    def _regulate(self) -> None:
        """Bring the consumer to what is wanted: none while paused, else one with the prefetch of the day."""
        channel = self._channel
        if self._changing or channel is None or not channel.is_open:
            return
        wanted = 0 if self._paused else 1 if self.isolated else self._prefetch
        if self._consuming == wanted:
            return
        self._changing = True
        if self._consuming:
            pika_patch.cancel_keeping_deliveries(channel, self._consumer_tag, self._on_consumer_gone)
        else:
            channel.basic_qos(prefetch_count=wanted, callback=functools.partial(self._consume, channel, wanted))

    def _consume(self, channel: pika.channel.Channel, prefetch: int, _frame: object) -> None:
        self._consumer_tag = channel.basic_consume(
            self._queue, self._on_message, callback=functools.partial(self._on_consuming, prefetch)
        )

    def _on_consuming(self, prefetch: int, _frame: object) -> None:
        self._consuming, self._changing, self.consumed = prefetch, False, True
        self._on_attached(self)
        if self.isolated:
            self._ioloop.call_later(ISOLATION, self._leave_isolation)
        self._regulate()

    def _leave_isolation(self) -> None:
        self.isolated = False
        self._regulate()

    def _on_consumer_gone(self, _frame: object) -> None:
        self._consuming, self._changing = 0, False
        self._regulate()

    def _on_message(
        self,
        _channel: pika.channel.Channel,
        method: pika.spec.Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        if not self._fresh:
            self._ioloop.call_later(0, self._hand_over)
        self._fresh.append((method, properties, body))

    def _hand_over(self) -> None:
        """Once for all that one read of the socket brought."""
        with self._room:
            self.inbox += self._fresh
            self._fresh = []
            self._room.notify_all()
