"""What the pods of the acceptance tests run. Its effects are lines in a file, counted outside the database."""

import os
import time
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import text

from scheduler import JobContext, job

EFFECTS = "effects.log"
"""In the pods' working directory, which they share."""


class Task(BaseModel):
    """What a message asks for."""

    id: int
    sleep: float = 0.0
    act: str = ""


def note(what: str, context: JobContext) -> None:
    """Add a line; one write of a few bytes to a file opened for appending is one line, whoever else writes."""
    seen = context.job
    line = f"{what} {seen.correlation_id} {os.getpid()} {seen.version} {time.time():.6f}\n"
    file = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def work(task: Task, context: JobContext) -> None:
    """Note the start, do what is asked, note the end."""
    note("start", context)
    until = time.monotonic() + task.sleep
    while time.monotonic() < until and not Path("hurry").exists():
        time.sleep(min(0.05, task.sleep))
    if task.act == "exit":
        os._exit(7)
    if task.act == "raise":
        raise RuntimeError("as asked")
    if task.act == "cancellable":
        while not context.cancelled:
            time.sleep(0.02)
    note("end", context)


@job(name="acceptance.async")
async def work_async(task: Task, context: JobContext) -> None:
    """The same on the event loop."""
    note("start", context)
    note("end", context)


@job(name="acceptance.book", transactional=True)
def book(task: Task, context: JobContext) -> None:
    """Add a row of its own, in the commit of the job's success."""
    note("start", context)
    context.connection.execute(text("INSERT INTO ledger (task) VALUES (:id)"), {"id": task.id})
    time.sleep(task.sleep)
    if task.act == "raise":
        raise RuntimeError("as asked")


@job(name="acceptance.forward")
def forward(task: Task, context: JobContext) -> None:
    """Send a message on, and fail afterwards if asked to."""
    note("start", context)
    context.publish("answers", {"id": task.id}, headers={"from": context.job.correlation_id})
    context.log.info("sent %d on", task.id)
    time.sleep(task.sleep)
    if task.act == "raise":
        raise RuntimeError("as asked")
