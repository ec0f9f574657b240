"""Handlers: what a signature asks for, what a body may be, and how a mistake is told."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from scheduler.bodies import InvalidBody, parse_json
from scheduler.context import JobContext
from scheduler.handlers import (
    Handler,
    HandlerError,
    HandlerRegistry,
    JobOptions,
    collect,
    describe,
    job,
    resolve,
)
from scheduler.job import Job
from scheduler.retry import Backoff, PolicyOverride

JOB = Job(bytes(16), 3, b"\1" * 16, "n", b"c\0", "c\\x00", "r", "h", "s", '{"a": "\\u0000"}', b"{}", 2, 1, None)


class Order(BaseModel):
    id: int
    amount: float = 0.0


def called(function: Callable[..., object], body: bytes) -> object:
    """What a handler answers when it is run with this body."""
    handler = describe(function, "m:f")
    value = handler.parse(body)
    assert handler.load(body) == value
    return handler.call(value, JobContext(JOB, 2))


def test_each_annotation_gets_its_kind_of_body() -> None:
    """A model validated, JSON as Python has it, text and bytes as they are."""

    def model(order: Order) -> object:
        return order

    def mapping(body: dict[str, int]) -> object:
        return body

    def plain_dict(body: dict) -> object:  # type: ignore[type-arg]
        return body

    def sequence(body: list[Order]) -> object:
        return body

    def text(body: str) -> object:
        return body

    def raw(body: bytes) -> object:
        return body

    def anything(body: Any) -> object:
        return body

    def unannotated(body) -> object:  # type: ignore[no-untyped-def]
        return body

    assert called(model, b'{"id": 7, "amount": 12.5}') == Order(id=7, amount=12.5)
    assert called(mapping, b'{"a": 1}') == called(plain_dict, b'{"a": 1}') == {"a": 1}
    assert called(sequence, b'[{"id": 1}]') == [Order(id=1)]
    assert called(text, "é\0".encode()) == "é\0"
    assert called(raw, b"\xff\0") == b"\xff\0"
    assert called(anything, b"[1, null]") == called(unannotated, b"[1, null]") == [1, None]


def test_the_context_is_found_in_any_place_and_a_body_need_not_be_taken() -> None:
    """By its annotation; defaults and variadic parameters are left alone."""

    def first(context: JobContext, body: dict[str, int]) -> object:
        return context.job.attempt, body

    def last(body: dict[str, int], *, where: JobContext) -> object:
        return where.job.attempt, body

    def alone(context: JobContext) -> object:
        return context.job.attempt

    def nothing() -> object:
        return "ran"

    def more(body: bytes, retries: int = 3, *args: int, **more: int) -> object:
        return body, retries, args, more

    def keyword(*, body: bytes) -> object:
        return body

    assert called(first, b'{"a": 1}') == called(last, b'{"a": 1}') == (3, {"a": 1})
    assert (called(alone, b"not read"), called(nothing, b"not read")) == (3, "ran")
    assert (called(more, b"x"), called(keyword, b"x")) == ((b"x", 3, (), {}), b"x")


def test_what_runs_on_the_event_loop_is_known_by_its_declaration() -> None:
    """`async def`, also under `@job`."""

    @job(retries=1)
    async def coroutine() -> None: ...

    def function() -> None: ...

    assert (describe(coroutine, "m:f").is_async, describe(function, "m:f").is_async) == (True, False)


def broken_default(body: dict[str, int], other: str) -> None: ...


def positional_only(body: dict[str, int], /) -> None: ...


def unknown_name(body: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821


class NoSchema:
    """A type that pydantic can't read."""


def unreadable(body: NoSchema) -> None: ...


class Callable_:
    def __call__(self, body: dict[str, int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            broken_default,
            "m:f: the parameter 'other' has no default: a handler takes its body by name, and a JobContext",
        ),
        (positional_only, "m:f: the parameter 'body' has no default"),
        (unknown_name, "m:f: its signature can't be read: name 'Missing' is not defined"),
        (unreadable, "m:f: its first parameter's annotation .*NoSchema.* can't be read from a message: use a pydantic"),
        (Order, "m:f is not a function"),
        (7, "m:f is not a function"),
        (None, "m:f is not a function"),
        ("text", "m:f is not a function"),
        (Callable_(), "m:f: its signature can't be read"),
        (partial(broken_default, other="x"), "m:f: its signature can't be read"),
    ],
)
def test_what_cannot_be_a_handler_is_told_by_name(function: object, words: str) -> None:
    """Where it is written and what to change."""
    with pytest.raises(HandlerError, match=words):
        describe(function, "m:f")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder whose modules can be imported, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_reference_finds_its_function(modules: Path) -> None:
    """By module and name; stored under `@job`'s name, else under the reference."""
    (modules / "shop_a.py").write_text(
        "from scheduler import job\n"
        "def plain(body): ...\n"
        "@job(name='orders.audit')\n"
        "def audit(body): ...\n"
        "@job\n"
        "async def third(body): ...\n"
        "from shop_b import borrowed\n"
    )
    (modules / "shop_b.py").write_text("from scheduler import job\n@job\ndef borrowed(): ...\n")
    assert resolve("shop_a:plain").name == "shop_a:plain"
    assert resolve("shop_a:audit").name == "orders.audit"
    assert [handler.name for handler in collect(["shop_a"])] == ["orders.audit", "shop_a:third"]
    assert [handler.name for handler in collect(["shop_a:plain", "shop_b"])] == ["shop_a:plain", "shop_b:borrowed"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("shop", "'shop' is not module:function"),
        (":f", "':f' is not module:function"),
        ("shop:", "'shop:' is not module:function"),
        ("missing_one:f", "missing_one:f: can't import missing_one: ModuleNotFoundError: No module named"),
        ("shop_c:nothing", "shop_c:nothing: the module shop_c has no nothing"),
        ("shop_c:number", "shop_c:number is not a function"),
        ("shop_d:f", "shop_d:f: can't import shop_d: ZeroDivisionError: division by zero"),
        ("shop_e:f", "shop_e:f: can't import shop_e: SyntaxError"),
    ],
)
def test_a_wrong_reference_is_told_by_name(modules: Path, reference: str, words: str) -> None:
    """Also where importing the module fails, whatever it raises."""
    (modules / "shop_c.py").write_text("number = 7\n")
    (modules / "shop_d.py").write_text("1 / 0\n")
    (modules / "shop_e.py").write_text("def\n")
    with pytest.raises(HandlerError, match=words):
        resolve(reference)


def test_a_module_that_marks_nothing_is_a_mistake(modules: Path) -> None:
    """It was listed for its handlers."""
    (modules / "shop_f.py").write_text("def plain(body): ...\n")
    with pytest.raises(HandlerError, match="shop_f: no function in it is marked with @job or @recurring"):
        collect(["shop_f"])


def plain(body: bytes) -> None: ...


def other(body: bytes) -> None: ...


def test_a_registry_knows_each_name_once() -> None:
    """The same function twice is one; two functions under one name are a mistake; nothing is found by chance."""
    registry = HandlerRegistry([describe(plain, "a"), describe(plain, "a"), describe(other, "b")])
    assert (list(registry), len(registry), registry["a"].function) == (["a", "b"], 2, plain)
    assert registry.find("b").function is other
    assert registry.find("json:loads").function.__name__ == "loads"
    with pytest.raises(HandlerError, match="two functions are handlers under the name 'a'"):
        HandlerRegistry([describe(plain, "a"), describe(other, "a")])
    with pytest.raises(HandlerError, match="no handler is called 'c': write module:function, or list its module under"):
        registry.find("c")


def test_options_are_kept_at_the_function_and_register_nothing() -> None:
    """The mark changes nothing else; without it all is left to the configuration."""

    @job(
        name="n",
        retries=0,
        timeout="1.5m",
        backoff=Backoff(2, 3, 4),
        retry_on=(OSError,),
        no_retry_on=(FileNotFoundError,),
    )
    def marked(body: bytes) -> bytes:
        return body

    handler = describe(marked, "m:f")
    assert (handler.name, marked(b"x")) == ("n", b"x")
    assert handler.options == JobOptions(
        "n", PolicyOverride(retries=0, timeout=90.0, backoff=Backoff(2, 3, 4)), (OSError,), (FileNotFoundError,)
    )
    assert [handler.options.retries(error) for error in (OSError(), FileNotFoundError(), ValueError())] == [
        True,
        False,
        False,
    ]
    assert describe(plain, "m:f").options == JobOptions()
    with pytest.raises(ValueError, match="is not a duration"):
        job(timeout="soon")


DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'[{"b": {"a": 1, "a": 1}}]',
        b'{"a": 1, "\\u0061": 2}',
        b"[" * DEEP + b"]" * DEEP,
        b"[" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"9" * 5000,
        b"[-" + b"9" * 5000 + b"]",
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"01",
        b"1 2",
        b'"a\nb"',
        b"[1,]",
        b"\0",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """By the letter, with a stable code and a bounded text, by every handler that takes JSON."""

    def model(order: Order) -> None: ...

    def mapping(body: dict[str, Any]) -> None: ...

    def anything(body: object) -> None: ...

    for parse in (parse_json, *(describe(f, "m:f").parse for f in (model, mapping, anything))):
        with pytest.raises(InvalidBody) as caught:
            parse(body)
        assert caught.value.reason == "invalid-json"
        assert 0 < len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b' {"a": [1, 2.5, "x", true]} ', {"a": [1, 2.5, "x", True]}),
        (b"1e999", float("inf")),
        (b"9" * 4000, int("9" * 4000)),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\u0000"', "\0"),
        (b'{"a": {"a": {"a": 1}}}', {"a": {"a": {"a": 1}}}),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_json_is_read_as_it_is(body: bytes, value: object) -> None:
    """Odd numbers and escapes included."""
    assert parse_json(body) == value


def test_a_lone_surrogate_never_reaches_a_model() -> None:
    """JSON's grammar allows the escape; a model's text is text, and says no in the same way as to any wrong body."""

    class Named(BaseModel):
        name: str

    def model(named: Named) -> None: ...

    assert parse_json(b'"\\ud800"') == "\ud800"
    with pytest.raises(InvalidBody) as caught:
        describe(model, "m:f").parse(b'{"name": "\\ud800"}')
    assert caught.value.reason == "invalid-body"
    str(caught.value).encode()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_body_makes_a_parser_fail_otherwise(body: bytes) -> None:
    """A value or InvalidBody, and nothing else."""
    handler: Handler
    for handler in (describe(_takes_model, "m:f"), describe(_takes_text, "m:f"), describe(_takes_anything, "m:f")):
        try:
            handler.parse(body)
        except InvalidBody as refused:
            assert refused.reason in ("invalid-json", "invalid-body", "invalid-text")


def _takes_model(order: Order) -> None: ...


def _takes_text(body: str) -> None: ...


def _takes_anything(body: object) -> None: ...


def test_a_body_that_does_not_fit_its_model_is_told_without_its_content() -> None:
    """Where and why, not what: a log must not hold a message's data."""
    with pytest.raises(InvalidBody) as caught:
        describe(_takes_model, "m:f").parse(b'{"id": "hunter2", "amount": []}')
    assert caught.value.reason == "invalid-body"
    assert "id: " in str(caught.value)
    assert "amount: " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidBody, match=r"^body: "):
        describe(_takes_model, "m:f").parse(b"[]")


def test_text_that_is_no_utf_8_is_refused_with_its_place() -> None:
    """By the byte."""
    with pytest.raises(InvalidBody, match="not UTF-8 at byte 2") as caught:
        describe(_takes_text, "m:f").parse(b"ab\xff")
    assert caught.value.reason == "invalid-text"


def test_a_context_shows_the_job_and_what_was_asked_of_its_run() -> None:
    """The printable ID and its bytes, the attempt, the fencing token; cancelled only once it was."""
    context = JobContext(JOB, retries=2)
    view = context.job
    assert (view.id, view.namespace, view.correlation_id, view.correlation_bytes) == (
        UUID(int=0),
        "n",
        "c\\x00",
        b"c\0",
    )
    assert (view.headers, view.body, view.source) == ({"a": "\0"}, b"{}", "s")
    assert (view.attempt, view.version, view.owner, view.is_last_attempt) == (3, 3, UUID(bytes=b"\1" * 16), True)
    assert not JobContext(JOB, retries=3).job.is_last_attempt
    assert not context.cancelled
    context.cancel()
    assert context.cancelled
    context.progress(3, 10)
    assert context.done == (3, 10)
    assert context.log.extra == {
        "job": str(UUID(int=0)),
        "route": "r",
        "handler": "h",
        "attempt": 3,
        "version": 3,
        "correlation_id": "c\\x00",
        "source": "s",
    }
