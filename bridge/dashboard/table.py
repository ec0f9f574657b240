"""All that the dashboard has: what it shows and what can be done. Pages, `/api` and its OpenAPI document are made of
this table."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bridge.dashboard.acts import Acts, Done
from bridge.dashboard.asked import Asked
from bridge.dashboard.overview import Facts
from bridge.dashboard.views import Views
from scheduler.job import JobState

_STATES = ", ".join(JobState)
_FILTERS = {
    "state": f"One of {_STATES}.",
    "route": "Of this route.",
    "handler": "Of this handler.",
    "source": "Of this source.",
    "error": "With this text in the last failure, in capitals or not.",
    "since": "Ended within this time, or made where they have not ended: 30s, 5m, 2h, 7d.",
}
_AFTER = {"after": "Where the page begins: the `after` of the page before."}
_SWEEP = {"verb": "requeue, delete, run-now or cancel.", **_FILTERS}
_BEGAN = {"began": "What came, ran or ended later is left alone: the `began` of the count; microseconds since 1970."}
_NAME = {"name": "Its name in the configuration."}


class View(NamedTuple):
    """Something to look at: a page, and facts."""

    path: str
    name: str
    """Of its template."""
    facts: Callable[[Views, Asked], Facts]
    fields: Mapping[str, str] = {}

    @property
    def api(self) -> str:
        """Its path under `/api`."""
        return "/overview" if self.path == "/" else self.path

    @property
    def told(self) -> str:
        """What it is."""
        return (self.facts.__doc__ or "").strip()


class Act(NamedTuple):
    """Something to do, by a form of a page or by `/api`."""

    path: str
    do: Callable[[Acts, Asked], Done]
    fields: Mapping[str, str] = {}

    @property
    def told(self) -> str:
        """What it is."""
        return (self.do.__doc__ or "").strip()


VIEWS = (
    View("/", "overview", Views.overview, {"window": "1h, 6h, 24h or 7d."}),
    View("/jobs", "jobs", Views.jobs, {**_FILTERS, **_AFTER, "id": "A job's id or correlation ID, whole."}),
    View("/jobs/matching", "matching", Views.matching, {**_SWEEP, **_BEGAN}),
    View("/jobs/{id:uuid}", "job", Views.job),
    View("/recurring", "recurring", Views.recurring),
    View("/servers", "servers", Views.servers),
    View("/sources", "sources", Views.sources),
    View(
        "/dead-letters", "dead_letters", Views.dead_letters, {"reason": "Its code.", "source": "Of this one.", **_AFTER}
    ),
    View("/dead-letters/{id:uuid}", "dead_letter", Views.dead_letter, {"try": "1: what would become of it now."}),
)

MATCHING = Act("/jobs/matching", Acts.on_matching, {**_SWEEP, **_BEGAN})
ACTS = (
    MATCHING,
    Act("/jobs/{id:uuid}/{verb}", Acts.on_job),
    Act("/recurring/{verb}", Acts.on_recurring, _NAME),
    Act("/sources/{verb}", Acts.on_source, _NAME),
    Act("/routes/{verb}", Acts.on_route, _NAME),
    Act("/dead-letters/{id:uuid}/{verb}", Acts.on_dead_letter),
)
