"""What becomes of a message: its route, its ID, its body."""

import sys
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bridge.config.routes import Route
from bridge.decode import Decoded, Decoder, Ignored, Rejection, Request
from bridge.message import Message
from bridge.routing import rule
from scheduler.handlers import describe
from scheduler.job import NewJob, job_id
from scheduler.limits import limit_key, lock_key


class Order(BaseModel):
    id: int
    amount: Annotated[float, Field(gt=0)] = 1.0


def place(order: Order) -> None:
    """Take an order."""


def raw(body: bytes) -> None:
    """Take anything."""


def decoder(*routes: dict[str, object], function: object = raw, **keys: object) -> Decoder:
    rules = [
        rule(Route.model_validate({"from": "s", "handler": "m:f", **route}), describe(function, "m:f"))
        for route in routes or ({"name": "only"},)
    ]
    return Decoder("s", rules, **keys)  # type: ignore[arg-type]


def accepted(decoded: Decoded) -> Request:
    assert isinstance(decoded, Request), decoded
    return decoded


def reason(decoded: Decoded) -> str:
    assert isinstance(decoded, Rejection), decoded
    return decoded.reason


def test_the_first_route_that_matches_wins() -> None:
    """By equality and by glob, as text, on headers and properties; a missing value matches nothing."""
    decode = decoder(
        {"name": "exact", "when": {"header:type": "order.placed"}},
        {"name": "glob", "when": {"header:type": "order.*", "routing_key": "eu.?"}},
        {"name": "property", "when": {"type": "T"}},
        {"name": "topic", "when": {"topic": "pay*"}},
        {"name": "content", "when": {"content_type": "text/plain"}},
    ).decode

    def route(**fields: object) -> str:
        decoded = decode(Message(b"", correlation=b"c", **fields))  # type: ignore[arg-type]
        return decoded.route.name if isinstance(decoded, Request) else reason(decoded)

    assert route(headers=(("type", b"order.placed"),)) == "exact"
    assert route(headers=(("type", b"order.sent"),), routing_key="eu.1") == "glob"
    assert route(headers=(("type", b"order.sent"),), routing_key="eu.12") == "no-route"
    assert route(headers=(("type", b"order.sent"),)) == "no-route"
    assert route(headers=(("type", b"ORDER.PLACED"),)) == "no-route"
    assert route(headers=(("type", b"a"), ("type", b"b"))) == "no-route"
    assert route(type="T") == "property"
    assert route(topic="payments") == "topic"
    assert route(content_type="text/plain") == "content"
    assert route() == "no-route"


def test_a_source_may_ignore_what_no_route_takes() -> None:
    """`otherwise: ignore`."""
    decode = decoder({"name": "r", "when": {"type": "T"}}, otherwise="ignore").decode
    assert isinstance(decode(Message(b"", correlation=b"c")), Ignored)


@pytest.mark.parametrize(
    ("key", "fields", "expected"),
    [
        ("correlation_id", {"correlation": b"\xff\x00"}, b"\xff\x00"),
        ("message_id", {"message_id": b"m"}, b"m"),
        ("header:order", {"headers": (("order", b"7"), ("order", b"8"))}, b"7"),
        ("key", {"key": b"k"}, b"k"),
        ("body:/order/id", {"body": b'{"order": {"id": "a7"}}'}, b"a7"),
        ("body:/order/id", {"body": b'{"order": {"id": 7}}'}, b"7"),
        ("body:/list/1", {"body": b'{"list": [1, true]}'}, b"true"),
        ("body:/a~1b", {"body": '{"a/b": "é"}'.encode()}, "é".encode()),
    ],
)
def test_where_the_id_stands(key: str, fields: dict[str, object], expected: bytes) -> None:
    """Each `dedupe.key`."""
    decode = decoder({"name": "r", "dedupe": {"key": key}}).decode
    job = accepted(decode(Message(**{"body": b"", **fields}))).job  # type: ignore[arg-type]
    assert (job.correlation_bytes, job.id) == (expected, job_id("r", expected))


def test_the_content_may_be_the_id() -> None:
    """Equal bodies are one job."""
    decode = decoder({"name": "r", "dedupe": {"key": "content"}}).decode
    one, same, other = (accepted(decode(Message(body))).job.id for body in (b"a", b"a", b"b"))
    assert one == same != other


@pytest.mark.parametrize("key", ["correlation_id", "message_id", "header:x", "key", "body:/x", "body:/a/b"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_id_is_rejected(key: str, empty: bool) -> None:
    """Missing or empty; never replaced by a constant."""
    decode = decoder({"name": "r", "dedupe": {"key": key}}).decode
    nothing = b"" if empty else None
    headers = (("x", b""),) if empty else ()
    body = b'{"x": "", "a": 1}' if empty else b'{"x": null}'
    message = Message(body, headers, nothing, nothing, nothing)
    assert reason(decode(message)) == "missing-correlation-id"


def test_an_id_in_a_body_that_is_none() -> None:
    """A table is no ID, and a body that can't be read has none."""
    decode = decoder({"name": "r", "dedupe": {"key": "body:/x"}}).decode
    assert reason(decode(Message(b'{"x": {}}'))) == "missing-correlation-id"
    assert reason(decode(Message(b"nothing"))) == "invalid-json"


def test_what_stands_in_for_a_missing_id() -> None:
    """`missing: content` and `missing: allow`: the coordinates, else a random ID."""
    by_content = decoder({"name": "r", "dedupe": {"missing": "content"}}).decode
    assert accepted(by_content(Message(b"a"))).job.id == accepted(by_content(Message(b"a"))).job.id
    allowed = decoder({"name": "r", "dedupe": {"missing": "allow"}}).decode
    placed = Message(b"a", coordinates="t/0/7")
    assert accepted(allowed(placed)).job.id == accepted(allowed(placed)).job.id
    assert accepted(allowed(Message(b"a"))).job.id != accepted(allowed(Message(b"a"))).job.id


def test_the_namespace_is_the_route_or_what_it_names() -> None:
    """Two routes fed by one transaction are two jobs, unless they share a namespace."""
    message = Message(b"", correlation=b"c")
    ids = [
        accepted(decoder(route).decode(message)).job.id
        for route in (
            {"name": "a"},
            {"name": "b"},
            {"name": "c", "dedupe": {"namespace": "n"}},
            {"name": "d", "dedupe": {"namespace": "n"}},
        )
    ]
    assert len(set(ids)) == 3
    assert ids[2] == ids[3]


def test_a_long_id_is_digested_whole_and_kept_capped() -> None:
    """Two long IDs that differ at their end are two jobs."""
    decode = decoder().decode
    one, other = (accepted(decode(Message(b"", correlation=b"x" * 300 + end))).job for end in (b"1", b"2"))
    assert one.id != other.id
    assert (len(one.correlation_bytes), one.correlation_length) == (255, 301)


def test_a_body_is_validated_and_stored_as_received() -> None:
    """The parsed object goes along; the bytes are not touched."""
    body = b' {"amount": 2, "id": "7"} '
    request = accepted(decoder(function=place).decode(Message(body, correlation=b"c")))
    assert (request.body, request.job.body) == (Order(id=7, amount=2.0), body)
    rejected = decoder(function=place).decode(Message(b'{"id": 7, "amount": -1}', correlation=b"c"))
    assert isinstance(rejected, Rejection)
    assert (rejected.reason, rejected.detail) == ("invalid-body", "amount: Input should be greater than 0")


@pytest.mark.parametrize("name", ["os:system", "builtins:exec", "antigravity:x", "tests.unit.test_decode:place"])
def test_no_content_chooses_what_runs(name: str) -> None:
    """The handler is the route's, whatever a message names, and nothing it names is imported (I6)."""
    headers = tuple((key, name.encode()) for key in ("handler", "job", "task", "type", "__type__", "class", "module"))
    message = Message(b'{"__class__": "%s"}' % name.encode(), headers, b"c", type=name, routing_key=name)
    before = set(sys.modules)
    assert accepted(decoder().decode(message)).job.handler == "m:f"
    assert set(sys.modules) == before


def test_size_encoding_and_undecodable() -> None:
    """What is refused before its body is looked at."""
    decode = decoder(max_message_bytes=10).decode
    assert reason(decode(Message(b"x" * 11, correlation=b"c"))) == "too-large"
    accepted(decode(Message(b"x" * 10, correlation=b"c")))
    assert reason(decode(Message(b"", correlation=b"c", content_encoding="gzip"))) == "content-encoding"
    accepted(decode(Message(b"", correlation=b"c", content_encoding="identity")))
    assert reason(decode(Message(b"", undecodable="bad frame"))) == "undecodable"


MESSAGES = st.builds(
    Message,
    st.binary(max_size=50)
    | st.sampled_from([b"[" * 100_000, b"9" * 5000, b'{"id": 1e999}', b'{"id": "\xed\xa0\x80"}']),
    st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple),
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=5),
    st.none() | st.binary(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    expires=st.none() | st.integers(0, 10**14).map(lambda milliseconds: milliseconds / 1000),
)


@given(MESSAGES, st.sampled_from(["correlation_id", "header:x", "body:/id", "body:/0", "content", "key"]))
def test_no_message_raises(message: Message, key: str) -> None:
    """Any message is a job or has a reason, and what is stored of it can be stored."""
    decoded = decoder({"name": "r", "dedupe": {"key": key}}, function=place).decode(message)
    if isinstance(decoded, Request):
        job = decoded.job
        assert job.headers.isascii()
        assert job.correlation_id.isprintable()
        assert job.body == message.body
    else:
        assert reason(decoded)


def terms(route: dict[str, object], **message: object) -> NewJob:
    """The job that a route makes of a message."""
    decoded = decoder({"name": "r", **route}).decode(Message(b'{"id": 7}', correlation=b"c", **message))  # type: ignore[arg-type]
    return accepted(decoded).job


def test_a_plain_route_asks_for_nothing() -> None:
    """Its jobs may run at once, under no lock and no limit, for ever."""
    job = terms({})
    assert job.at_once
    assert (job.at_us, job.delay_us, job.lock_key, job.limit_key, job.expires_us) == (None, 0, None, None, None)


@pytest.mark.parametrize(
    ("lock", "value"), [("header:customer", b"42"), ("body:/id", b"7"), ("key", b"k"), ("correlation_id", b"c")]
)
def test_a_lock_is_taken_from_the_message(lock: str, value: bytes) -> None:
    """Within the route's namespace; a message without its value is under no lock."""
    given = {"headers": (("customer", b"42"),), "key": b"k"}
    assert terms({"lock": lock}, **given).lock_key == lock_key("r", value)
    assert terms({"lock": lock, "dedupe": {"namespace": "n"}}, **given).lock_key == lock_key("n", value)
    assert terms({"lock": "header:none"}, **given).lock_key is None
    assert not terms({"lock": lock}, **given).at_once


def test_limits_belong_to_the_route() -> None:
    """Whichever of the two it has."""
    for limit in ({"concurrency": 3}, {"rate": "10/1m"}, {"concurrency": 3, "rate": "10/1m"}):
        assert terms(dict(limit)).limit_key == limit_key("r")


@pytest.mark.parametrize(
    ("text", "at", "delay"),
    [
        (b"2026-11-27T12:00:00Z", 1_795_780_800_000_000, 0),
        (b"2026-11-27T13:00:00.5+01:00", 1_795_780_800_500_000, 0),
        (b"90", None, 90_000_000),
        (b"0.25", None, 250_000),
    ],
)
def test_a_header_says_when(text: bytes, at: int | None, delay: int) -> None:
    """A time with its zone, or seconds; it wins over the route's delay."""
    job = terms({"delay": "5m", "schedule": {"header": "at"}}, headers=(("at", text),))
    assert (job.at_us, job.delay_us, job.later) == (at, delay, True)
    assert terms({"delay": "5m", "schedule": {"header": "at"}}).delay_us == 300_000_000


@pytest.mark.parametrize(
    "text", [b"", b"soon", b"-1", b"nan", b"inf", b"1e300", b"2026-11-27T12:00:00", b"2026-11-27", b"\xff"]
)
def test_a_header_that_says_no_time_makes_a_dead_letter(text: bytes) -> None:
    """Rather than a job that runs at once."""
    decode = decoder({"name": "r", "schedule": {"header": "at"}}).decode
    rejected = decode(Message(b"", headers=(("at", text),), correlation=b"c"))
    assert reason(rejected) == "bad-schedule"


def test_the_sooner_expiry_counts() -> None:
    """The route's, or the message's own."""
    assert terms({"expires": "10s"}).expires_us == 10_000_000
    assert terms({"expires": "10s"}, expires=60.0).expires_us == 10_000_000
    assert terms({"expires": "10s"}, expires=2.5).expires_us == 2_500_000
    assert terms({}, expires=2.5).expires_us == 2_500_000
    assert terms({}, expires=2.5).at_once
