"""`@recurring`: handlers that say themselves when they run. It only marks; what a pod's configuration names counts."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ParamSpec, TypeVar

from scheduler.handlers import MARK, Handler, HandlerError, JobOptions
from scheduler.recurring import Recurring

P = ParamSpec("P")
R = TypeVar("R")

_RECURRING = "__jobbridge_recurring__"


def recurring(
    *,
    cron: str | None = None,
    every: str | float | None = None,
    timezone: str = "UTC",
    name: str | None = None,
    body: object = None,
    misfire: str = "once",
    misfire_grace: str | float = 60.0,
    overlap: str = "skip",
    fold: str = "once",
    until: str | datetime | None = None,
    retries: int | None = None,
    timeout: str | float | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a handler that runs at times of its own; the keys are those of `recurring` in the file.

    It registers nothing: a pod declares those of the handlers that its configuration names. It may stand several
    times on one function, with names that differ.

    :param name: by default the handler's.
    :param body: what the handler is given, as JSON; by default an empty object.
    :raises ValueError: for what can't be a recurring job.
    """
    keys: dict[str, object] = {
        "cron": cron,
        "every": every,
        "timezone": timezone,
        "misfire": misfire,
        "misfire_grace": misfire_grace,
        "overlap": overlap,
        "fold": fold,
        "until": until,
        "retries": retries,
        "timeout": timeout,
        "body": json.dumps({} if body is None else body),
    }
    Recurring.model_validate(keys | {"name": name or "name", "handler": "handler"})

    def mark(marked: Callable[P, R]) -> Callable[P, R]:
        if not hasattr(marked, MARK):
            setattr(marked, MARK, JobOptions())
        setattr(marked, _RECURRING, (*getattr(marked, _RECURRING, ()), (name, keys)))
        return marked

    return mark


def declared(handler: Handler) -> list[Recurring]:
    """What `@recurring` says of a handler.

    :raises HandlerError: where the handler's name can't be that of a recurring job, or two have one name.
    """
    marks: Sequence[tuple[str | None, dict[str, object]]] = getattr(handler.function, _RECURRING, ())
    try:
        return [
            Recurring.model_validate(keys | {"name": name or handler.name, "handler": handler.name})
            for name, keys in marks
        ]
    except ValueError:
        raise HandlerError(f"{handler.name}: give its @recurring a name of at most 200 characters") from None
