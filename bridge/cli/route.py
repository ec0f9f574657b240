"""`jobbridge route`: what would this message become?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.dead_letters import found
from bridge.cli.exits import Failed
from bridge.cli.messages import Headers, content, message_options, section_of
from bridge.cli.options import common_options, configured, opened
from bridge.cli.output import Record, chosen, print_record, print_records

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from bridge.message import Message
    from scheduler.job import NewJob

_TRIED = ("route", "matches", "because")


@click.command()
@common_options
@click.argument("source", required=False)
@click.argument("body", required=False)
@message_options
@click.option("--topic", metavar="TEXT", help="Kafka: instead of the source's first topic.")
@click.option("--store", "look", is_flag=True, help="Also ask the store: is it new, a duplicate, a conflict?")
@click.option("--from-dead-letter", "letter", metavar="ID", help="The message of a dead letter, instead of SOURCE.")
def route(
    config: Path | None,
    output: str | None,
    source: str | None,
    body: str | None,
    look: bool,
    letter: str | None,
    headers: Headers,
    **given: str | None,
) -> None:
    """Show what a message of SOURCE would become, and why: a job, or a dead letter.

    No broker is touched and nothing is written. BODY is the message itself, @FILE, or - for what stdin holds.
    """
    if (source is None) == (letter is None) or (letter is not None and any((*given.values(), headers))):
        raise click.UsageError("give a SOURCE, a BODY and its options, or --from-dead-letter alone")
    configuration = configured(config, import_handlers=True)
    from bridge.explain import Explainer

    if letter is not None:
        source, received = _kept(configuration, letter)
    else:
        assert source is not None
        from bridge.message import written
        from bridge.sources.stand_in import delivered

        section = section_of(configuration, source, given)
        received = delivered(written(content(body), headers, **given), section)
    shown, job = Explainer(configuration).explain(source, received)
    if look and job is not None and shown["id"] is not None:
        shown |= _standing(configuration, job)
    if (form := chosen(output)) in ("json", "ndjson"):
        print_record(shown, form)
        return
    tried = shown.pop("tried")
    assert isinstance(tried, list)
    print_record({name: ", ".join(one) if isinstance(one, list) else one for name, one in shown.items()}, form)
    click.echo()
    print_records(tried, _TRIED, form)


def _kept(configuration: Configuration, name: str) -> tuple[str, Message]:
    from bridge.dead_letters import Lost, kept

    with opened(configuration) as storage:
        letter = found(storage, name)
    try:
        return kept(letter, configuration.sources)
    except Lost as why:
        raise Failed(str(why)) from None


def _standing(configuration: Configuration, job: NewJob) -> Record:
    """What the store would answer, and how the job that is there stands."""
    with opened(configuration) as storage:
        outcome, row = storage.foresee(job)
    if row is None:
        return {"store": outcome.name.lower()}
    ended = row["finished_at"] is not None
    return {
        "store": outcome.name.lower(),
        "state": row["state"],
        "since_at": row["finished_at" if ended else "created_at"],
        "forgotten_at": row["due_at"] if ended else None,
    }
