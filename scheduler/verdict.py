"""What the end of a run means for its job: a pure rule."""

import traceback
from functools import lru_cache
from random import Random

from scheduler.handlers import JobOptions
from scheduler.job import Job, JobState
from scheduler.retry import Policy, Snooze
from scheduler.storage.gates import LOCKED
from scheduler.storage.records import Event, Finish

MAX_TRACE = 16_000
"""Characters of a stack trace that are kept: its end, which names the error."""


LONGEST = 100 * 365 * 86400.0
"""Seconds that a delay lasts at most. One that the database can't hold would keep all results of its batch back."""


@lru_cache(maxsize=256)
def microseconds(duration: float) -> int:
    """Seconds as whole microseconds, at most a hundred years."""
    return int(min(duration, LONGEST) * 1_000_000)


def one_line(error: BaseException) -> str:
    """An error's type and the head of its text, for a log."""
    return f"{type(error).__name__}: {error}".encode("unicode_escape").decode("ascii")[:200]


def stack_trace(error: BaseException) -> str:
    """An error with its trace as text; never rebuilt into an object."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-50)
    return storable("".join(lines))


def storable(text: str) -> str:
    """The end of a text, as every database takes it: no NUL, no lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[-MAX_TRACE:]


def succeeded(job: Job, policy: Policy) -> Finish:
    """The handler returned."""
    return Finish(
        job.key,
        job.version,
        job.owner,
        JobState.SUCCEEDED,
        microseconds(policy.window),
        drop_body=not policy.keep_body,
        lock_key=job.lock_key,
    )


def handed_back(job: Job) -> Finish:
    """The run did not happen, or was cut off by its own pod: that is no failure."""
    return Finish(job.key, job.version, job.owner, JobState.ENQUEUED, 0)


def outcome(result: Finish) -> str:
    """How a run is counted that ended so."""
    if result.state is JobState.SCHEDULED:
        return "retried" if result.failures else "snoozed"
    return result.state.value.lower()


def ended_by(error: BaseException, job: Job, policy: Policy, options: JobOptions, random: Random) -> Finish:
    """The handler raised."""
    lane = LOCKED if job.lock_key is not None and not policy.lock_while_retrying else 0
    if isinstance(error, Snooze):
        until = microseconds(error.delay)
        return Finish(job.key, job.version, job.owner, JobState.SCHEDULED, until, lane=lane, lock_key=job.lock_key)
    failures = job.attempts + 1
    retries = policy.retries if job.retries is None else job.retries
    again = failures <= retries and options.retries(error)
    delay = policy.backoff.delay(failures, random) if again else policy.failed_retention
    return Finish(
        job.key,
        job.version,
        job.owner,
        JobState.SCHEDULED if again else JobState.FAILED,
        microseconds(delay),
        failures=1,
        lane=lane if again else 0,
        lock_key=job.lock_key,
        events=(Event("FAILED", stack_trace(error)),),
    )
