"""`jobbridge check`: every mistake of the configuration at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Unreachable
from bridge.cli.options import config_option, drivers_errors, importable, opened
from bridge.cli.output import print_records
from bridge.config.mistakes import Mistake, count_line, path_text, printable

if TYPE_CHECKING:
    from bridge.config.document import Document
    from bridge.config.mistakes import Path as TreePath
    from bridge.config.model import Configuration
    from scheduler.storage import Storage

_MOST_READ = 100_000
"""Jobs of each state: those that no pod has a handler for are soon the oldest."""
_COLUMNS = ("file", "line", "column", "severity", "code", "path", "message")
_AWAY = ("store", "unreachable")
_CLOCKS_APART = 5.0
"""Seconds from which on it is told. Nothing depends on them."""


@click.command()
@config_option
@click.option("--connect", is_flag=True, help="Also ask the store and the brokers: do they answer, do they fit?")
@click.option("--against-store", is_flag=True, help="Also ask the store for jobs whose handler is not known here.")
@click.option("--strict", is_flag=True, help="Warnings are mistakes too.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("text", "table", "tsv", "json", "ndjson", "github")),
    default="text",
    help="How to print; github: as annotations of a workflow.",
)
@click.pass_context
def check(
    context: click.Context, config: Path | None, connect: bool, against_store: bool, strict: bool, output: str
) -> None:
    """Show all mistakes of the configuration.

    Handlers are imported, nothing is run.
    """
    from bridge.config.load import examine

    importable()
    configuration, mistakes, document = examine(config, import_handlers=True)
    asked: list[Mistake] = []
    if configuration is not None and document is not None:
        if connect or against_store:
            asked += _store(configuration, document, connect, against_store)
        if connect:
            asked += _brokers(configuration, document)
    found = [*mistakes, *asked]
    _print(found, output)
    away = any(mistake.code in _AWAY and mistake.severity == "error" for mistake in asked)
    wrong = any(mistake.severity == "error" for mistake in found) or (strict and bool(found))
    context.exit(4 if away else 3 if wrong else 0)


def _print(mistakes: list[Mistake], output: str) -> None:
    if output in ("tsv", "json", "ndjson"):
        print_records([mistake.as_json() for mistake in mistakes], _COLUMNS, output)
    else:
        for mistake in mistakes:
            click.echo(mistake.as_github() if output == "github" else str(mistake))
    if output != "json":
        click.echo(count_line(mistakes), err=output in ("ndjson", "tsv", "github"))


def _said(document: Document, path: TreePath, code: str, message: str, severity: str = "error") -> Mistake:
    return Mistake(code, document.place(path), path_text(path), message, severity)


def _store(configuration: Configuration, document: Document, connect: bool, jobs_too: bool) -> list[Mistake]:
    """Whether the store can be used, and which of its jobs nobody could run."""
    from bridge.assembly import assemble
    from scheduler.job import JobState

    path = ("store",)
    found: list[Mistake] = []
    try:
        with opened(configuration) as storage:
            counted = storage.count_by_handler(_MOST_READ) if jobs_too else {}
            if connect:
                found += _fitness(storage, document, path)
    except Unreachable as error:
        return [_said(document, path, "store", error.message)]
    known = assemble(configuration).registry
    return found + [
        _said(
            document,
            path,
            "unknown-handler-in-store",
            f"{number:,} {state} job{'' if number == 1 else 's'} of the handler "
            f'"{printable(handler)}", which is not known here: name it in a route or under handlers',
            "warning" if state is JobState.FAILED else "error",
        )
        for (state, handler), number in counted.items()
        if handler not in known
    ]


def _fitness(storage: Storage, document: Document, path: TreePath) -> Iterator[Mistake]:
    """Whether a pod may write to it, and whether its clock is this machine's."""
    from scheduler.storage import StoreUnavailable

    before = time.time()
    offset = storage.clock() / 1e6 - (before + time.time()) / 2
    click.echo(f"the store's tables have version {storage.schema_version()}, its clock {offset:+.3f} s", err=True)
    if abs(offset) > _CLOCKS_APART:
        message = f"its clock and this machine's are {abs(offset):.0f} s apart: times in logs are not those of jobs"
        yield _said(document, path, "clock", message, "warning")
    try:
        with drivers_errors():
            storage.rehearse()
    except StoreUnavailable as why:
        yield _said(document, path, "store", f"a pod could not write to it: {why}")


def _brokers(configuration: Configuration, document: Document) -> list[Mistake]:
    """What the brokers say."""
    from bridge.config.model import AmqpSourceSection, KafkaSourceSection
    from bridge.probe import probe_amqp, probe_kafka
    from bridge.publish import BrokerUnreachable, PublishError

    found: list[Mistake] = []
    for name, source in configuration.sources.items():
        path = ("sources", name)
        broker = configuration.brokers[source.broker] if source.broker is not None else None
        try:
            warnings: list[str] = []
            if broker is not None and isinstance(source, AmqpSourceSection):
                warnings = probe_amqp(broker, source, configuration.pod.name)
            elif broker is not None and isinstance(source, KafkaSourceSection):
                warnings = probe_kafka(broker, source)
        except BrokerUnreachable as error:
            found.append(_said(document, path, "unreachable", str(error)))
        except PublishError as error:
            found.append(_said(document, path, "broker", str(error), "warning"))
        else:
            found += [_said(document, path, "broker", warning, "warning") for warning in warnings]
    return found
