"""`jobbridge dead-letters list|show|replay|drop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import click

from bridge.cli.exits import NotFound
from bridge.cli.options import config_option, configured, limit_option, opened, output_option
from bridge.cli.output import print_record, print_records

_COLUMNS = ("id", "received_at", "source", "reason", "detail", "correlation_id", "size")


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not become jobs: list, show, replay, drop."""


@dead_letters.command("list")
@config_option
@output_option
@click.option("--reason")
@click.option("--source")
@limit_option
def list_(config: Path | None, output: str | None, reason: str | None, source: str | None, limit: int) -> None:
    """List the newest dead letters that match, without their bodies."""
    configuration = configured(config)
    with opened(configuration) as storage:
        found = storage.list_dead_letters(reason=reason, source=source, limit=limit)
    if not found and source is not None and source not in configuration.sources:
        raise NotFound(f"no source is called {source!r}")
    print_records(found, _COLUMNS, output)


@dead_letters.command()
@config_option
@output_option
@click.argument("name", metavar="ID")
def show(config: Path | None, output: str | None, name: str) -> None:
    """Show a dead letter, whole."""
    key = _key(name)
    with opened(configured(config)) as storage:
        found = None if key is None else storage.dead_letter(key)
    if found is None:
        raise NotFound(f"no dead letter has the id {name!r}")
    print_record(found, output)


@dead_letters.command()
@config_option
@output_option
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def replay(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """Offer dead letters again, as their source's messages. One that becomes a job, or is one already, is dropped."""
    from bridge.dead_letters import replay as replay_one

    configuration = configured(config, import_handlers=True)
    with opened(configuration) as storage:
        acts = _act(names, lambda key: replay_one(configuration, storage, key).name)
    context.exit(_report(acts, output))


@dead_letters.command()
@config_option
@output_option
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def drop(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """Delete dead letters."""
    with opened(configured(config)) as storage:
        acts = _act(names, lambda key: "DONE" if storage.drop_dead_letter(key) else "NOT_FOUND")
    context.exit(_report(acts, output))


def _key(name: str) -> bytes | None:
    try:
        return UUID(name).bytes
    except ValueError:
        return None


def _act(names: tuple[str, ...], act: Callable[[bytes], str]) -> list[dict[str, object]]:
    """What became of each. One that is not there does not keep the others from being done."""
    keys = {name: _key(name) for name in names}
    return [{"id": name, "result": "NOT_FOUND" if key is None else act(key)} for name, key in keys.items()]


def _report(acts: list[dict[str, object]], output: str | None) -> int:
    print_records(acts, ("id", "result"), output)
    missing: list[Mapping[str, object]] = [act for act in acts if act["result"] == "NOT_FOUND"]
    for act in missing:
        click.echo(f"jobbridge: no dead letter has the id {act['id']!r}", err=True)
    return 5 if missing else 0
