"""`jobbridge jobs wait`: for scripts that go on when jobs have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import NotFound
from bridge.cli.filters import piped
from bridge.cli.find import find
from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import print_records
from bridge.config.mistakes import printable

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage


def length(_: click.Context, __: click.Parameter, text: str) -> float:
    """A duration, in seconds."""
    from scheduler.duration import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@common_options
@click.option("--timeout", default="60s", show_default=True, callback=length, help="How long to wait at most.")
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def wait(
    context: click.Context, config: Path | None, output: str | None, timeout: float, names: tuple[str, ...]
) -> None:
    """Wait until jobs have ended, also those that are not there yet.

    Ends with 0 if all SUCCEEDED; with 1 if one ended otherwise or had not ended in time; with 5 if one was not there
    in time. ID: a job's id, a correlation ID (all jobs that have it), or - for ids from a pipe, one a line.
    """
    configuration = configured(config)
    with opened(configuration) as storage:
        results = _awaited(partial(_keys, configuration, storage), storage, piped(names), timeout)
    for name, result in results.items():
        if result != "SUCCEEDED":
            late = f"it is {result} still, and {timeout:g} s have passed"
            ended = {
                "NOT_FOUND": "no job has this id or correlation ID",
                "FAILED": "it FAILED",
                "DELETED": "it is DELETED",
            }
            why = ended.get(result, late)
            click.echo(f"jobbridge: {printable(name)}: {why}", err=True)
    print_records([{"id": name, "result": result} for name, result in results.items()], ("id", "result"), output)
    context.exit(5 if "NOT_FOUND" in results.values() else 0 if set(results.values()) <= {"SUCCEEDED"} else 1)


def _awaited(
    keys: Callable[[str], Sequence[bytes]], storage: Storage, names: Sequence[str], timeout: float
) -> Mapping[str, str]:
    """How all of them stand once they have ended, or time is up; by id, or by name where there is no job."""
    deadline = time.monotonic() + timeout
    pause = 0.05
    known: dict[str, Sequence[bytes]] = {}
    while True:
        for name in names:
            if not known.get(name):
                known[name] = keys(name)
        states = storage.states({key for of_name in known.values() for key in of_name})
        results = {
            str(UUID(bytes=key)) if key else name: states[key].value if key in states else "NOT_FOUND"
            for name, of_name in known.items()
            for key in of_name or (b"",)
        }
        left = deadline - time.monotonic()
        if left <= 0 or {"SUCCEEDED", "FAILED", "DELETED"}.issuperset(results.values()):
            return results
        time.sleep(min(pause, left))
        pause = min(2.0, pause * 1.5)
        # One that was purged while we waited may be made anew.
        known = {name: [key for key in of_name if key in states] for name, of_name in known.items()}


def _keys(configuration: Configuration, storage: Storage, name: str) -> Sequence[bytes]:
    try:
        found = find(configuration, storage, name)
    except NotFound:
        return ()
    return [job["id"].bytes for job in found if isinstance(job["id"], UUID)]
