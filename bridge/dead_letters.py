"""Messages that can't become jobs: kept whole in the store, listed, and replayed when their cause is mended."""

import json
import secrets
from collections.abc import Container, Mapping
from enum import Enum, auto
from hashlib import blake2b
from logging import getLogger
from typing import NamedTuple
from uuid import UUID

from bridge.decode import Decoder, Ignored, Rejection, Request
from bridge.message import Message
from scheduler.job import digest, preview
from scheduler.storage import Storage
from scheduler.storage.records import DeadLetter, Outcome

log = getLogger("jobbridge.dead_letters")

Decoders = Mapping[str, Decoder]
"""By source."""

MAX_BODY = 4 * 1024**2
"""Bytes of a body that are kept whole; of a longer one the head, the digest and the length are."""
HEAD = 64 * 1024
CONFLICT = "a job with this correlation ID and another body stands"
WITHOUT_HEADERS = json.dumps({"undecodable": "its headers were too large to keep"})
"""The envelope of a message whose own the store refuses: a replay tells so, and makes no job of the rest."""
REDELIVERY = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers that a quorum queue adds when it delivers a message again: another delivery, and no other message."""


def _shown(text: str) -> str:
    """Text that every database takes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:2000]


def _reversible(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "surrogateescape")


def _bytes(text: object) -> bytes | None:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else None


def envelope(message: Message) -> str:
    """All of a message but its body, as ASCII JSON; bytes that are not UTF-8 as lone surrogates, reversibly."""
    fields = message._asdict()
    del fields["body"]
    fields["headers"] = [[name, _reversible(value)] for name, value in message.headers]
    for name in ("correlation", "message_id", "key"):
        fields[name] = _reversible(fields[name])
    if not message.coordinates:
        del fields["coordinates"]
    return json.dumps({name: value for name, value in fields.items() if value is not None and value != []})


def _first_delivery(message: Message, stored: str) -> str:
    """The envelope of the message's first delivery; of a header table that can't be read nothing, since the broker's
    own headers are in it as well."""
    if message.undecodable is not None:
        return envelope(message._replace(headers=(), undecodable=""))
    sent = tuple(one for one in message.headers if one[0] not in REDELIVERY)
    return stored if len(sent) == len(message.headers) else envelope(message._replace(headers=sent))


def message_of(stored: str, body: bytes) -> Message:
    """The message that `envelope` was made of."""
    fields = json.loads(stored)
    headers = tuple((str(name), _bytes(value) or b"") for name, value in fields.pop("headers", ()))
    correlation, message_id, key = (_bytes(fields.pop(name, None)) for name in ("correlation", "message_id", "key"))
    return Message(body, headers, correlation, message_id, key, **fields)


def dead_letter(source: str, message: Message, reason: str, detail: str, *, keep: int = MAX_BODY) -> DeadLetter:
    """Make a dead letter. Its id is the same for the same message, on whichever pod and however often it came.

    :param keep: bytes of the body up to which it is kept whole.
    """
    body = message.body
    stored = envelope(message)
    if len(body) > keep:
        log.error("a dead letter of source %s has %d bytes: only its head is kept", source, len(body))
        body = body[: min(HEAD, keep)]
    identity = (
        (message.coordinates.encode(),)
        if message.coordinates
        else (message.correlation or b"", _first_delivery(message, stored).encode(), message.body, reason.encode())
    )
    return DeadLetter(
        id=digest(source.encode(), *identity),
        source=source,
        reason=reason,
        detail=_shown(detail),
        correlation_id=preview((message.correlation or b"")[:255]),
        coordinates=_shown(message.coordinates)[:500],
        envelope=stored,
        digest=blake2b(message.body, digest_size=16).digest(),
        size=len(message.body),
        body=body,
    )


class Replay(Enum):
    """What became of a replayed dead letter."""

    CREATED = auto()
    DUPLICATE = auto()
    """Its job stands already."""
    STILL_REJECTED = auto()
    """It stays a dead letter."""
    NOT_FOUND = auto()


class Replayed(NamedTuple):
    """The answer to `replay`; a dead letter whose job was created, or stood, is gone."""

    outcome: Replay
    detail: str = ""
    job: UUID | None = None


class Lost(Exception):
    """A dead letter stays one, and why."""


def kept(letter: Mapping[str, object], sources: Container[str]) -> tuple[str, Message]:
    """A dead letter's source and message.

    :raises Lost: for one whose source is gone, or of whose body the head alone was kept.
    """
    source, body = str(letter["source"]), letter["body"]
    if source not in sources:
        raise Lost(f"no source {source!r} is configured any more")
    assert isinstance(body, bytes)
    if letter["size"] != len(body):
        raise Lost("only the head of its body was kept: its sender must send it again")
    return source, message_of(str(letter["envelope"]), body)


def _decoded(decoders: Decoders, letter: Mapping[str, object]) -> Request | Ignored:
    """A dead letter's message, by the routes as they are now.

    :raises Lost: it can't be offered, or is rejected again.
    """
    source, message = kept(letter, decoders)
    decoded = decoders[source].decode(message)
    if isinstance(decoded, Rejection):
        raise Lost(f"{decoded.reason}: {decoded.detail}")
    return decoded


def tried(decoders: Decoders, storage: Storage, key: bytes) -> dict[str, object]:
    """What `replay` would make of a dead letter now; nothing is changed."""
    letter = storage.dead_letter(key)
    if letter is None:
        return {"outcome": "NOT_FOUND"}
    try:
        decoded = _decoded(decoders, letter)
    except Lost as why:
        return {"outcome": "STILL_REJECTED", "detail": str(why)}
    if not isinstance(decoded, Request):
        return {"outcome": "IGNORED"}
    job = decoded.job
    told: dict[str, object] = {"route": job.route, "handler": job.handler, "job": UUID(bytes=job.id)}
    outcome, stands = storage.foresee(job)
    if outcome in (Outcome.CONFLICT, Outcome.COLLISION):
        return {"outcome": "STILL_REJECTED", "detail": CONFLICT, **told}
    if stands is not None:
        return {"outcome": "DUPLICATE", "state": stands["state"], **told}
    return {"outcome": "CREATED", **told}


def replay(decoders: Decoders, storage: Storage, key: bytes, by: str = "") -> Replayed:
    """Offer a dead letter again, as its source's message, to the routes as they are now.

    :param by: who does it, for the history of a job that is made.
    """
    letter = storage.dead_letter(key)
    if letter is None:
        return Replayed(Replay.NOT_FOUND)
    try:
        decoded = _decoded(decoders, letter)
    except Lost as why:
        return Replayed(Replay.STILL_REJECTED, str(why))
    outcome, job = Replay.DUPLICATE, None
    if isinstance(decoded, Request):
        (answer,) = storage.insert_if_absent([decoded.job], token=secrets.randbits(63))
        if answer.outcome in (Outcome.CONFLICT, Outcome.COLLISION):
            return Replayed(Replay.STILL_REJECTED, CONFLICT)
        job = UUID(bytes=decoded.job.id)
        if answer.outcome is Outcome.NEW:
            outcome = Replay.CREATED
            storage.note(job.bytes, "REPLAYED", f"by {by}; it was a dead letter: {letter['reason']}")
    storage.drop_dead_letter(key)
    return Replayed(outcome, job=job)
