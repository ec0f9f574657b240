"""What the verbs take and answer."""

from enum import Enum, auto
from typing import NamedTuple

from scheduler.job import JobState


class Outcome(Enum):
    """What became of a job that was offered."""

    NEW = auto()
    DUPLICATE = auto()
    """The row stands, committed, with the same body."""
    CONFLICT = auto()
    """The row stands with another body; the first one wins, and the conflict is recorded."""
    COLLISION = auto()
    """The row of another correlation ID stands under this digest. 2^64 work for a sender, and only his own loss."""


class Inserted(NamedTuple):
    """The answer for one offered job."""

    outcome: Outcome
    claimed: bool
    """It is new and stands as PROCESSING, version 1, with the owner that was given: run it."""


class Existing(NamedTuple):
    """A row that was there before."""

    id: bytes
    token: int | None
    digest: bytes
    state: str
    version: int
    owner: bytes | None
    correlation_bytes: bytes
    correlation_length: int


class DeadLetter(NamedTuple):
    """A message that can't become a job, whole."""

    id: bytes
    source: str
    reason: str
    """A stable code, such as `invalid-json`."""
    detail: str
    correlation_id: str
    coordinates: str
    envelope: str
    """All of the message but its body, as JSON."""
    digest: bytes
    """Of the whole body, also where only its head is kept."""
    size: int
    body: bytes


class Event(NamedTuple):
    """A line of a job's history, beyond what its columns tell."""

    kind: str
    detail: str


class Finish(NamedTuple):
    """How a run ended: the write that takes its row out of PROCESSING."""

    id: bytes
    version: int
    owner: bytes
    state: JobState
    delay_us: int
    """From now to `due_at`: until the next try, or until the purge. A job that is handed back keeps its place."""
    failures: int = 0
    """To add to `attempts`."""
    drop_body: bool = False
    lane: int = 0
    """Where it waits for its next try: `gates.LOCKED`, if it lets go of its lock meanwhile."""
    event: Event | None = None
    lock_key: bytes | None = None


class ServerRow(NamedTuple):
    """A registered server."""

    number: int
    id: bytes
    host: str
    pid: int
    beat: int
    interval_us: int
    started_at: int
    last_heartbeat: int
    status: str
    age_us: int
    """Since its last heartbeat, by the database's clock."""


class LocalMessage(NamedTuple):
    """A message of the local queue."""

    seq: int
    envelope: str
    body: bytes


class Act(Enum):
    """What became of an operator's act on a job."""

    DONE = auto()
    NOT_FOUND = auto()
    WRONG_STATE = auto()
    BODY_DROPPED = auto()
    """A requeue of a job whose body was dropped when it succeeded."""
    LOST_RACE = auto()
    """The job moved on between reading and writing."""
