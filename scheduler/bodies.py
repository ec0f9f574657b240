"""Bodies: from bytes to what a handler's annotation asks for.

Promises: JSON by the letter: no NaN, no name twice, no recursion bomb; a body that does not fit is told where.
"""

import inspect
import json
import typing
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError


class UnreadableAnnotation(Exception):
    """No body can be read into this annotation; the text says what to use."""


class InvalidBody(ValueError):
    """A body that its handler can't take. `reason` is a stable code, the text says where it is wrong.

    `fields` are the places in it, such as `lines.0.amount`, where its handler's annotation has such.
    """

    def __init__(self, reason: str, detail: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.reason = reason
        self.fields = fields


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice!r} appears twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_refuse_constant)


def parse_json(body: bytes) -> object:
    """JSON by the letter of RFC 8259: UTF-8, no NaN or Infinity, no name twice in an object, bounded nesting.

    :raises InvalidBody: with the reason `invalid-json`.
    """
    try:
        text = body.decode()
        if text[:1] != "{" or text[-1:] != "}":
            return _STRICT.decode(text)
        found: object
        found, end = _STRICT.raw_decode(text)  # the usual body: no white space around it to look for
        return found if end == len(text) else _STRICT.decode(text)
    except RecursionError:
        raise InvalidBody("invalid-json", "nested too deeply") from None
    except ValueError as error:
        raise InvalidBody("invalid-json", str(error)[:500]) from None


BodyParser = Callable[[bytes], object]


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidBody("invalid-text", f"not UTF-8 at byte {error.start}") from None


_PLAIN = (
    (dict, dict),
    (list, list),
    (dict[str, object], dict),
    (dict[str, typing.Any], dict),
    (list[object], list),
    (list[typing.Any], list),
)
"""Annotations that JSON meets as it is, if it is of that kind: pydantic has nothing to add."""


def _plain_parsers(kind: type) -> tuple[BodyParser, BodyParser]:
    def checked(found: object) -> object:
        if not isinstance(found, kind):
            wanted = "an object" if kind is dict else "an array"
            raise InvalidBody("invalid-body", f"body: {wanted} is expected")
        return found

    return lambda body: checked(parse_json(body)), lambda body: checked(json.loads(body))


def _model_parsers(annotation: type[object]) -> tuple[BodyParser, BodyParser]:
    try:
        adapter: TypeAdapter[object] = TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
        raise UnreadableAnnotation(
            f"its first parameter's annotation {annotation!r} can't be read from a message: "
            f"use a pydantic model, dict, list, str or bytes ({str(error).splitlines()[0]})"
        ) from None

    def parse(body: bytes) -> object:
        parse_json(body)
        return load(body)

    def load(body: bytes) -> object:
        try:
            return adapter.validate_json(body)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            told = [(".".join(str(part) for part in item["loc"]), item["msg"]) for item in found[:5]]
            where = "; ".join(f"{field or 'body'}: {message}" for field, message in told)
            raise InvalidBody("invalid-body", where[:500], tuple(field for field, _ in told if field)) from None
        except Exception as error:  # a validator's own fault must not keep back the messages behind this one
            raise InvalidBody("invalid-body", f"its model raised {type(error).__name__}") from None

    return parse, load


def parsers(annotation: type[object]) -> tuple[BodyParser, BodyParser]:
    """How a body becomes the annotated value: strictly, as it arrives; and again, when it was seen before.

    :raises UnreadableAnnotation: where pydantic makes nothing of it.
    """
    if annotation is bytes:
        return bytes, bytes
    if annotation is str:
        return _text, _text
    if annotation in (inspect.Parameter.empty, object, typing.Any):
        return parse_json, json.loads
    kind = next((kind for plain, kind in _PLAIN if plain == annotation), None)
    return _model_parsers(annotation) if kind is None else _plain_parsers(kind)


_ANY: TypeAdapter[object] = TypeAdapter(object)


def encoded(body: object) -> bytes:
    """A body's bytes: bytes and text as they are, anything else as JSON, a pydantic model as it dumps itself."""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else _ANY.dump_json(body)
