"""Recurring jobs: what is to be made, when, and what becomes of ticks that come late or too soon. Pure rules.

A tick is an instant at which a job is due. Each makes one job, whose correlation ID says which, or is passed over for
a reason that is told. What stands in the store is the spec as JSON, so that any pod can fire it, also one that does
not know the handler.
"""

import json
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from scheduler.cron import Cron, checked_cron, checked_timezone
from scheduler.duration import seconds
from scheduler.instants import instant_of, rfc3339, since_1970
from scheduler.job import NewJob, digest, new_job

PREFIX = "recurring:"
"""With the name it is the route and the namespace of the jobs."""

SOURCE = "recurring"
_MICROSECOND = timedelta(microseconds=1)


def _stored(instant: datetime | None) -> int | None:
    return None if instant is None else since_1970(instant)


def _seconds(value: object) -> float:
    if isinstance(value, str | int | float | timedelta):
        return seconds(value)
    raise ValueError("not a duration")


def _name(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("a name is printable, without blanks around it")
    return value


class Every:
    """A tick at each whole multiple of a duration since 1970, in UTC."""

    def __init__(self, length: float) -> None:
        self._step = round(length * 1e6)

    def after(self, instant: datetime) -> datetime | None:
        """The first tick after an instant."""
        return instant_of((since_1970(instant) // self._step + 1) * self._step)


class Due(NamedTuple):
    """What becomes of the ticks up to now."""

    ticks: tuple[datetime, ...]
    """Those that ask for a job, oldest first."""
    passed: int
    """How many were passed over."""
    reason: str
    """Why; empty where none was."""
    following: datetime | None
    """The first tick that is not decided yet."""


class Decision(NamedTuple):
    """What is written of it; times as the store counts."""

    jobs: tuple[NewJob, ...]
    next_at: int | None
    last_at: int | None
    """The newest tick that made a job; None: none did."""
    passed: int
    reasons: tuple[str, ...]


class Recurring(BaseModel):
    """One recurring job. Its keys are those of the configuration; durations are seconds, or text such as `10m`.

    :raises ValueError: for what can't be one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_name)]
    handler: Annotated[str, Field(min_length=1, max_length=255)]
    cron: Annotated[str, AfterValidator(checked_cron)] | None = None
    every: Annotated[float, BeforeValidator(_seconds), Field(ge=1)] | None = None
    timezone: Annotated[str, AfterValidator(checked_timezone)] = "UTC"
    body: str = "{}"
    """JSON."""
    misfire: Literal["skip", "once", "all"] = "once"
    misfire_grace: Annotated[float, BeforeValidator(_seconds)] = 60.0
    overlap: Literal["skip", "queue-one", "allow"] = "skip"
    fold: Literal["once", "twice"] = "once"
    until: AwareDatetime | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    timeout: Annotated[float, BeforeValidator(_seconds)] | None = None
    """This and `retries` are for the pods' policies: a job's row does not hold them."""

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either cron or every")
        return self

    @property
    def route(self) -> str:
        """The route and the namespace of its jobs."""
        return PREFIX + self.name

    @cached_property
    def _schedule(self) -> Cron | Every:
        if self.cron is not None:
            return Cron(self.cron, self.timezone, twice=self.fold == "twice")
        return Every(self.every or 1.0)

    def dumps(self) -> str:
        """As JSON, in one form."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)

    @classmethod
    def loads(cls, spec: str) -> Self:
        """The reverse of `dumps`.

        :raises ValueError: for what this version can't read.
        """
        return cls.model_validate_json(spec)

    def digest(self) -> bytes:
        """The same for the same spec."""
        return digest(self.dumps().encode())

    def after(self, instant: datetime) -> datetime | None:
        """The first tick after an instant; None: there is none."""
        tick = self._schedule.after(instant)
        return None if tick is None or (self.until is not None and tick > self.until) else tick

    def between(self, first: datetime, last: datetime, limit: int) -> list[datetime]:
        """The ticks from one instant to another, both included; the first so many."""
        return self._run(self.after(first - _MICROSECOND), last, limit)[0]

    def _run(self, tick: datetime | None, last: datetime, limit: int) -> tuple[list[datetime], datetime | None]:
        """So many ticks from this one to `last`, and the one that follows."""
        ticks: list[datetime] = []
        while tick is not None and tick <= last and len(ticks) < limit:
            ticks.append(tick)
            tick = self.after(tick)
        return ticks, tick

    def due(self, first: datetime, now: datetime, limit: int) -> Due:
        """Of the ticks from `first` on, which is one, up to now: what is made, what is passed over.

        Those that are late by no more than `misfire_grace` are made, at most `limit` at a time; `misfire` decides of
        the older ones. `passed` is exact up to `limit`.
        """
        edge = now - timedelta(seconds=self.misfire_grace)
        if self.misfire == "all" or first >= edge:
            ticks, following = self._run(first, now, limit)
            return Due(tuple(ticks), 0, "", following)
        old, following = self._run(first, edge - _MICROSECOND, limit)
        newest, more = old[-1], following is not None and following < edge
        if following is not None and more:
            newest = self._newest(following, edge)
            following = self.after(newest)
        made = [newest] if self.misfire == "once" else []
        fresh, following = self._run(following, now, limit - 1)
        passed = len(old) - (0 if more else len(made))
        reason = ""
        if passed:
            reason = (
                f"{'more than ' if more else ''}{passed} missed from {rfc3339(first)} on, the newest of "
                f"{rfc3339(newest)}: late by more than misfire_grace (misfire: {self.misfire})"
            )
        return Due((*made, *fresh), passed, reason, following)

    def _newest(self, tick: datetime, edge: datetime) -> datetime:
        """The newest tick before `edge`, by bisection, from one that is before it."""
        high = edge
        while high - tick >= timedelta(seconds=1):  # no two ticks are closer
            later = self.after(tick + (high - tick) / 2)
            if later is not None and later < edge:
                tick = later
            else:
                high = tick + (high - tick) / 2
        return tick

    def decide(self, first: datetime, now: datetime, runs: tuple[bool, bool], limit: int) -> Decision:
        """`due`, and then `overlap`.

        :param runs: whether the last job is unfinished, and the one before it. A retry is to come: it is unfinished.
        """
        due = self.due(first, now, limit)
        jobs: list[NewJob] = []
        last: datetime | None = None
        reasons = [due.reason] if due.reason else []
        passed = due.passed
        for tick in due.ticks:
            if self.overlap != "allow" and (all(runs) if self.overlap == "queue-one" else runs[0]):
                passed += 1
                reasons.append(f"{rfc3339(tick)} passed over: an earlier job is unfinished (overlap: {self.overlap})")
                continue
            jobs.append(self.job_of(tick))
            last, runs = tick, (True, runs[0])
        return Decision(tuple(jobs), _stored(due.following), _stored(last), passed, tuple(reasons))

    def job(self, correlation: str) -> NewJob:
        """The job of one tick, or of one call."""
        return new_job(
            namespace=self.route,
            correlation=correlation.encode(),
            handler=self.handler,
            body=self.body.encode(),
            route=self.route,
            source=SOURCE,
        )

    def job_of(self, tick: datetime) -> NewJob:
        """The job of a tick."""
        return self.job(f"{self.name}@{rfc3339(tick)}")


def following(spec: str, after: int) -> int | None:
    """The first tick of a spec after a time, as the store counts."""
    return _stored(Recurring.loads(spec).after(instant_of(after)))


def triggered(spec: str, now: int) -> NewJob:
    """A job of a spec for no tick, but for a call at this time."""
    recurring = Recurring.loads(spec)
    return recurring.job(f"{recurring.name}!{rfc3339(instant_of(now))}")
