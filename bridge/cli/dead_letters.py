"""`jobbridge dead-letters list|show|replay|drop`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import NotFound
from bridge.cli.options import common_options, configured, each, limit_option, opened
from bridge.cli.output import Record, print_record, print_records

if TYPE_CHECKING:
    from bridge.dead_letters import Replayed
    from scheduler.storage import Storage

_DONE = ("DONE", "CREATED", "DUPLICATE")
_COLUMNS = ("id", "received_at", "source", "reason", "detail", "correlation_id", "size")


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not become jobs: list, show, replay, drop."""


@dead_letters.command("list")
@common_options
@click.option("--reason")
@click.option("--source")
@limit_option
def list_(config: Path | None, output: str | None, reason: str | None, source: str | None, limit: int) -> None:
    """List the newest dead letters that match, without their bodies."""
    configuration = configured(config)
    with opened(configuration) as storage:
        letters = storage.list_dead_letters(reason=reason, source=source, limit=limit)
    if not letters and source is not None and source not in configuration.sources:
        raise NotFound(f"no source is called {source!r}")
    print_records(letters, _COLUMNS, output)


@dead_letters.command()
@common_options
@click.argument("name", metavar="ID")
def show(config: Path | None, output: str | None, name: str) -> None:
    """Show a dead letter, whole."""
    with opened(configured(config)) as storage:
        print_record(found(storage, name), output)


def found(storage: Storage, name: str) -> Record:
    """The dead letter of this id.

    :raises NotFound: there is none.
    """
    key = _key(name)
    letter = None if key is None else storage.dead_letter(key)
    if letter is None:
        raise NotFound(f"no dead letter has the id {name!r}")
    return letter


@dead_letters.command()
@common_options
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def replay(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """Offer dead letters again, as their source's messages. One that becomes a job, or is one already, is dropped."""
    from bridge.assembly import assemble, decoders
    from bridge.dead_letters import replay as replay_one
    from scheduler.who import who

    configuration = configured(config, import_handlers=True)
    of_source = decoders(configuration, assemble(configuration).rules)
    with opened(configuration) as storage:
        one = partial(_replayed, partial(replay_one, of_source, storage, by=who()))
        context.exit(each(names, one, output, done=_DONE))


@dead_letters.command()
@common_options
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def drop(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """Delete dead letters."""
    with opened(configured(config)) as storage:
        context.exit(each(names, partial(_dropped, storage), output, done=_DONE))


def _key(name: str) -> bytes | None:
    try:
        return UUID(name).bytes
    except ValueError:
        return None


_MISSING = ("NOT_FOUND", "no dead letter has this id")


def _replayed(replay_one: Callable[[bytes], Replayed], name: str) -> tuple[str, str]:
    key = _key(name)
    replayed = None if key is None else replay_one(key)
    if replayed is None or replayed.outcome.name == "NOT_FOUND":
        return _MISSING
    return replayed.outcome.name, replayed.detail


def _dropped(storage: Storage, name: str) -> tuple[str, str]:
    key = _key(name)
    return ("DONE", "") if key is not None and storage.drop_dead_letter(key) else _MISSING
