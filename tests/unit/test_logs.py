"""What a line of the log looks like, to a machine and to people."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from bridge import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The logging of the test run itself stays as it is."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    levels = {name: logging.getLogger(name).level for name in logs.OURS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def logged(stream: io.StringIO, log_format: str | None = None) -> str:
    logs.configure(log_format, stream=stream)
    extra = {"job": "4711", "route": "a b", "attempt": 2, "error.type": "ValueError", "owner": None}
    logging.getLogger("jobbridge.worker").warning("failed: %s", "x\x1b[31m\ny", extra=extra)
    return stream.getvalue()


def test_a_pipe_gets_one_json_object_a_line() -> None:
    text = logged(io.StringIO())
    assert text.count("\n") == 1
    line = json.loads(text)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "jobbridge.worker",
        "event": "failed",
        "message": "failed: x\x1b[31m\ny",
        "job": "4711",
        "route": "a b",
        "attempt": 2,
        "error.type": "ValueError",
        "owner": None,
    }


def test_a_terminal_gets_a_line_that_nothing_can_break_or_colour() -> None:
    text = logged(Terminal())
    assert text.count("\n") == 1
    assert text[24:] == (" WARNING failed: x\\x1b[31m\\ny " + 'job=4711 route="a b" attempt=2 error.type=ValueError\n')


def test_the_format_can_be_chosen() -> None:
    assert json.loads(logged(Terminal(), "json"))
    assert " job=4711 " in logged(io.StringIO(), "text")


def test_a_stack_trace_follows_the_line() -> None:
    for log_format in ("text", "json"):
        stream = io.StringIO()
        logs.configure(log_format, stream=stream)
        try:
            raise ValueError("no \x1b[31m")
        except ValueError:
            logging.getLogger("bridge").exception("it failed")
        assert "\x1b" not in stream.getvalue()
        lines = stream.getvalue().splitlines()
        assert ("Traceback" in json.loads(lines[0])["exc_info"]) if log_format == "json" else len(lines) > 2


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [(2, "dDiwe"), (1, "dDiwe"), (0, "Diwe"), (-1, "we"), (-2, "e"), (-3, "e")],
)
def test_verbosity_is_of_our_own_lines(verbosity: int, expected: str) -> None:
    """Of others nothing below INFO is shown: their debug lines may hold what they were given."""
    stream = io.StringIO()
    logs.configure("text", verbosity=verbosity, stream=stream)
    logging.getLogger("shop").debug("never")
    logging.getLogger("jobbridge").debug("d")
    logging.getLogger("shop").info("D")
    for letter, level in (("i", logging.INFO), ("w", logging.WARNING), ("e", logging.ERROR)):
        logging.getLogger("scheduler").log(level, letter)
    assert "".join(line[-1] for line in stream.getvalue().splitlines()) == expected


@pytest.mark.parametrize(
    ("template", "event"),
    [
        ("job failed, next try in %.1f s: %s", "job-failed"),
        ("source %s: not attached: %s", "source-not-attached"),
        ("registered as server %d", "registered-as-server"),
        ("the store answers again, after %.1f s", "the-store-answers-again"),
    ],
)
def test_an_event_is_what_all_lines_of_a_kind_share(template: str, event: str) -> None:
    assert logs.event_of(template) == event


def test_a_line_names_its_server_and_a_handlers_own_is_no_event() -> None:
    """A handler's text may be put together from anything."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logging.getLogger("jobbridge.handler").info("order of secret person")
    logs.identify(7)
    logging.getLogger("jobbridge.pod").info("stopped")
    handlers, ours = map(json.loads, stream.getvalue().splitlines())
    assert ("event" in handlers, "server" in handlers) == (False, False)
    assert (ours["event"], ours["server"]) == ("stopped", 7)
