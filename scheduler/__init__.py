"""Durable jobs on a shared database, each executed once. Usable without any message broker."""

from scheduler.client import Asked, Enqueued, Scheduler
from scheduler.handlers import JobContext, job
from scheduler.job import JobState
from scheduler.retry import Backoff, Snooze

__all__ = ["Asked", "Backoff", "Enqueued", "JobContext", "JobState", "Scheduler", "Snooze", "job"]
