"""A mistake in the configuration: where it is, its stable code, and what to do about it."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Where something stands in the tree: `("routes", 1, "retries")`."""


class Place(NamedTuple):
    """Where something stands in the file; counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Mistake(NamedTuple):
    code: str
    where: Place
    path: str
    """Such as `routes[1].retires`; empty: the file as a whole."""
    message: str
    """Never repeats a value that came from a reference, or one that may be secret."""
    severity: str = "error"
    """`error` or `warning`."""

    def __str__(self) -> str:
        subject = f" {self.path}" if self.path else ""
        return f"{self.where}: {self.severity}[{self.code}]{subject}: {self.message}"

    def as_json(self) -> dict[str, object]:
        return {
            "file": self.where.file,
            "line": self.where.line,
            "column": self.where.column,
            "severity": self.severity,
            "code": self.code,
            "path": self.path,
            "message": self.message,
        }

    def as_github(self) -> str:
        """A workflow command, which GitHub shows beside the line."""
        file, line, column = self.where
        message = re.sub(r"[%\r\n]", lambda found: f"%{ord(found[0]):02X}", f"{self.path}: {self.message}".lstrip(": "))
        name = re.sub(r"[%\r\n:,]", lambda found: f"%{ord(found[0]):02X}", file)
        return f"::{self.severity} file={name},line={line},col={column},title={self.code}::{message}"


class ConfigurationError(Exception):
    """The configuration can't be used. Holds every mistake, in the order of the file."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def count_line(mistakes: Iterable[Mistake]) -> str:
    """`2 errors, 1 warning`."""
    found = [mistake.severity for mistake in mistakes]
    parts = [(found.count(severity), severity) for severity in ("error", "warning")]
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in parts)


def printable(text: str) -> str:
    """Text that can't draw on a terminal: control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def path_text(path: Path) -> str:
    """`routes[1].when.header:type`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f"{'.' if text else ''}{printable(part[:80])}"
    return text
