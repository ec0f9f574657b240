"""`jobbridge jobs list|show|requeue|delete`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import NotFound
from bridge.cli.options import config_option, configured, each, limit_option, opened, output_option
from bridge.cli.output import chosen, presentable, print_json, print_record, print_records

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Act, Storage

_STATES = ("SCHEDULED", "ENQUEUED", "PROCESSING", "SUCCEEDED", "FAILED", "DELETED")
_COLUMNS = ("id", "state", "route", "handler", "correlation_id", "attempts", "rescues", "created_at", "finished_at")
_CONFLICT_COLUMNS = ("job_id", "correlation_id", "route", "state", "times", "at", "detail")
_EVENT_COLUMNS = ("at", "kind", "version", "detail")

Record = Mapping[str, object]


@click.group()
def jobs() -> None:
    """List, show, requeue and delete jobs."""


@jobs.command("list")
@config_option
@output_option
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False))
@click.option("--route")
@click.option("--handler")
@click.option("--source")
@click.option("--conflicts", is_flag=True, help="List the messages that had another body under the ID of a job.")
@limit_option
def list_(
    config: Path | None,
    output: str | None,
    state: str | None,
    route: str | None,
    handler: str | None,
    source: str | None,
    conflicts: bool,
    limit: int,
) -> None:
    """List the newest jobs that match, without their bodies."""
    configuration = configured(config)
    if conflicts and (state or route or handler or source):
        raise click.UsageError("--conflicts stands without a filter")
    from scheduler.job import JobState

    with opened(configuration) as storage:
        if conflicts:
            print_records(storage.list_conflicts(limit), _CONFLICT_COLUMNS, output)
            return
        wanted = None if state is None else JobState(state)
        found = storage.list_jobs(state=wanted, route=route, handler=handler, source=source, limit=limit)
    # A source or a route of the past may still have jobs.
    if not found and source is not None and source not in configuration.sources:
        raise NotFound(f"no source is called {source!r}")
    if not found and route is not None and route not in {known.name for known in configuration.routes}:
        raise NotFound(f"no route is called {route!r}")
    print_records(found, _COLUMNS, output)


@jobs.command()
@config_option
@output_option
@click.argument("name", metavar="ID")
def show(config: Path | None, output: str | None, name: str) -> None:
    """Show a job, whole, with its history. ID: a job's id, or a correlation ID."""
    configuration = configured(config)
    with opened(configuration) as storage:
        found = [{**job, "progress": _progress(storage, job)} for job in _find(configuration, storage, name)]
        histories = [_history(storage, job) for job in found]
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


def _progress(storage: Storage, job: Record) -> object:
    """How far a running job said it is, as of its pod's last heartbeat."""
    if job["state"] != "PROCESSING":
        return None
    statuses = (json.loads(row.status) for row in storage.servers())
    return next((found for status in statuses if (found := status.get("progress", {}).get(str(job["id"])))), None)


def _history(storage: Storage, job: Record) -> list[dict[str, object]]:
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


def _find(configuration: Configuration, storage: Storage, name: str) -> Sequence[Record]:
    namespaces = {route.namespace for route in configuration.routes}
    found = storage.find_jobs(name, sorted(namespaces))
    if not found:
        raise NotFound(f"no job has the id or the correlation ID {name!r}")
    return found


@jobs.command()
@config_option
@output_option
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def requeue(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """Run finished jobs again, with all their tries. Refused where the body was dropped."""
    configuration = configured(config)
    with opened(configuration) as storage:
        find = partial(_find, configuration, storage)
        again = partial(_act, find, lambda _, key: storage.requeue(key))
        context.exit(each(names, again, output, done=("DONE",)))


@jobs.command()
@config_option
@output_option
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def delete(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
    """End jobs that have not succeeded. Their IDs stay remembered for the route's dedupe.window."""
    configuration = configured(config)
    windows = {route.name: route.dedupe.window for route in configuration.routes}

    def end(job: Record, key: bytes) -> Act:
        return storage.delete(key, int(windows.get(str(job["route"]), 7 * 86400.0) * 1_000_000))

    with opened(configuration) as storage:
        find = partial(_find, configuration, storage)
        context.exit(each(names, partial(_act, find, end), output, done=("DONE",)))


def _act(find: Callable[[str], Sequence[Record]], act: Callable[[Record, bytes], Act], name: str) -> tuple[str, str]:
    """What became of the job of this name, and why."""
    try:
        found = find(name)
    except NotFound as error:
        return "NOT_FOUND", error.message
    if len(found) > 1:
        return "AMBIGUOUS", f"{len(found)} jobs have this correlation ID: name one by its id"
    key = found[0]["id"]
    assert isinstance(key, UUID)
    why = {
        "NOT_FOUND": "it is gone meanwhile",
        "WRONG_STATE": f"not possible while it is {found[0]['state']}",
        "BODY_DROPPED": "its body was dropped when it succeeded",
        "LOST_RACE": "it moved on meanwhile: look again",
    }
    result = act(found[0], key.bytes).name
    return result, why.get(result, "")
