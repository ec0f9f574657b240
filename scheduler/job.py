"""The job: its states, the transitions between them, and its identity.

Promises: only the transitions of `TRANSITIONS` happen (I9); one (namespace, correlation ID) has one id (I2).
Does not promise anything about time or storage: this file is pure.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

CORRELATION_CAP = 255
"""Bytes of a correlation ID that are kept, as many as AMQP allows. A longer one is digested whole."""


class JobState(StrEnum):
    SCHEDULED = "SCHEDULED"
    """Waits for its due time. Left by promote."""
    ENQUEUED = "ENQUEUED"
    """Waits for a worker. Left by a claim."""
    PROCESSING = "PROCESSING"
    """Held by the server that claimed it. Left by finish, retry, hand back and rescue."""
    SUCCEEDED = "SUCCEEDED"
    """Ended well. Left by an operator's requeue alone."""
    FAILED = "FAILED"
    """Out of tries, or orphaned too often. Left by an operator's requeue or delete."""
    DELETED = "DELETED"
    """Ended by an operator, or not started before it expired. Left by an operator's requeue alone."""


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.ENQUEUED, JobState.DELETED}),
    JobState.ENQUEUED: frozenset({JobState.PROCESSING, JobState.DELETED}),
    JobState.PROCESSING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.SCHEDULED, JobState.ENQUEUED, JobState.DELETED}
    ),
    JobState.SUCCEEDED: frozenset({JobState.ENQUEUED}),
    JobState.FAILED: frozenset({JobState.ENQUEUED, JobState.DELETED}),
    JobState.DELETED: frozenset({JobState.ENQUEUED}),
}

FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.DELETED})


def digest(*parts: bytes) -> bytes:
    """BLAKE2b-128 of the parts, each framed by its length, so that ("ab", "c") is not ("a", "bc")."""
    hasher = blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


@lru_cache(maxsize=1024)
def _framed(namespace: str) -> bytes:
    raw = namespace.encode()
    return len(raw).to_bytes(8, "big") + raw


def job_id(namespace: str, correlation: bytes) -> bytes:
    """The 16 bytes that are the job's unique key: the `digest` of the namespace and the ID."""
    framed = _framed(namespace) + len(correlation).to_bytes(8, "big") + correlation
    return blake2b(framed, digest_size=16).digest()


def preview(raw: bytes) -> str:
    """A printable form of a correlation ID: UTF-8 where it is, and what can't be printed as `\\xNN` or `\\uNNNN`."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def headers_json(texts: Mapping[str, str]) -> str:
    """Headers as they are stored: a JSON object in ASCII, which every database takes, NUL and surrogates included."""
    return json.dumps(dict(texts)) if texts else "{}"


class NewJob(NamedTuple):
    """What a producer asks for. Made by `new_job`, which computes the identity."""

    id: bytes
    namespace: str
    correlation_bytes: bytes
    correlation_length: int
    correlation_id: str
    route: str
    handler: str
    source: str
    headers: str
    """A JSON object, name to text."""
    body: bytes
    digest: bytes
    """Of the body: the same ID with another digest is a conflict."""
    retries: int | None
    """What the program that enqueued it asked for; None: the handler's configuration decides."""
    at_us: int | None = None
    """When it is due, by the database's clock; None: `delay_us` after it is inserted."""
    delay_us: int = 0
    lock_key: bytes | None = None
    """Of all jobs with this key one runs at a time, in order of arrival."""
    limit_key: bytes | None = None
    """Its route's, where that has a limit of its runs."""
    expires_us: int | None = None
    """After its insertion: not started by then, it is deleted."""

    @property
    def later(self) -> bool:
        """Whether it waits for a due time first."""
        return self.at_us is not None or self.delay_us > 0

    @property
    def at_once(self) -> bool:
        """Whether nothing but a worker has to be waited for."""
        return not self.later and self.lock_key is None and self.limit_key is None


def new_job(
    *,
    namespace: str,
    correlation: bytes,
    handler: str,
    body: bytes,
    route: str = "",
    source: str = "",
    headers: str = "{}",
    retries: int | None = None,
    at_us: int | None = None,
    delay_us: int = 0,
    lock_key: bytes | None = None,
    limit_key: bytes | None = None,
    expires_us: int | None = None,
) -> NewJob:
    """Build the request for a job.

    :param correlation: the raw correlation ID, any bytes but none at all.
    :param body: the message's bytes as received; they are stored unchanged.
    :param headers: a JSON object, name to text.
    """
    kept = correlation[:CORRELATION_CAP]
    return NewJob(
        job_id(namespace, correlation),
        namespace,
        kept,
        len(correlation),
        preview(kept),
        route,
        handler,
        source,
        headers,
        body,
        blake2b(body, digest_size=16).digest(),
        retries,
        at_us,
        delay_us,
        lock_key,
        limit_key,
        expires_us,
    )


class Job(NamedTuple):
    """A job as a worker holds it: one (id, version, owner), which is its fencing token."""

    key: bytes
    version: int
    owner: bytes
    namespace: str
    correlation_bytes: bytes
    correlation_id: str
    route: str
    handler: str
    source: str
    headers_json: str
    body: bytes
    attempts: int
    """Failures so far."""
    rescues: int
    retries: int | None
    lock_key: bytes | None = None
    waited_us: int = 0
    """From when it was due to its claim, by the database's clock."""
    age_us: int = 0
    """From its insertion to its claim."""

    @property
    def id(self) -> UUID:
        return UUID(bytes=self.key)
