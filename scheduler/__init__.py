"""Durable jobs on a shared database, each executed once. Usable without any message broker."""

from scheduler.client import Enqueued, Scheduler
from scheduler.declared import recurring
from scheduler.handlers import JobContext, job
from scheduler.job import JobState
from scheduler.retry import Backoff, Snooze

__all__ = ["Backoff", "Enqueued", "JobContext", "JobState", "Scheduler", "Snooze", "job", "recurring"]
