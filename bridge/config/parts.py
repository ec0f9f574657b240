"""Validates each part of a document on its own, and says what pydantic found in the words and places of the file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bridge.config.cases import Case, CaseFile
from bridge.config.document import Document
from bridge.config.mistakes import Path, printable
from bridge.config.model import (
    AmqpSourceSection,
    AnySource,
    Broker,
    Configuration,
    Defaults,
    Http,
    KafkaSourceSection,
    LocalSourceSection,
    Pod,
    Retention,
    SourceSection,
    Store,
)
from bridge.config.routes import RecurringJob, Route
from bridge.config.section import Name, Section, Text
from bridge.config.urls import scheme_of

_PLANNED = ("priority",)
"""Keys of later versions: refused by that name, so that no one takes them for a typing error or for working."""

_SHOULD = {
    "bool": "true or false",
    "dict": "a mapping (key: value)",
    "float": "a number",
    "int": "a whole number",
    "model": "a mapping (key: value)",
    "string": "text (put a number or true in quotes)",
    "tuple": "a list",
}

Part = TypeVar("Part", bound=Section)
Value = TypeVar("Value")


@dataclass
class Draft:
    """The parts that are right, and, with None, those that are not; `check.py` sees what refers to what."""

    document: Document
    store: Store | None = None
    brokers: dict[str, Broker | None] = field(default_factory=dict)
    sources: dict[str, AnySource | None] = field(default_factory=dict)
    kinds: dict[str, type[AnySource]] = field(default_factory=dict)
    """Of the sources whose kind is known for sure."""
    defaults: Defaults | None = None
    routes: dict[int, Route | None] = field(default_factory=dict)
    recurring: dict[str, RecurringJob | None] = field(default_factory=dict)
    prune: bool | None = None
    retention: Retention | None = None
    handlers: tuple[str, ...] | None = None
    filters: tuple[str, ...] | None = None
    pod: Pod | None = None
    http: Http | None = None
    cases: dict[int, Case | None] = field(default_factory=dict)

    def raw(self, *path: str | int) -> object:
        """What the file says at a path, right or wrong; None: nothing."""
        value = self.document.data
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int):
                value = value[part]
            else:
                return None
        return value

    def raw_text(self, *path: str | int) -> str | None:
        value = self.raw(*path)
        return value if isinstance(value, str) else None


def draft(document: Document) -> Draft:
    """Validate every part. Mistakes are noted in the document."""
    found = Draft(document)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        document.mistake("wrong-type", (), "the file should be a mapping (key: value)")
        return found
    for key in data:
        if key not in Configuration.model_fields:
            _unknown_key(document, (key,), Configuration)
    found.store = _section(document, Store, data.get("store", {}), ("store",))
    found.defaults = _section(document, Defaults, data.get("defaults"), ("defaults",))
    found.retention = _section(document, Retention, data.get("retention"), ("retention",))
    found.pod = _section(document, Pod, data.get("pod"), ("pod",))
    found.http = _section(document, Http, data.get("http"), ("http",)) if data.get("http") is not None else None
    found.handlers = _value(document, tuple[Text, ...], data.get("handlers") or [], ("handlers",))
    found.filters = _value(document, tuple[Text, ...], data.get("filters") or [], ("filters",))
    for name, section in _mapping(document, data, "brokers").items():
        found.brokers[name] = _section(document, Broker, section, ("brokers", name))
    for name, section in _mapping(document, data, "sources").items():
        found.sources[name] = _source(found, name, section)
    found.routes = _listed(document, data, "routes", Route)
    found.cases = _listed(document, data, "tests", Case)
    for name, section in _mapping(document, data, "recurring").items():
        if name == "prune":
            found.prune = _value(document, bool, section, ("recurring", name))
        else:
            found.recurring[name] = _section(document, RecurringJob, section, ("recurring", name))
    return found


def cases(document: Document, *, alone: bool) -> dict[int, Case | None]:
    """The tests of a file; mistakes in them, and where they stand alone also other keys, are noted in the document."""
    data = document.data if isinstance(document.data, dict) else {}
    for key in data if alone else ():
        if key != "tests":
            _unknown_key(document, (key,), CaseFile)
    return _listed(document, data, "tests", Case)


def _listed(document: Document, data: dict[str, object], name: str, model: type[Part]) -> dict[int, Part | None]:
    sections = data.get(name)
    if not isinstance(sections, list | None):
        document.mistake("wrong-type", (name,), f"should be a list of {name}")
        return {}
    return {index: _section(document, model, one, (name, index)) for index, one in enumerate(sections or ())}


def _mapping(document: Document, data: dict[str, object], name: str) -> dict[str, object]:
    sections = data.get(name)
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        document.mistake("wrong-type", (name,), "should be a mapping (name: what it is)")
        return {}
    for key in sections:
        _value(document, Name, key, (name, key))
    return sections


def _source(found: Draft, name: str, section: object) -> AnySource | None:
    path: Path = ("sources", name)
    broker = section.get("broker") if isinstance(section, dict) else None
    scheme = None
    if isinstance(broker, str) and broker:
        raw = found.raw("brokers", broker)
        scheme = scheme_of(raw.get("url") if isinstance(raw, dict) else raw)
    kind: type[AnySource]
    if isinstance(section, dict) and broker is None and (*path, "broker") not in found.document.refused:
        kind = found.kinds[name] = LocalSourceSection
    elif scheme in ("amqp", "amqps"):
        kind = found.kinds[name] = AmqpSourceSection
    elif scheme == "kafka":
        kind = found.kinds[name] = KafkaSourceSection
    else:
        kind = KafkaSourceSection if isinstance(section, dict) and "topic" in section else AmqpSourceSection
    return _section(found.document, kind, section, path)


def _section(document: Document, model: type[Part], data: object, path: Path) -> Part | None:
    """The part, or None where it has mistakes. A key that is there with nothing after it says nothing."""
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        _note(document, model, error, path)
        return None


def _value(document: Document, kind: type[Value], data: object, path: Path) -> Value | None:
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        _note(document, None, error, path)
        return None


def _note(document: Document, model: type[Section] | None, error: ValidationError, path: Path) -> None:
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        inner: Path = (*path, *(part for part in detail["loc"] if part != "[key]"))
        if inner in document.refused:
            continue
        if detail["type"] == "extra_forbidden" and model is not None:
            _unknown_key(document, inner, _model_at(model, detail["loc"][:-1]))
            continue
        code, message = _words(detail)
        document.mistake(code, inner, message, key="[key]" in detail["loc"])


def _words(detail: ErrorDetails) -> tuple[str, str]:
    kind = detail["type"]
    wanted, _, what = kind.partition("_")
    if kind == "missing":
        return "missing-key", "is required"
    if kind in ("too_short", "string_too_short"):
        return "wrong-value", "must not be empty"
    if wanted in _SHOULD and what.startswith(("type", "parsing", "from")):
        return "wrong-type", f"should be {_SHOULD[wanted]}"
    message = detail["msg"].replace("Input should", "should")
    return (kind, message) if "-" in kind else ("wrong-value", printable(message))


def _unknown_key(document: Document, path: Path, model: type[Section]) -> None:
    key = str(path[-1])
    if key in _PLANNED:
        document.mistake("not-in-this-version", path, f'"{key}" is not in this version', key=True)
        return
    known = [name_of(model, name) for name in model.model_fields]
    others = ((AmqpSourceSection, "RabbitMQ"), (KafkaSourceSection, "Kafka"))
    owner = next((text for other, text in others if key in other.model_fields), None)
    guess = get_close_matches(key, known, 1)
    if issubclass(model, SourceSection) and owner is not None:
        message = f"a key of {owner} sources, which this is not"
    elif guess:
        message = f'did you mean "{guess[0]}"?'
    else:
        message = f"known here are {', '.join(sorted(known))}"
    document.mistake("unknown-key", path, message, key=True)


def name_of(model: type[Section], field_name: str) -> str:
    """A field's name in the file."""
    return model.model_fields[field_name].alias or field_name


def _model_at(model: type[Section], location: tuple[int | str, ...]) -> type[Section]:
    """The section that an error's location leads to."""
    for part in location:
        named = {name_of(model, name): info.annotation for name, info in model.model_fields.items()}
        annotation = named.get(str(part))
        model = next(_sections(annotation), model)
    return model


def _sections(annotation: object) -> Iterator[type[Section]]:
    """The sections in an annotation, such as a mapping of them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
