"""`jobbridge status` and `jobbridge servers`: what the store knows of jobs and pods."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import chosen, print_json, print_record, print_records

_COLUMNS = ("number", "id", "host", "pid", "started_at", "last_heartbeat", "master")


@click.command()
@common_options
def status(config: Path | None, output: str | None) -> None:
    """Count jobs and dead letters, exactly.

    With the servers, as JSON or on a terminal.
    """
    from bridge.shown import presentable, servers_shown

    with opened(configured(config)) as storage:
        jobs = {state.value: count for state, count in storage.count_by_state().items()}
        letters = storage.count_dead_letters()
        pods = servers_shown(storage)
    form = chosen(output)
    if form in ("json", "ndjson"):
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
    from bridge.shown import servers_shown

    with opened(configured(config)) as storage:
        print_records(servers_shown(storage), _COLUMNS, output)
