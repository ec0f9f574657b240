"""`jobbridge trace`: all that is known of one correlation ID, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import NotFound
from bridge.cli.find import find
from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import Record, chosen, print_records

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage

_COLUMNS = ("at", "kind", "id", "route", "version", "detail")


@click.command()
@common_options
@click.argument("name", metavar="CORRELATION-ID")
def trace(config: Path | None, output: str | None, name: str) -> None:
    """Show what became of a correlation ID: its messages, jobs with all attempts and events, and dead letters."""
    configuration = configured(config)
    with opened(configuration) as storage:
        lines = sorted(_lines(configuration, storage, name), key=lambda line: str(line["at"]))
    if not lines:
        raise NotFound(f"no job and no dead letter has the correlation ID {name!r}")
    if (form := chosen(output)) not in ("json", "ndjson"):  # of a stack trace the line that says it
        lines = [{**line, "detail": str(line["detail"]).rstrip().rpartition("\n")[2]} for line in lines]
    print_records(lines, _COLUMNS, form)


def _lines(configuration: Configuration, storage: Storage, name: str) -> Iterator[Record]:
    from bridge.shown import history, presentable

    with suppress(NotFound):
        for job in find(configuration, storage, name):
            whose = {"id": job["id"], "route": job["route"], "source": job["source"]}
            for line in history(storage, job):
                came = f"from {job['source'] or 'a program'}, for {job['handler']}" if line["kind"] == "CREATED" else ""
                yield {**whose, **line, "detail": line["detail"] or came}
    for letter in storage.list_dead_letters(correlation=name, limit=1000):
        shown = presentable(letter)
        told = {"at": shown["received_at"], "kind": "DEAD_LETTER", "detail": f"{shown['reason']}: {shown['detail']}"}
        yield {**told, "id": shown["id"], "route": None, "source": shown["source"], "version": None}
