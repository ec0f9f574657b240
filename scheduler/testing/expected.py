"""What a test asks of a job, and how a job differs from it."""

import json
from collections.abc import Callable, Mapping
from typing import TypedDict

from scheduler.bodies import encoded
from scheduler.handlers import describe
from scheduler.job import JobState
from scheduler.storage.operators import Record


class Expected(TypedDict, total=False):
    """All that is given must hold."""

    route: str
    state: JobState | str
    correlation_id: str
    handler: Callable[..., object] | str
    body: object
    """Bytes and text as they are; of an object, at any depth, the names that are given."""


def name_of(handler: Callable[..., object]) -> str:
    """What stands in the row of a handler's job."""
    return describe(handler, f"{handler.__module__}:{handler.__qualname__}").name


def differences(row: Record, expected: Expected) -> list[str]:
    """What is not as expected, as text."""
    found: list[str] = []
    for name, wanted in expected.items():
        if name not in Expected.__annotations__:
            raise TypeError(f"a job has no {name!r}: ask for {', '.join(Expected.__annotations__)}")
        stands = row[name]
        if name == "body":
            stands, wanted = _comparable(stands, wanted)
        elif name == "handler" and callable(wanted):
            wanted = name_of(wanted)
        elif name == "state":
            wanted = JobState(str(wanted))
        if not _fits(stands, wanted):
            found.append(f"{name} is {stands!r}")
    return found


def shown(expected: Expected) -> str:
    """As it was written."""
    return ", ".join(f"{name}={wanted!r}" for name, wanted in expected.items()) or "anything"


def label(row: Record) -> str:
    """Which job it is."""
    return f"{row['correlation_id']!r} of {row['route'] or row['handler']}"


def _comparable(body: object, wanted: object) -> tuple[object, object]:
    if not isinstance(body, bytes) or isinstance(wanted, bytes | str):
        return body, encoded(wanted)
    try:
        return json.loads(body), json.loads(encoded(wanted))
    except ValueError:
        return body, wanted


def _fits(stands: object, wanted: object) -> bool:
    if isinstance(wanted, Mapping) and isinstance(stands, Mapping):
        return all(name in stands and _fits(stands[name], part) for name, part in wanted.items())
    return stands == wanted
