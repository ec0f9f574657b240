"""Exchange, queue and bindings of a source, looked up first and made where they are missing.

A plan is a generator: it yields an operation, and is sent the broker's refusal or None. `carry_out` gives each
operation a channel of its own, since a refusal closes it.

Promises: what exists, of any type, is used as it is; what is missing is made in the order exchange, queue,
binding, and only if the source may declare.
"""

import functools
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

import pika
import pika.exceptions

from bridge.config.model import AmqpSourceSection
from bridge.sources.connect import Explained

EXPIRES = 24 * 3600 * 1000
"""Milliseconds after which the queue of a pod that is gone is deleted."""


class Channel(Protocol):
    """What pika's channels, blocking or not, have in common here."""

    def exchange_declare(self, exchange: str, **keywords: object) -> object: ...
    def queue_declare(self, queue: str, **keywords: object) -> object: ...
    def queue_bind(self, queue: str, exchange: str, **keywords: object) -> object: ...


class Refusal(NamedTuple):
    code: int
    text: str


class Unavailable(Explained):
    """The plan cannot go on now; the text says why."""


class Exchange(NamedTuple):
    name: str
    type: str = "direct"
    passive: bool = True

    def send(self, channel: Channel, **keywords: object) -> None:
        channel.exchange_declare(self.name, exchange_type=self.type, passive=self.passive, durable=True, **keywords)


class Queue(NamedTuple):
    name: str
    arguments: dict[str, str | int]
    passive: bool = True

    def send(self, channel: Channel, **keywords: object) -> None:
        channel.queue_declare(self.name, passive=self.passive, durable=True, arguments=self.arguments, **keywords)


class Binding(NamedTuple):
    queue: str
    exchange: str
    routing_key: str

    def send(self, channel: Channel, **keywords: object) -> None:
        channel.queue_bind(self.queue, self.exchange, routing_key=self.routing_key, **keywords)


Operation = Exchange | Queue | Binding
Plan = Generator[Operation, Refusal | None, None]


def carry_out(
    connection: pika.connection.Connection,
    plan: Plan,
    on_done: Callable[[], None],
    on_unavailable: Callable[[Unavailable], None],
) -> None:
    """Drive the plan on an open connection's I/O loop. Neither is called if the connection is lost meanwhile."""

    def advance(step: Callable[[], Operation]) -> None:
        try:
            operation = step()
        except StopIteration:
            on_done()
        except Unavailable as why:
            on_unavailable(why)
        else:
            connection.channel(on_open_callback=functools.partial(operate, operation))

    def operate(operation: Operation, channel: pika.channel.Channel) -> None:
        channel.add_on_close_callback(operated)
        operation.send(channel, callback=lambda _frame: channel.close())

    def operated(_channel: pika.channel.Channel, why: BaseException) -> None:
        if connection.is_open:
            advance(functools.partial(plan.send, _refusal(why)))

    advance(functools.partial(next, plan))


def queue_name(section: AmqpSourceSection, pod_name: str) -> str:
    return f"{section.queue}.{pod_name}" if section.delivery == "every-pod" else section.queue


def queue_arguments(section: AmqpSourceSection) -> dict[str, str | int]:
    arguments: dict[str, str | int] = {"x-queue-type": section.queue_type}
    if section.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = section.dead_letter_exchange
    if section.delivery == "every-pod":
        arguments["x-expires"] = EXPIRES
    return arguments


def routing_keys(section: AmqpSourceSection) -> tuple[str, ...]:
    if section.routing_keys is not None:
        return section.routing_keys
    defaults: dict[str, str] = {"topic": "#", "direct": section.queue}
    return (defaults.get(section.exchange_type, ""),)


def exchange_plan(section: AmqpSourceSection) -> Plan:
    if not section.exchange:
        return
    exchange = Exchange(section.exchange, section.exchange_type)
    yield from _present(exchange, exchange._replace(passive=False), section.declare)


def plan(section: AmqpSourceSection, pod_name: str) -> Plan:
    """:raises Unavailable: something is missing and may not, or could not, be made."""
    yield from exchange_plan(section)
    queue = Queue(queue_name(section, pod_name), queue_arguments(section))
    yield from _present(queue, queue._replace(passive=False), section.declare)
    if section.exchange and section.declare:
        for key in routing_keys(section):
            if refused := (yield Binding(queue.name, section.exchange, key)):
                raise Unavailable(f"cannot bind {queue.name!r} to {section.exchange!r}: {refused.text}")


def _present(lookup: Exchange | Queue, making: Exchange | Queue, declare: bool) -> Plan:
    noun = type(lookup).__name__.lower()
    refused = yield lookup
    if refused is None:
        return
    if refused.code != 404:
        raise Unavailable(f"the {noun} {lookup.name!r}: {refused.text}")
    if not declare:
        raise Unavailable(f"the {noun} {lookup.name!r} does not exist")
    if refused := (yield making):
        raise Unavailable(f"cannot declare the {noun} {lookup.name!r}: {refused.text}")


def _refusal(why: BaseException) -> Refusal | None:
    """What closed an operation's channel: the broker's refusal, or, None, ourselves after it was done."""
    if isinstance(why, pika.exceptions.ChannelClosedByBroker):
        return Refusal(int(why.reply_code), str(why.reply_text))
    return None
