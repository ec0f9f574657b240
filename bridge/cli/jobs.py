"""`jobbridge jobs list|show`, and the verbs of `acts.py` and `wait.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.acts import act
from bridge.cli.exits import NotFound
from bridge.cli.filters import filter_options, wanted
from bridge.cli.find import find
from bridge.cli.options import common_options, configured, limit_option, opened
from bridge.cli.output import chosen, presentable, print_json, print_record, print_records
from bridge.cli.wait import wait

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage

_COLUMNS = ("id", "state", "route", "handler", "correlation_id", "attempts", "rescues", "created_at", "finished_at")
_CONFLICT_COLUMNS = ("job_id", "correlation_id", "route", "state", "times", "at", "detail")
_EVENT_COLUMNS = ("at", "kind", "version", "detail")

Record = Mapping[str, object]


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
    print_records(_labelled(configuration, found), (*_COLUMNS, "title") if titles else _COLUMNS, form)


@jobs.command()
@common_options
@click.argument("name", metavar="ID")
def show(config: Path | None, output: str | None, name: str) -> None:
    """Show a job, whole, with its history. ID: a job's id, or a correlation ID."""
    configuration = configured(config)
    with opened(configuration) as storage:
        jobs = _labelled(configuration, find(configuration, storage, name))
        found = [{**job, "progress": _progress(storage, job)} for job in jobs]
        histories = [history_of(storage, job) for job in found]
    form = chosen(output)
    whole = [presentable({**job, "history": history}) for job, history in zip(found, histories, strict=True)]
    if form == "json":
        print_json(whole if len(whole) > 1 else whole[0])
        return
    for job, history, together in zip(found, histories, whole, strict=True):
        if form == "ndjson":
            print_record(together, form)
            continue
        print_record(job, form)
        click.echo()
        print_records(history, _EVENT_COLUMNS, form)


def _labelled(configuration: Configuration, jobs: Sequence[Record]) -> list[Record]:
    """The jobs with what their routes say of them to people."""
    from bridge.labels import labels_of, title_of

    routes = {route.name: (route.title, route.labels) for route in configuration.routes}
    shown: list[Record] = []
    for job in jobs:
        title, labels = routes.get(str(job["route"]), (None, {}))
        shown.append({**job, "title": title_of(title, job), "labels": labels_of(labels, job)})
    return shown


def _progress(storage: Storage, job: Record) -> object:
    """How far a running job said it is, as of its pod's last heartbeat."""
    if job["state"] != "PROCESSING":
        return None
    statuses = (json.loads(row.status) for row in storage.servers())
    return next((found for status in statuses if (found := status.get("progress", {}).get(str(job["id"])))), None)


def history_of(storage: Storage, job: Record) -> list[dict[str, object]]:
    """The normal path, which the columns tell, and the recorded events, in the order of time."""
    key = job["id"]
    assert isinstance(key, UUID)
    path = (("created_at", "CREATED"), ("started_at", "STARTED"), ("finished_at", str(job["state"])))
    lines: list[dict[str, object]] = [
        {"at": job[column], "kind": kind, "version": None, "detail": ""}
        for column, kind in path
        if job[column] is not None
    ]
    lines += [
        {name: event[name] for name in (*_EVENT_COLUMNS, "owner", "times")} for event in storage.job_events(key.bytes)
    ]
    ordered = sorted(lines, key=lambda line: int(str(line["at"])))
    return [presentable(line) for line in ordered]


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
