"""Which jobs a verb means: the filters of `jobs list` and `--all-matching`, and ids from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from bridge.cli.options import Verb

if TYPE_CHECKING:
    from scheduler.storage import Storage
    from scheduler.storage.matching import Wanted

_STATES = ("SCHEDULED", "ENQUEUED", "PROCESSING", "SUCCEEDED", "FAILED", "DELETED")

Filters = Mapping[str, str | None]
"""What was given, by the options' names."""


def filter_options(verb: Verb) -> Verb:
    verb = click.option(
        "--since",
        metavar="TIME",
        callback=_checked,
        help="Ended since then, or made where they have not ended: 2h, 2026-05-01, 2026-05-01T12:00:00Z.",
    )(verb)
    verb = click.option("--error", metavar="TEXT", help="With this text in the last failure, in capitals or not.")(verb)
    for name in ("--source", "--handler", "--route"):
        verb = click.option(name)(verb)
    return click.option("--state", type=click.Choice(_STATES, case_sensitive=False))(verb)


def wanted(filters: Filters, storage: Storage) -> Wanted:
    """The filters as the store takes them."""
    from scheduler.job import JobState

    state, since = filters["state"], filters["since"]
    return {
        "state": None if state is None else JobState(state),
        "route": filters["route"],
        "handler": filters["handler"],
        "source": filters["source"],
        "error": filters["error"],
        "since": None if since is None else _moment(since, storage.clock()),
    }


def piped(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names; for a `-` the first column of each line of stdin, once."""
    return tuple(dict.fromkeys(_each(names)))


def _each(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name == "-":
            lines = (line.decode("utf-8", "surrogateescape").rstrip("\r\n") for line in sys.stdin.buffer)
            yield from (line.partition("\t")[0] for line in lines if line)
        else:
            yield name


def _checked(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        try:
            _moment(text, 0)
        except (ValueError, OverflowError):
            raise click.BadParameter(
                f"{text!r} is neither a duration, such as 30s, 5m, 2h or 7d, nor a time, such as 2026-05-01T12:00:00Z"
            ) from None
    return text


def _moment(text: str, now: int) -> int:
    """A time, in UTC unless it says otherwise, or so long before `now`; in microseconds since 1970.

    :raises ValueError: it is neither.
    """
    from scheduler.duration import seconds
    from scheduler.instants import since_1970

    if text[-1:].isalpha() and text[-1:] != "Z":
        return now - int(seconds(text) * 1_000_000)
    at = datetime.fromisoformat(text)
    return since_1970(at if at.tzinfo else at.replace(tzinfo=UTC))
