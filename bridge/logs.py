"""Logging: lines for people on a terminal, else one JSON object a line.

Promises: a record is one line of JSON, or in text form one line that no control character can break or colour (a
stack trace follows it on lines of its own); times are RFC 3339 in UTC.
Does not promise to take a secret or a body out of a record: the code logs none.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from bridge.config.mistakes import printable
from scheduler.tracing import current_ids

TALKATIVE = ("alembic", "uvicorn")
OURS = ("bridge", "scheduler", "jobbridge")
"""The loggers whose level `-v` and `-q` set; other libraries and handlers log from INFO on."""
HANDLERS = "jobbridge.handler"

_STANDARD = frozenset(RESERVED_ATTRS) | {"taskName"}


def configure(log_format: str | None = None, *, verbosity: int = 0, stream: TextIO | None = None) -> None:
    """Set the process's logging up, in place of what was.

    :param log_format: `text` or `json`; None: text where the stream is a terminal.
    :param verbosity: 1 and up: debug, 0: info, -1: warnings, -2: errors.
    :param stream: None: stderr.
    """
    stream = sys.stderr if stream is None else stream
    text = stream.isatty() if log_format is None else log_format == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonLines())
    level = {1: logging.DEBUG, 0: logging.INFO, -1: logging.WARNING, -2: logging.ERROR}[max(-2, min(1, verbosity))]
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def _moment(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines(JsonFormatter):
    """`ts`, `level`, `logger`, `event`, `server`, `message`, then what the record's `extra` holds; of a trace that is
    recorded `trace_id` and `span_id`.

    The event is the constant part of a line of ours: `job-failed`, `source-not-attached`.
    """

    def __init__(self) -> None:
        super().__init__(["message"], reserved_attrs=sorted(_STANDARD))
        self.server: int | None = None
        """The number that this process is registered under."""

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        log_data |= {"ts": _moment(record), "level": record.levelname, "logger": record.name}
        if record.name.startswith(OURS) and not record.name.startswith(HANDLERS):
            log_data["event"] = event_of(str(record.msg))
        if self.server is not None:
            log_data["server"] = self.server
        log_data |= current_ids()
        super().add_fields(log_data, record, message_dict)


@lru_cache(maxsize=500)
def event_of(template: str) -> str:
    """The stable name of a line: its text up to the first mark, without what is put into it."""
    constant = re.split("[:,;]", re.sub(r"%[-+ #0-9.]*[a-zA-Z]:?", " ", template))[0]
    return "-".join(re.findall("[a-z]+", constant.lower()))


def identify(server: int) -> None:
    """From now on lines of JSON say which server this is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.server = server


class TextFormatter(logging.Formatter):
    """`2026-11-24T12:00:00.000Z WARNING a job failed job=.. route=..`"""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(
            f"{name}={_shown(value)}"
            for name, value in record.__dict__.items()
            if name not in _STANDARD and value is not None
        )
        line = f"{_moment(record)} {record.levelname:<7} {printable(record.getMessage())}"
        line = f"{line} {extra}" if extra else line
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line = "\n".join([line, *(printable(part) for part in trace.splitlines())])
        return line


def _shown(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(c in text for c in ' "=')
    return text if plain else json.dumps(text)
