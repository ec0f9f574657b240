"""`jobbridge publish`: messages through a source's own broker, confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Failed, Unreachable
from bridge.cli.messages import Headers, content, message_options, section_of
from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import print_record

if TYPE_CHECKING:
    from bridge.config.model import AnySource, Configuration
    from bridge.message import Message


@click.command()
@common_options
@click.argument("source")
@click.argument("body", required=False)
@message_options
@click.option("--ndjson", is_flag=True, help="Each line of the body is a message.")
@click.option("--repeat", type=click.IntRange(1), default=1, metavar="N", help="Publish it so many times.")
def publish(
    config: Path | None,
    output: str | None,
    source: str,
    body: str | None,
    ndjson: bool,
    repeat: int,
    headers: Headers,
    **given: str | None,
) -> None:
    """Publish messages through SOURCE.

    They go to its exchange or queue, its topic, or its local queue. BODY is the message itself, @FILE, or - for
    what stdin holds.
    """
    configuration = configured(config)
    section = section_of(configuration, source, given)
    from bridge.message import written

    bodies = [line for line in content(body).split(b"\n") if line.strip()] if ndjson else [content(body)]
    messages = [written(one, headers, **given) for one in bodies]
    count = _send(configuration, section, (one for _ in range(repeat) for one in messages))
    if output in ("json", "ndjson"):
        print_record({"source": source, "published": count}, output)
    else:
        click.echo(f"{count} message{'' if count == 1 else 's'} published to {source}", err=True)


def _send(configuration: Configuration, source: AnySource, messages: Iterator[Message]) -> int:
    """Publish through the source's broker; how many were confirmed."""
    from bridge.config.model import KafkaSourceSection, LocalSourceSection

    if isinstance(source, LocalSourceSection):
        from bridge.sources.local import publish_local

        with opened(configuration, may_migrate=True) as storage:
            return publish_local(storage, source, messages)
    # The brokers' clients are loaded only where one is used.
    from bridge.publish import BrokerUnreachable, PublishError, publish_amqp, publish_kafka

    broker = configuration.brokers[source.broker]
    try:
        if isinstance(source, KafkaSourceSection):
            return publish_kafka(broker, source, messages)
        return publish_amqp(broker, source, messages)
    except PublishError as error:
        confirmed = f" ({error.confirmed} messages were confirmed before)" if error.confirmed else ""
        failure = Unreachable if isinstance(error, BrokerUnreachable) else Failed
        raise failure(f"{error}{confirmed}") from None
