"""From a message to a job's request, or the reason why it can't be one. Pure, and never raises.

The body is validated here and not at run time: an invalid message must not use up the ID of its corrected resend.
The bytes that are stored are the bytes received; the parsed object goes along for a job that starts here at once.
"""

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from operator import attrgetter
from typing import NamedTuple

from jsonpointer import JsonPointerException, resolve_pointer

from bridge.config.routes import Route
from bridge.message import Message, header_texts
from bridge.routing import Rule, choose
from scheduler.bodies import InvalidBody, parse_json
from scheduler.instants import since_1970
from scheduler.job import NewJob, headers_json, new_job
from scheduler.limits import limit_key, lock_key
from scheduler.verdict import LONGEST, microseconds


class Request(NamedTuple):
    """A message that becomes a job."""

    message: Message
    route: Route
    job: NewJob
    body: object
    """As the handler is given it."""


class Rejection(NamedTuple):
    """A message that becomes a dead letter, and why."""

    message: Message
    reason: str
    detail: str
    route: Route | None = None
    """The one that would have taken it; None: it came so far with none."""
    fields: tuple[str, ...] = ()
    """What is wrong in a body, where that is known."""


class Ignored(NamedTuple):
    """A message that no route takes, from a source that says so."""

    message: Message


Decoded = Request | Rejection | Ignored


class Decoder:
    """Decodes the messages of one source.

    :param otherwise: what happens to a message that no rule matches.
    :param random_id: makes an ID for a message without any, where its route allows that.
    """

    def __init__(
        self,
        source: str,
        rules: Sequence[Rule],
        *,
        otherwise: str = "dead-letter",
        max_message_bytes: int = 1024**2,
        random_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._source = source
        self._rules = rules
        self._otherwise = otherwise
        self._max_message_bytes = max_message_bytes
        self._random_id = random_id
        self._finders = {rule.route.dedupe.key: finder(rule.route.dedupe.key) for rule in rules}
        self._terms = {rule.route.name: terms for rule in rules if (terms := Terms(rule.route)).say_something}

    def decode(self, message: Message) -> Decoded:
        """What becomes of this message."""
        if message.undecodable is not None:
            return Rejection(message, "undecodable", message.undecodable)
        size = len(message.body)
        if size > self._max_message_bytes:
            return Rejection(message, "too-large", f"{size} bytes, max_message_bytes is {self._max_message_bytes}")
        if message.content_encoding not in (None, "", "identity"):
            return Rejection(message, "content-encoding", "a content encoding is not supported: send the body plain")
        headers = header_texts(message) if message.headers else {}
        rule = choose(self._rules, message, headers)
        if rule is None:
            if self._otherwise == "ignore":
                return Ignored(message)
            return Rejection(message, "no-route", "no route of this source matches it")
        try:
            correlation = self._correlation(message, rule.route, headers)
            if not correlation:
                detail = f"no {rule.route.dedupe.key} in the message"
                return Rejection(message, "missing-correlation-id", detail, rule.route)
            body = rule.handler.parse(message.body)
        except InvalidBody as error:
            return Rejection(message, error.reason, str(error), rule.route, error.fields)
        job = new_job(
            namespace=rule.route.namespace,
            correlation=correlation,
            handler=rule.handler.name,
            body=message.body,
            route=rule.route.name,
            source=self._source,
            headers=headers_json(headers),
        )
        terms = self._terms.get(rule.route.name)
        if terms is not None or message.expires is not None:
            try:
                job = (terms or Terms(rule.route)).applied(job, message, headers)
            except InvalidBody as error:
                return Rejection(message, error.reason, str(error), rule.route)
        return Request(message, rule.route, job, body)

    def _correlation(self, message: Message, route: Route, headers: Mapping[str, str]) -> bytes | None:
        dedupe = route.dedupe
        found = self._finders[dedupe.key](message)
        if found or dedupe.missing == "reject":
            return found
        if dedupe.missing == "content":
            return _content_id(message.body)
        return (message.coordinates or self._random_id()).encode()


class Terms:
    """What a route says of when and beside what its jobs may run."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._lock = None if route.lock is None else finder(route.lock)
        self._limit = limit_key(route.name) if route.is_limited else None

    @property
    def say_something(self) -> bool:
        """Whether a job of this route is any different for them."""
        route = self._route
        waits = route.delay or route.schedule or route.expires
        return bool(waits or self._lock or self._limit)

    def applied(self, job: NewJob, message: Message, headers: Mapping[str, str]) -> NewJob:
        """The job under these terms. Without a lock's value it is under no lock, as Kafka's records without a key.

        :raises InvalidBody: where the lock stands in a body that can't be read, or the due time is none.
        """
        route = self._route
        at_us, delay = None, route.delay
        when = headers.get(route.schedule.header) if route.schedule is not None else None
        if when is not None:
            at_us, delay = due_time(when)
        value = self._lock(message) if self._lock is not None else None
        expiries = [expires for expires in (route.expires, message.expires) if expires is not None]
        return job._replace(
            at_us=at_us,
            delay_us=microseconds(delay),
            lock_key=lock_key(route.namespace, value) if value else None,
            limit_key=self._limit,
            expires_us=microseconds(min(expiries)) if expiries else None,
        )


def due_time(text: str) -> tuple[int | None, float]:
    """An RFC 3339 time as microseconds since 1970, or a number as seconds from now.

    :raises InvalidBody: for neither.
    """
    with contextlib.suppress(ValueError):
        if 0 <= (delay := float(text)) <= LONGEST:
            return None, delay
    with contextlib.suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return max(0, since_1970(at)), 0.0
    raise InvalidBody("bad-schedule", "the header for its due time holds no RFC 3339 time and no number of seconds")


def finder(key: str) -> Callable[[Message], bytes | None]:
    """A function that finds the raw ID at the place that `dedupe.key` names; None or empty: it is missing.

    The function raises `InvalidBody` where the ID stands in a body that can't be read.
    """
    kind, _, rest = key.partition(":")
    match kind:
        case "correlation_id":
            return attrgetter("correlation")
        case "message_id":
            return attrgetter("message_id")
        case "key":
            return attrgetter("key")
        case "content":
            return lambda message: _content_id(message.body)
        case "header":
            return lambda message: next((value for name, value in message.headers if name == rest), None)
        case "body":
            return lambda message: _at_pointer(parse_json(message.body), rest)
        case _:
            raise ValueError(f"no such dedupe key: {key}")


def _content_id(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).hexdigest().encode()


def _at_pointer(document: object, pointer: str) -> bytes | None:
    try:
        found = resolve_pointer(document, pointer)
    except (JsonPointerException, TypeError):
        return None
    if found is None:
        return None
    if isinstance(found, str):
        return found.encode("utf-8", "surrogatepass")
    if not isinstance(found, bool | int | float):
        raise InvalidBody("missing-correlation-id", f"what stands at {pointer} is no text, number or boolean")
    return json.dumps(found).encode()
