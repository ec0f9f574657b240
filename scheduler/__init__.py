"""Durable jobs on a shared database, each executed once. Of jobbridge, and usable without any message broker."""

from scheduler.client import Asked, Enqueued, Scheduler
from scheduler.context import JobContext
from scheduler.declared import recurring
from scheduler.filters import on
from scheduler.handlers import job
from scheduler.job import JobState
from scheduler.retry import Backoff, Snooze

__all__ = [
    "Asked",
    "Backoff",
    "Enqueued",
    "JobContext",
    "JobState",
    "Scheduler",
    "Snooze",
    "job",
    "on",
    "recurring",
]
