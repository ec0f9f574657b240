"""`jobbridge status` and `jobbridge servers`: what the store knows of jobs and pods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import chosen, print_json, print_record, print_records

if TYPE_CHECKING:
    from scheduler.storage import Storage

_COLUMNS = ("number", "id", "host", "pid", "started_at", "last_heartbeat", "master")


@click.command()
@common_options
def status(config: Path | None, output: str | None) -> None:
    """Count jobs and dead letters, exactly.

    With the servers, as JSON or on a terminal.
    """
    with opened(configured(config)) as storage:
        jobs = {state.value: count for state, count in storage.count_by_state().items()}
        letters = storage.count_dead_letters()
        pods = _servers(storage)
    form = chosen(output)
    if form in ("json", "ndjson"):
        from bridge.cli.output import presentable

        whole = {"jobs": jobs, "dead_letters": letters, "servers": [presentable(pod) for pod in pods]}
        print_json(whole) if form == "json" else print_record(whole, form)
        return
    print_record({**jobs, "dead_letters": letters, "servers": len(pods)}, form)
    if form == "table" and pods:
        click.echo()
        print_records(pods, _COLUMNS, form)


@click.command()
@common_options
def servers(config: Path | None, output: str | None) -> None:
    """List the live servers, the longest running first."""
    with opened(configured(config)) as storage:
        print_records(_servers(storage), _COLUMNS, output)


def _servers(storage: Storage) -> Sequence[dict[str, object]]:
    return [
        {
            "id": UUID(bytes=row.id),
            "number": row.number,
            "host": row.host,
            "pid": row.pid,
            "started_at": row.started_at,
            "last_heartbeat": row.last_heartbeat,
            "master": is_master,
        }
        for row, is_master in storage.live_servers()
    ]
