"""`jobbridge jobs list|show`, and the verbs of `acts.py` and `wait.py`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.acts import act
from bridge.cli.exits import NotFound
from bridge.cli.filters import filter_options, wanted
from bridge.cli.find import find
from bridge.cli.options import common_options, configured, limit_option, opened
from bridge.cli.output import chosen, print_json, print_record, print_records
from bridge.cli.wait import wait

_COLUMNS = ("id", "state", "route", "handler", "correlation_id", "attempts", "rescues", "created_at", "finished_at")
_CONFLICT_COLUMNS = ("job_id", "correlation_id", "route", "state", "times", "at", "detail")
_EVENT_COLUMNS = ("at", "kind", "version", "detail")


@click.group()
def jobs() -> None:
    """List and show jobs, wait for them, and act on them."""


@jobs.command("list")
@common_options
@filter_options
@click.option("--conflicts", is_flag=True, help="List the messages that had another body under the ID of a job.")
@limit_option
def list_(
    config: Path | None,
    output: str | None,
    conflicts: bool,
    limit: int,
    **filters: str | None,
) -> None:
    """List the newest jobs that match, without their bodies."""
    configuration = configured(config)
    if conflicts and any(filters.values()):
        raise click.UsageError("--conflicts stands without a filter")
    with opened(configuration) as storage:
        if conflicts:
            print_records(storage.list_conflicts(limit), _CONFLICT_COLUMNS, output)
            return
        found = storage.list_jobs(limit=limit, **wanted(filters, storage))
    source, route = filters["source"], filters["route"]
    # A source or a route of the past may still have jobs.
    if not found and source is not None and source not in configuration.sources:
        raise NotFound(f"no source is called {source!r}")
    if not found and route is not None and route not in {known.name for known in configuration.routes}:
        raise NotFound(f"no route is called {route!r}")
    form = chosen(output)
    # Scripts count on the columns of the TSV form.
    titles = form == "table" and any(route.title is not None for route in configuration.routes)
    from bridge.shown import labelled

    print_records(labelled(configuration, found), (*_COLUMNS, "title") if titles else _COLUMNS, form)


@jobs.command()
@common_options
@click.argument("name", metavar="ID")
def show(config: Path | None, output: str | None, name: str) -> None:
    """Show a job, whole, with its history. ID: a job's id, or a correlation ID."""
    from bridge.shown import history, labelled, presentable, progress

    configuration = configured(config)
    with opened(configuration) as storage:
        jobs = labelled(configuration, find(configuration, storage, name))
        found = [{**job, "progress": progress(storage, job)} for job in jobs]
        histories = [history(storage, job) for job in found]
    form = chosen(output)
    whole = [presentable({**job, "history": lines}) for job, lines in zip(found, histories, strict=True)]
    if form == "json":
        print_json(whole if len(whole) > 1 else whole[0])
        return
    for job, lines, together in zip(found, histories, whole, strict=True):
        if form == "ndjson":
            print_record(together, form)
            continue
        print_record(job, form)
        click.echo()
        print_records(lines, _EVENT_COLUMNS, form)


for _verb in (
    wait,
    act("requeue", "Run finished jobs again, with all their tries. Refused where the body was dropped."),
    act(
        "delete",
        "End jobs that have not succeeded. Their IDs stay remembered for the route's dedupe.window. "
        "A handler that runs is told within a heartbeat.",
    ),
    act("run-now", "Let scheduled jobs wait for a worker at once, such as retries that are due later."),
    act("cancel", "End jobs that run, as DELETED. Their handlers are told within a heartbeat (context.cancelled)."),
):
    jobs.add_command(_verb)
