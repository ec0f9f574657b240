"""The handler that all simulated routes run. What it does is planned by the run's `Desk`."""

from __future__ import annotations

from collections.abc import Callable

from scheduler import JobContext


class Desk:
    """Where the handler asks what to do; set for one call at a time."""

    def __init__(self) -> None:
        self.called: Callable[[dict[str, object], JobContext], None] = lambda body, context: None


DESK = Desk()


def handle(body: dict[str, object], context: JobContext) -> None:
    """Do as planned."""
    DESK.called(body, context)
