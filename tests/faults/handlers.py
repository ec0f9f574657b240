"""What the pods of fault runs execute. Starts and ends are lines of a journal in the pods' working directory."""

import json
import os
import sys
import threading
import time

from pydantic import BaseModel

from scheduler import JobContext, job
from tests.faults.history import HANDLERS, now
from tests.faults.terms import ECHOES, effects


class Task(BaseModel):
    """What a message asks for."""

    n: int
    sleep: float = 0.0
    act: str = ""
    pad: str = ""


def note(what: str, context: JobContext) -> None:
    """One write of one line to a file opened for appending is one line, whoever else writes."""
    job = context.job
    line = {
        "what": what,
        "id": job.correlation_id,
        "version": job.version,
        "owner": job.owner.hex,
        "pid": os.getpid(),
        "thread": threading.get_native_id(),
        "at": round(now(), 6),
    }
    file = os.open(HANDLERS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, (json.dumps(line) + "\n").encode())
    os.close(file)


def work(task: Task, context: JobContext) -> None:
    """Note the start, do what is asked, note how it ended."""
    note("start", context)
    if task.act == "exit-once" and context.job.version <= 2:
        note("exit", context)
        os._exit(7)
    if task.act == "raise" or (task.act == "raise-once" and context.job.attempt == 1):
        note("raise", context)
        raise RuntimeError("as asked")
    if task.act == "leave" and context.job.attempt == 1:
        note("raise", context)
        sys.exit(3)
    if task.act == "recurse" and context.job.attempt == 1:
        note("raise", context)
        _recurse()
    if task.act == "hold-once" and context.job.version <= 2:
        note("hold", context)
        hold(task.sleep)
        note("held", context)
    else:
        _sleep(task.sleep, context)
    note("end", context)


def pulse(context: JobContext) -> None:
    """A tick's job."""
    note("start", context)
    _sleep(0.02, context)
    note("end", context)


@job(name="faults.book", transactional=True)
def book(task: Task, context: JobContext) -> None:
    """Write a row and send a message, both with the job's success."""
    note("start", context)
    try:
        _book(task, context)
    except Exception:
        note("raise", context)
        raise
    note("end", context)


def _book(task: Task, context: JobContext) -> None:
    row = effects.insert().values(job=context.job.id.bytes, version=context.job.version)
    context.connection.execute(row)
    context.publish(ECHOES, {"n": task.n})
    _sleep(task.sleep, context)
    if task.act == "raise" or (task.act == "raise-once" and context.job.attempt == 1):
        raise RuntimeError("as asked")


def _sleep(seconds: float, context: JobContext) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(0.05, left))
        if context.cancelled:
            note("cancelled", context)
            raise InterruptedError("told to stop")


def _recurse() -> None:
    _recurse()


def hold(seconds: float) -> None:
    """Keep the interpreter's lock for about so long, in one call into C: no other thread of the process runs."""
    started = time.perf_counter()
    sum(range(2_000_000))
    sum(range(int(2_000_000 * seconds / (time.perf_counter() - started))))
