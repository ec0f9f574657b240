"""`jobbridge jobs requeue|delete|run-now|cancel`: to jobs by their ids, or to all that match."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import Failed, NotFound
from bridge.cli.filters import Filters, filter_options, piped, wanted
from bridge.cli.find import find
from bridge.cli.options import common_options, configured, each, opened
from bridge.cli.output import print_record

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Act, Storage
    from scheduler.storage.acts import Doing

_HELP = """

    ID: a job's id, a correlation ID, or - for ids from a pipe, one a line.
    """


def act(name: str, text: str) -> click.Command:
    """The verb of this name."""

    @click.command(name, help=text + _HELP)
    @common_options
    @filter_options
    @click.option("--all-matching", is_flag=True, help="All jobs that match the filters now; counts and asks first.")
    @click.option("--yes", is_flag=True, help="Don't ask.")
    @click.option("--dry-run", is_flag=True, help="Say how many match, and touch nothing.")
    @click.argument("names", metavar="ID...", nargs=-1)
    @click.pass_context
    def verb(
        context: click.Context,
        /,
        config: Path | None,
        output: str | None,
        all_matching: bool,
        yes: bool,
        dry_run: bool,
        names: tuple[str, ...],
        **filters: str | None,
    ) -> None:
        if all_matching == bool(names):
            raise click.UsageError("give ids, or - to read them from a pipe, or --all-matching with filters")
        if names and (dry_run or any(filters.values())):
            raise click.UsageError("filters and --dry-run go with --all-matching, and not with ids")
        if all_matching and not (yes or dry_run or _may_ask()):
            raise click.UsageError("there is no terminal to ask on: add --yes, or --dry-run to see how many it is")
        from bridge.shown import doing as doing_of
        from scheduler.who import who

        configuration = configured(config)
        doing = doing_of(configuration, name, who())
        state = filters["state"]
        if state is not None and state not in doing.verb.possible:
            raise click.UsageError(f"{name} is for jobs that are {', '.join(sorted(doing.verb.possible))}")
        with opened(configuration) as storage:
            if all_matching:
                _sweep(storage, doing, filters, output, ask=not yes, dry_run=dry_run)
            else:
                one = partial(_act, configuration, storage, doing)
                context.exit(each(piped(names), one, output, done=("DONE",)))

    return verb


def _may_ask() -> bool:
    return sys.stdin.isatty()


def _sweep(storage: Storage, doing: Doing, filters: Filters, output: str | None, *, ask: bool, dry_run: bool) -> None:
    from scheduler.storage import Act

    began, chosen = storage.clock(), wanted(filters, storage)
    states = storage.count_matching(doing.verb, began, **chosen)
    total = sum(states.values())
    shown = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    click.echo(f"{total:,} jobs match{': ' * bool(shown)}{shown}", err=True)
    if total and ask and not dry_run and not click.confirm(f"{doing.verb.name} {total:,} jobs?", err=True):
        raise Failed("nothing was done")
    became: Counter[Act] = Counter()
    if total and not dry_run:
        with click.progressbar(length=total, label=doing.verb.name, file=sys.stderr) as progress:
            for batch in storage.act_on_matching(doing, began, **chosen):
                became += batch
                progress.update(batch.total())
    told = {one.name.lower(): became[one] for one in (Act.DONE, Act.BODY_DROPPED, Act.LOST_RACE)}
    print_record({"matched": total, **told}, output)


def _act(configuration: Configuration, storage: Storage, doing: Doing, name: str) -> tuple[str, str]:
    """What became of the job of this name, and why."""
    from bridge.shown import why_not

    try:
        found = find(configuration, storage, name)
    except NotFound as error:
        return "NOT_FOUND", error.message
    if len(found) > 1:
        return "AMBIGUOUS", f"{len(found)} jobs have this correlation ID: name one by its id"
    key = found[0]["id"]
    assert isinstance(key, UUID)
    result = storage.act(doing, key.bytes).name
    return result, why_not(result, found[0]["state"])
