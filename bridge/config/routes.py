"""Routes and recurring jobs: what handlers are called for, and on which terms. Shape only, as `model.py`."""

import json
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bridge.config.section import Name, Section, Text
from bridge.config.units import Duration, Rate
from bridge.labels import checked_template
from scheduler.cron import checked_cron, checked_timezone
from scheduler.recurring import PREFIX, Recurring


class Backoff(Section):
    base: Duration = Field(1.0, ge=0)
    factor: float = Field(2.0, ge=1, le=100)
    max: Duration = Field(3600.0, ge=0)
    delays: tuple[Duration, ...] = ()
    """Given: exactly these, one after the other; the last one again and again."""

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return {"delays": value} if isinstance(value, list) else value


Retries = Annotated[int, Field(ge=0, le=10_000)]
Timeout = Annotated[Duration, Field(gt=0)]


_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")


def _place(value: str, name: str, places: tuple[str, ...]) -> str:
    """Where in a message something stands: one of some fields, `header:NAME` or `body:/json/pointer`."""
    form, _, rest = value.partition(":")
    if value in places or (form == "header" and rest):
        return value
    if form == "body":
        if _POINTER.fullmatch(rest):
            return value
        raise PydanticCustomError(f"bad-{name}", "after body: stands a JSON pointer, such as body:/order/id")
    known = ", ".join((*places, "header:NAME"))
    raise PydanticCustomError(f"bad-{name}", f"a {name.replace('-', ' ')} is {known} or body:/json/pointer")


def _dedupe_key(value: str) -> str:
    return _place(value, "dedupe-key", ("correlation_id", "message_id", "key", "content"))


def _lock(value: str) -> str:
    return _place(value, "lock", ("correlation_id", "key"))


def _own(value: str) -> str:
    if value.startswith(PREFIX):
        raise PydanticCustomError("bad-name", "names that begin with recurring: are those of recurring jobs")
    return value


OwnName = Annotated[Name, AfterValidator(_own)]


class Dedupe(Section):
    key: Annotated[str, AfterValidator(_dedupe_key)] = "correlation_id"
    missing: Literal["reject", "content", "allow"] = "reject"
    on_conflict: Literal["ignore", "dead-letter"] = "ignore"
    namespace: OwnName | None = None
    """None: the route's name."""
    window: Duration = 7 * 86400.0


WHEN_KEYS = ("routing_key", "topic", "type", "content_type")


def _when_key(value: str) -> str:
    if value in WHEN_KEYS or (value.startswith("header:") and value != "header:"):
        return value
    raise PydanticCustomError("bad-when", "when tests header:NAME, routing_key, topic, type or content_type")


def _label(value: str) -> str:
    if value == "correlation_id" or (value.startswith("header:") and value != "header:"):
        return value
    raise PydanticCustomError("bad-label", "a label's value is correlation_id or header:NAME")


def _title(value: str) -> str:
    try:
        return checked_template(value)
    except ValueError as error:
        raise PydanticCustomError("bad-title", "{why}", {"why": str(error)}) from None


class Schedule(Section):
    header: Text
    """The header that says when: an RFC 3339 time, or seconds from now."""


class Route(Section):
    name: OwnName
    source: Name = Field(alias="from")
    when: dict[Annotated[str, AfterValidator(_when_key)], str] = {}
    """What must hold, each by equality or glob; empty: every message."""
    handler: Annotated[str, Field(min_length=1, max_length=255)]
    dedupe: Dedupe = Dedupe()
    retries: Retries | None = None
    timeout: Timeout | None = None
    backoff: Backoff | None = None
    """Complete: what the route does not give of it comes from `defaults`, else is built in."""
    keep_body: bool = True
    delay: Duration = 0.0
    schedule: Schedule | None = None
    expires: Annotated[Duration, Field(gt=0)] | None = None
    lock: Annotated[str, AfterValidator(_lock)] | None = None
    lock_while_retrying: bool = True
    title: Annotated[Text, AfterValidator(_title)] | None = None
    """What people are shown of a job, with `{correlation_id}`, `{id}`, `{route}`, `{handler}`, `{source}` or
    `{header:NAME}` in it; `{{` and `}}` are braces."""
    labels: dict[Name, Annotated[str, AfterValidator(_label)]] = {}
    """What people may look for: a name, and the place of its value, `header:NAME` or correlation_id."""
    concurrency: int | None = Field(None, ge=1, le=100_000)
    rate: Rate | None = None

    @property
    def is_limited(self) -> bool:
        """Whether its runs are limited over all pods."""
        return self.concurrency is not None or self.rate is not None

    @property
    def namespace(self) -> str:
        """What its correlation IDs are unique in."""
        return self.dedupe.namespace or self.name


def _cron(value: str) -> str:
    try:
        return checked_cron(value)
    except ValueError as error:
        raise PydanticCustomError("bad-cron", "{why}", {"why": str(error)}) from None


def _timezone(value: str) -> str:
    try:
        return checked_timezone(value)
    except ValueError as error:
        raise PydanticCustomError("unknown-timezone", "{why}", {"why": str(error)}) from None


def _instant(value: object) -> object:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise PydanticCustomError("bad-instant", "not an instant: write date, time and zone, as 2026-12-31T23:00:00Z")
    return instant


class RecurringJob(Section):
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    every: Annotated[Duration, Field(ge=1)] | None = None
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    handler: Annotated[str, Field(min_length=1, max_length=255)]
    body: JsonValue = {}
    misfire: Literal["skip", "once", "all"] = "once"
    misfire_grace: Duration = 60.0
    overlap: Literal["skip", "queue-one", "allow"] = "skip"
    fold: Literal["once", "twice"] = "once"
    until: Annotated[AwareDatetime, BeforeValidator(_instant)] | None = None
    retries: Retries | None = None
    timeout: Timeout | None = None

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise PydanticCustomError("cron-or-every", 'give either cron ("0 3 * * *") or every (10m)')
        return self

    def named(self, name: str, handler: str) -> Recurring:
        """What it declares.

        :param handler: the name that stands in the rows.
        """
        keys = self.model_dump(exclude={"body", "handler"})
        return Recurring.model_validate({**keys, "name": name, "handler": handler, "body": json.dumps(self.body)})


class RecurringJobs(Section):
    """A job under each name, and one key besides."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, RecurringJob]

    prune: bool = False
    """Rows that no pod declares are forgotten."""

    def jobs(self) -> dict[str, RecurringJob]:
        return dict(self.__pydantic_extra__ or {})
