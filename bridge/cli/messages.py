"""A message from the command line: the options of `publish` and `route`, and its body."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import NotFound
from bridge.cli.options import Verb

if TYPE_CHECKING:
    from bridge.config.model import AnySource, Configuration

Headers = tuple[tuple[str, str], ...]
Given = Mapping[str, str | None]
"""The other options, by their names."""


def _headers(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> Headers:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter("write NAME=VALUE")
    return tuple((name, value) for name, _, value in pairs)


_OPTIONS = (
    click.option("--correlation-id", metavar="ID", help="What duplicates are known by."),
    click.option("--message-id", metavar="ID"),
    click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", callback=_headers),
    click.option("--type", metavar="TEXT", help="AMQP's type property, Kafka's header `type`."),
    click.option("--content-type", metavar="TEXT"),
    click.option("--key", metavar="TEXT", help="Kafka: the record's key."),
    click.option("--routing-key", metavar="TEXT", help="AMQP: instead of the queue's name."),
)


def message_options(verb: Verb) -> Verb:
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def section_of(configuration: Configuration, source: str, given: Given) -> AnySource:
    """The source of this name; what only another kind of source has is wrong usage."""
    from bridge.config.model import KafkaSourceSection

    if source not in configuration.sources:
        known = ", ".join(configuration.sources) or "none"
        raise NotFound(f"no source {source!r} is configured: known are {known}")
    section = configuration.sources[source]
    if given["key"] is not None and not isinstance(section, KafkaSourceSection):
        raise click.UsageError("--key is for a Kafka source")
    if given["routing_key"] is not None and isinstance(section, KafkaSourceSection):
        raise click.UsageError("--routing-key is for an AMQP or a local source")
    return section


def content(body: str | None) -> bytes:
    """The body: the argument itself, of @FILE what the file holds, of - or none what stdin does."""
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
