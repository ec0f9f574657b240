"""The handlers of all simulated routes. What they do is planned by the run's `Desk`."""

from __future__ import annotations

from collections.abc import Callable

from scheduler import JobContext, job


class Desk:
    """Where a handler asks what to do: by its run, since others run between its statements."""

    def __init__(self) -> None:
        self.plans: dict[JobContext, Callable[[], None]] = {}


DESK = Desk()


def handle(body: dict[str, object], context: JobContext) -> None:
    """Do as planned."""
    DESK.plans[context]()


@job(transactional=True)
def transact(body: dict[str, object], context: JobContext) -> None:
    """The same, in the transaction of its job's success."""
    DESK.plans[context]()
