"""`jobbridge publish`: messages through a source's own broker, confirmed."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Failed, NotFound, Unreachable
from bridge.cli.options import config_option, configured, opened, output_option
from bridge.cli.output import print_record

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from bridge.message import Message

_LOCAL_CHUNK = 200
"""Messages in one statement."""

Headers = tuple[tuple[str, bytes], ...]


def _headers(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> Headers:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter("write NAME=VALUE")
    return tuple((name, os.fsencode(value)) for name, _, value in pairs)


@click.command()
@config_option
@output_option
@click.argument("source")
@click.argument("body", required=False)
@click.option("--correlation-id", metavar="ID", help="What duplicates are known by.")
@click.option("--message-id", metavar="ID")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", callback=_headers)
@click.option("--type", "kind", metavar="TEXT", help="AMQP's type property, Kafka's header `type`.")
@click.option("--content-type", metavar="TEXT")
@click.option("--key", metavar="TEXT", help="Kafka: the record's key.")
@click.option("--routing-key", metavar="TEXT", help="AMQP: instead of the queue's name.")
@click.option("--ndjson", is_flag=True, help="Each line of the body is a message.")
@click.option("--repeat", type=click.IntRange(1), default=1, metavar="N", help="Publish it so many times.")
def publish(
    config: Path | None,
    output: str | None,
    source: str,
    body: str | None,
    correlation_id: str | None,
    message_id: str | None,
    headers: Headers,
    kind: str | None,
    content_type: str | None,
    key: str | None,
    routing_key: str | None,
    ndjson: bool,
    repeat: int,
) -> None:
    """Publish messages through SOURCE.

    They go to its exchange or queue, its topic, or its local queue. BODY is the message itself, @FILE, or - for
    what stdin holds.
    """
    configuration = configured(config)
    if source not in configuration.sources:
        raise NotFound(f"no source {source!r} is configured: known are {', '.join(configuration.sources) or 'none'}")
    bodies = _bodies(_content(body), ndjson=ndjson)
    from bridge.message import Message

    messages = [
        Message(
            one,
            headers,
            correlation=_octets(correlation_id),
            message_id=_octets(message_id),
            routing_key=routing_key,
            type=kind,
            content_type=content_type,
        )
        for one in bodies
    ]
    repeated = (message for _ in range(repeat) for message in messages)
    count = _send(configuration, source, repeated, key=_octets(key), routing_key=routing_key)
    if output in ("json", "ndjson"):
        print_record({"source": source, "published": count}, output)
    else:
        click.echo(f"{count} message{'' if count == 1 else 's'} published to {source}", err=True)


def _octets(text: str | None) -> bytes | None:
    """An argument as the bytes that the shell gave."""
    return None if text is None else os.fsencode(text)


def _content(body: str | None) -> bytes:
    if body == "-" or (body is None and not sys.stdin.isatty()):
        return sys.stdin.buffer.read()
    if body is None:
        raise click.UsageError("give a BODY: the message itself, @FILE, or - for stdin")
    if not body.startswith("@"):
        return os.fsencode(body)
    try:
        return Path(body[1:]).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise click.UsageError(f"can't read {body[1:]}: {why}") from None


def _bodies(content: bytes, *, ndjson: bool) -> list[bytes]:
    return [line for line in content.split(b"\n") if line.strip()] if ndjson else [content]


def _send(
    configuration: Configuration,
    name: str,
    messages: Iterator[Message],
    *,
    key: bytes | None,
    routing_key: str | None,
) -> int:
    """Publish through the source's broker; how many were confirmed."""
    from bridge.config.model import KafkaSourceSection, LocalSourceSection

    source = configuration.sources[name]
    if key is not None and not isinstance(source, KafkaSourceSection):
        raise click.UsageError("--key is for a Kafka source")
    if routing_key is not None and isinstance(source, KafkaSourceSection):
        raise click.UsageError("--routing-key is for an AMQP or a local source")
    if isinstance(source, LocalSourceSection):
        return _send_locally(configuration, source.queue, messages)
    # The brokers' clients are loaded only where one is used.
    from bridge.publish import BrokerUnreachable, Outgoing, PublishError, publish_amqp, publish_kafka

    broker = configuration.brokers[source.broker]
    outgoing = (
        Outgoing(one.body, one.correlation, one.headers, one.type, one.content_type, one.message_id) for one in messages
    )
    try:
        if isinstance(source, KafkaSourceSection):
            return publish_kafka(broker, source, outgoing, key=key)
        return publish_amqp(broker, source, outgoing, routing_key=routing_key)
    except PublishError as error:
        confirmed = f" ({error.confirmed} messages were confirmed before)" if error.confirmed else ""
        failure = Unreachable if isinstance(error, BrokerUnreachable) else Failed
        raise failure(f"{error}{confirmed}") from None


def _send_locally(configuration: Configuration, queue: str, messages: Iterator[Message]) -> int:
    from bridge.dead_letters import envelope

    count = 0
    with opened(configuration, may_migrate=True) as storage:
        while chunk := list(itertools.islice(messages, _LOCAL_CHUNK)):
            storage.publish(queue, [(envelope(message), message.body) for message in chunk])
            count += len(chunk)
    return count
