"""How a command ends when it can't do what was asked: one line on stderr and a code that scripts can tell apart.

0 done, 1 failed, 2 wrong usage (click's own), 3 mistakes in the configuration, 4 store or broker not reachable,
5 not found.
"""

import sys
from collections.abc import Sequence
from typing import IO

import click

from bridge.config.mistakes import Mistake, count_line, printable


class Failed(click.ClickException):
    """The one line that says why."""

    exit_code = 1

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"jobbridge: {printable(self.message)}", file=file or sys.stderr)


class Unreachable(Failed):
    """The store or a broker does not answer, or the store's schema does not fit."""

    exit_code = 4


class NotFound(Failed):
    """A source, a route or an id that is not there."""

    exit_code = 5


class Mistaken(click.ClickException):
    """The configuration has mistakes: all of them, and their count."""

    exit_code = 3

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(count_line(mistakes))
        self._mistakes = mistakes

    def show(self, file: IO[str] | None = None) -> None:
        for mistake in self._mistakes:
            click.echo(str(mistake), file=file or sys.stderr)
        click.echo(self.message, file=file or sys.stderr)
