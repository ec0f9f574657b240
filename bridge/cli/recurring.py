"""`jobbridge recurring list|next|trigger|pause|resume|backfill`: from the rows alone, so no handler is imported."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import Failed, NotFound
from bridge.cli.options import common_options, config_option, configured, opened
from bridge.cli.output import print_record, print_records

if TYPE_CHECKING:
    from scheduler.recurring import Recurring
    from scheduler.storage import Storage

_LISTED = ("name", "schedule", "timezone", "next_at", "last_at", "paused", "skipped", "note")
_MOST = 10_000
_BATCH = 500


class _Instant(click.ParamType[datetime]):
    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            instant = datetime.fromisoformat(str(value))
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            self.fail(f"{value!r} is not an instant: write date, time and zone, as 2026-03-29T01:00:00Z", param, ctx)
        return instant.astimezone(UTC)


@click.group()
def recurring() -> None:
    """Jobs that run at times of their own: list, next, trigger, pause, resume, backfill."""


@recurring.command("list")
@common_options
def list_(config: Path | None, output: str | None) -> None:
    """List all recurring jobs: when each runs next, and why it last did not."""
    from bridge.shown import recurring_shown

    with opened(configured(config)) as storage:
        rows = storage.list_recurring()
    print_records(map(recurring_shown, rows), _LISTED, output)


@recurring.command("next")
@common_options
@click.argument("name")
@click.option("-n", "number", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many.")
def next_(config: Path | None, output: str | None, name: str, number: int) -> None:
    """Show when a recurring job runs next, in UTC and by the clock on the wall."""
    from bridge.shown import next_ticks
    from scheduler.instants import instant_of

    with opened(configured(config)) as storage:
        ticks = next_ticks(_found(storage, name), instant_of(storage.clock()), number)
    print_records(ticks, ("tick", "local"), output)


@recurring.command()
@config_option
@click.argument("name")
def trigger(config: Path | None, name: str) -> None:
    """Make one job of it now, and print the job's id."""
    from scheduler.recurring import triggered
    from scheduler.who import who

    with opened(configured(config)) as storage:
        _found(storage, name)
        job = storage.trigger_recurring(name, triggered, who())
    if job is None:
        raise _missing(name)
    click.echo(str(UUID(bytes=job.id)))


@recurring.command()
@config_option
@click.argument("name")
def pause(config: Path | None, name: str) -> None:
    """Make no more jobs of it until it is resumed."""
    from scheduler.who import who

    with opened(configured(config)) as storage:
        if not storage.pause_recurring(name, who()):
            raise _missing(name)


@recurring.command()
@config_option
@click.argument("name")
def resume(config: Path | None, name: str) -> None:
    """Go on with its next time; what was missed meanwhile is not made up for."""
    from scheduler.recurring import following

    with opened(configured(config)) as storage:
        _found(storage, name)
        if not storage.resume_recurring(name, following):
            raise _missing(name)


@recurring.command()
@common_options
@click.argument("name")
@click.option("--from", "first", type=_Instant(), required=True, help="The first instant that counts.")
@click.option("--to", "last", type=_Instant(), required=True, help="The last one.")
@click.option("--yes", is_flag=True, help=f"Also more than {_MOST} jobs.")
def backfill(config: Path | None, output: str | None, name: str, first: datetime, last: datetime, yes: bool) -> None:
    """Make the jobs of all its times in a range. One that was made already is not made again."""
    from scheduler.storage.records import Outcome

    with opened(configured(config)) as storage:
        found = _found(storage, name)
        if not yes and len(found.between(first, last, _MOST + 1)) > _MOST:
            raise click.UsageError(f"more than {_MOST} jobs: say --yes if that is meant")
        created = offered = 0
        while ticks := found.between(first, last, _BATCH):
            jobs = [found.job_of(tick) for tick in ticks]
            answers = storage.insert_if_absent(jobs, token=storage.random.getrandbits(63), look_first=True)
            created += sum(answer.outcome is Outcome.NEW for answer in answers)
            offered += len(jobs)
            following = found.after(ticks[-1])
            if following is None:
                break
            first = following
    print_record({"name": name, "created": created, "duplicates": offered - created}, output)


def _found(storage: Storage, name: str) -> Recurring:
    from scheduler.recurring import Recurring

    spec = next((str(row["spec"]) for row in storage.list_recurring() if row["name"] == name), None)
    if spec is None:
        raise _missing(name)
    try:
        return Recurring.loads(spec)
    except ValueError:
        raise Failed(f"{name}: a pod of another version declared it, in a way that this one can't read") from None


def _missing(name: str) -> NotFound:
    return NotFound(f"no recurring job is called {name!r}: a pod declares what its configuration has when it starts")
