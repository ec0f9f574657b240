"""Prints data: a table on a terminal, tab-separated values in a pipe, JSON where asked for.

Promises: values are whole in every form (no ellipsis), a pipe gets no header and no colour, and nothing that came
from a message can draw on the terminal: control characters are escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from bridge.config.mistakes import printable

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("table", "tsv", "json", "ndjson")

Record = Mapping[str, object]


def chosen(output: str | None) -> str:
    """The form to print in: what was asked for, else what stdout is made for."""
    return output or ("table" if sys.stdout.isatty() else "tsv")


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_records(records: Iterable[Record], columns: Sequence[str], output: str | None) -> None:
    """Print rows: in JSON with all their fields, else with these columns."""
    from bridge.shown import presentable

    rows = [presentable(record) for record in records]
    form = chosen(output)
    if form == "json":
        print_json(rows)
    elif form == "ndjson":
        for row in rows:
            click.echo(json.dumps(row))
    else:
        _print_cells([[_cell(row.get(column)) for column in columns] for row in rows], columns, form)


def print_record(record: Record, output: str | None) -> None:
    """Print one row, a line for each field."""
    from bridge.shown import presentable

    row = presentable(record)
    form = chosen(output)
    if form == "json":
        print_json(row)
    elif form == "ndjson":
        click.echo(json.dumps(row))
    else:
        _print_cells([[name, _cell(value)] for name, value in row.items()], (), form)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value if isinstance(value, str) else str(value))


def _print_cells(rows: Sequence[Sequence[str]], columns: Sequence[str], form: str) -> None:
    if form == "tsv":
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.console import Console

    whole, needed = _table(rows, columns)
    # A pipe has no width; and a terminal that is too narrow breaks the lines itself, where Rich would drop columns.
    console = Console(width=None if sys.stdout.isatty() else 100_000)
    console.width = max(console.width, needed)
    console.print(whole, crop=False)


def table(records: Iterable[Record], columns: Sequence[str]) -> Table:
    """Rows as Rich shows them."""
    from bridge.shown import presentable

    rows = [presentable(record) for record in records]
    return _table([[_cell(row.get(column)) for column in columns] for row in rows], columns)[0]


def _table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> tuple[Table, int]:
    """And the columns of a terminal that it needs."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(columns), pad_edge=False)
    needed = 0
    for index, heading in enumerate(columns or ("", "")):
        whole = max([len(heading), *(len(row[index]) for row in rows)])
        # An id is copied as a whole: it is never folded.
        fixed = whole <= 36
        least = whole if fixed else 20
        table.add_column(heading.upper(), overflow="fold", no_wrap=fixed, min_width=least)
        needed += least + 2
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table, needed
