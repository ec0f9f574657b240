"""What a fault run writes down while it goes on: append-only files of JSON lines, and what they say when it is over.

`publish.jsonl`: what the publisher attempted and what was confirmed to it. `handlers.jsonl`: what the pods' handlers
did. `nemesis.jsonl`: faults, whom they hit, and when they were healed. `observer.jsonl`: the table of servers, read
again and again past every fault, jobs that wait for a lock, samples of jobs, and moments in which this machine itself
stood still.

Promises: a line is written whole or not at all, by whichever of many threads and processes; a process that is killed
leaves its lines. All times are seconds since 1970 by the machine's clock, which is the database's too.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PUBLISH, HANDLERS, NEMESIS, OBSERVER = "publish.jsonl", "handlers.jsonl", "nemesis.jsonl", "observer.jsonl"

FOREVER = float("inf")


def now() -> float:
    """The machine's clock, also where `time.time` was tampered with."""
    return time.clock_gettime(time.CLOCK_REALTIME)


class Journal:
    """Appends to one file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, what: str, **fields: object) -> None:
        """Add a line that says what, and when."""
        os.write(self._file, (json.dumps({"what": what, "at": round(now(), 6)} | fields) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True)
class Attempt:
    """One message that was sent, whether or not it arrived."""

    number: int
    id: str
    """Its correlation ID as it is shown; empty: it has none."""
    digest: str
    """Of its body, hexadecimal."""
    good: bool
    """It must become a job; otherwise a dead letter."""
    at: float = 0.0
    route: str = "tasks"
    """Which it must go."""
    key: str = ""
    """Of its lock."""


@dataclass(frozen=True)
class Note:
    """A line of a handler."""

    what: str
    """start, end, raise, cancelled, exit, hold or held."""
    id: str
    version: int
    owner: str
    """The server id, hexadecimal."""
    pid: int
    thread: int
    at: float


@dataclass(frozen=True)
class Hit:
    """A pod under a fault of its own: dead, ended (told to end), frozen, or cut from the store."""

    pid: int
    how: str
    start: float
    end: float = FOREVER


@dataclass(frozen=True)
class Fault:
    """One act of the nemesis."""

    number: int
    kind: str
    landed: bool
    start: float
    end: float
    disturbs_store: bool
    """The store was away, slow or locked for some pod that judges others, or for all."""


@dataclass(frozen=True)
class Reading:
    """The table of servers at some moment from `at` to `until`: owner -> (pid, last heartbeat)."""

    at: float
    until: float
    servers: dict[str, tuple[int, float]]


@dataclass(frozen=True)
class Crash:
    pid: int
    code: str
    """Its exit code, or what else was wrong with its end."""


@dataclass
class History:
    """All that was written down."""

    attempts: list[Attempt] = field(default_factory=list)
    confirmed: set[int] = field(default_factory=set)
    """Numbers of attempts."""
    notes: list[Note] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    samples: list[tuple[str, int, str]] = field(default_factory=list)
    """A job's id, version and state, as they stood at some moment."""
    waiting: dict[str, float] = field(default_factory=dict)
    """Jobs that waited for a lock: when that was first read, at the latest."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """This machine ran nothing of ours for a while."""
    crashes: list[Crash] = field(default_factory=list)
    """Pods that ended though nobody told or made them."""


@dataclass(frozen=True)
class JobRow:
    key: str
    """The job's id, hexadecimal."""
    id: str
    """The correlation ID as it is shown."""
    namespace: str
    version: int
    state: str
    owner: str
    attempts: int
    rescues: int
    digest: str
    """Of the body that stands in the row, computed from its bytes."""
    created_at: float = 0.0


@dataclass(frozen=True)
class EventRow:
    key: str
    kind: str
    version: int
    owner: str
    at: float


@dataclass
class Rows:
    """The database at the end, and what else was left."""

    jobs: list[JobRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    """The digest of each dead letter's whole body."""
    effects: list[str] = field(default_factory=list)
    """The job, hexadecimal, of each row that a handler wrote in the transaction of its job's success."""
    drained: bool = False
    """The bounded wait at the end came to its end."""
    left: dict[str, int] = field(default_factory=dict)
    """Messages ready or unacknowledged in queues, records of lag: what of it is not zero."""


def lines(path: Path) -> Iterator[dict]:
    """The lines of one file; none where it was never begun."""
    if path.exists():
        with path.open() as file:
            for line in file:
                yield json.loads(line)


def read(folder: Path) -> History:
    """All histories of one run."""
    history = History()
    for line in lines(folder / PUBLISH):
        if line["what"] == "attempted":
            fields = (line[name] for name in ("n", "id", "digest", "good", "at", "route", "key"))
            history.attempts.append(Attempt(*fields))
        else:
            history.confirmed.add(line["n"])
    for line in lines(folder / HANDLERS):
        fields = (line[name] for name in ("what", "id", "version", "owner", "pid", "thread", "at"))
        history.notes.append(Note(*fields))
    _read_nemesis(folder, history)
    for line in lines(folder / OBSERVER):
        match line["what"]:
            case "servers":
                rows = {owner: (pid, beat) for owner, pid, beat in line["servers"]}
                history.readings.append(Reading(line["since"], line["at"], rows))
            case "jobs":
                history.samples += [(key, version, state) for key, version, state in line["jobs"]]
            case "waiting":
                for key in line["jobs"]:
                    history.waiting.setdefault(key, line["at"])
            case "stall":
                history.stalls.append((line["since"], line["at"]))
    return history


def _read_nemesis(folder: Path, history: History) -> None:
    begun: dict[int, dict] = {}
    disturbing: set[int] = set()
    hit: dict[int, list[dict]] = defaultdict(list)
    healed: dict[int, dict] = {}
    for line in lines(folder / NEMESIS):
        match line["what"]:
            case "begin":
                begun[line["n"]] = line
            case "disturbs-store":
                disturbing.add(line["n"])
            case "hit":
                hit[line["n"]].append(line)
            case "healed":
                healed[line["n"]] = line
            case "crash":
                history.crashes.append(Crash(line["pid"], str(line["code"])))
    for number, line in begun.items():
        end = healed.get(number)
        until = end["at"] if end else FOREVER
        history.faults.append(
            Fault(number, line["kind"], bool(end and end["landed"]), line["at"], until, number in disturbing)
        )
        for one in hit[number]:
            forever = one["how"] in ("dead", "ended")
            history.hits.append(Hit(one["pid"], one["how"], one["at"], FOREVER if forever else until))
    history.hits += _by_handlers(history.notes)


def _by_handlers(notes: list[Note]) -> Iterator[Hit]:
    """What handlers did to their own pods."""
    held: dict[tuple[int, int], float] = {}
    for note in notes:
        if note.what == "exit":
            yield Hit(note.pid, "dead", note.at)
        elif note.what == "hold":
            held[note.pid, note.thread] = note.at
        elif note.what == "held":
            yield Hit(note.pid, "frozen", held.pop((note.pid, note.thread)), note.at)
    for (pid, _), start in held.items():
        yield Hit(pid, "frozen", start)
