"""What the parts of a configuration say about each other: unknown names, shared queues, unreachable routes, handlers.

Every check stands alone and looks at what the file says, so that a mistake inside a route or a source does not hide
what is wrong around it.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bridge.config.cases import Case
from bridge.config.document import Document
from bridge.config.mistakes import Path, path_text, printable
from bridge.config.model import AmqpSourceSection, KafkaSourceSection
from bridge.config.parts import Draft
from bridge.config.routes import RecurringJob, Route
from bridge.config.units import duration
from bridge.config.urls import STORE_SCHEMES, scheme_of
from scheduler.bodies import InvalidBody
from scheduler.declared import declared
from scheduler.extras import lacking
from scheduler.filters import collect_filters
from scheduler.handlers import Handler, HandlerError, HandlerRegistry, collect

HTTP_PACKAGES = ("jinja2", "markupsafe", "prometheus_client", "starlette", "uvicorn")
"""What the pages import; the extra `http` brings them."""

SQLITE_HEARTBEAT = 2.0
"""Seconds. SQLite has one writer at a time: a shorter heartbeat dies of its own pods' writes."""


def check(draft: Draft, *, import_handlers: bool) -> None:
    """Note every mistake of meaning in the draft's document."""
    _brokers(draft)
    _sources(draft)
    _shared_queues(draft)
    _shared_topics(draft)
    _routes(draft)
    _unreachable(draft)
    _pod(draft)
    _http(draft)
    _extras(draft, serves=import_handlers)
    handlers = _handlers(draft) if import_handlers else {}
    _recurring(draft, handlers)
    if import_handlers:
        _filters(draft)
    _timeouts(draft, handlers)
    check_cases(draft.document, draft.cases, draft)


def check_cases(document: Document, cases: Mapping[int, Case | None], beside: Draft) -> None:
    """Note what tests name that is not in their configuration."""
    sources, routes = beside.raw("sources"), beside.raw("routes")
    sources = sources if isinstance(sources, dict) else {}
    routes = {str(one.get("name")) for one in routes if isinstance(one, dict)} if isinstance(routes, list) else set()
    for index, case in cases.items():
        if case is None:
            continue
        named = (("source", case.message.source, sources, "message"), ("route", case.expect.route, routes, "expect"))
        for noun, name, known, part in named:
            if name is not None and name not in known:
                path: Path = ("tests", index, part, noun)
                message = f"no {noun} {document.text(path, name)}: {_guess(name, known)}"
                document.mistake(f"unknown-{noun}", path, message)


def _guess(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    guess = get_close_matches(name, known, 1)
    if guess:
        return f'did you mean "{printable(guess[0])}"?'
    return f"known are {', '.join(map(printable, known))}" if known else "none is configured"


def _scheme(draft: Draft, broker: str | None) -> str | None:
    raw = draft.raw("brokers", broker or "")
    return scheme_of(raw.get("url") if isinstance(raw, dict) else raw)


def _brokers(draft: Draft) -> None:
    for name in draft.brokers:
        path: Path = ("brokers", name)
        if _scheme(draft, name) in ("amqp", "amqps") and draft.raw(*path, "sasl") is not None:
            message = "sasl is for Kafka: write username and password"
            draft.document.mistake("sasl-without-kafka", (*path, "sasl"), message, key=True)


def _sources(draft: Draft) -> None:
    used = {draft.raw_text("routes", index, "from") for index in draft.routes}
    for name in draft.sources:
        path: Path = ("sources", name)
        broker = draft.raw_text(*path, "broker")
        if broker and broker not in draft.brokers:
            message = f"no broker {draft.document.text((*path, 'broker'), broker)}: {_guess(broker, draft.brokers)}"
            draft.document.mistake("unknown-broker", (*path, "broker"), message)
        every_pod = draft.raw(*path, "delivery") == "every-pod"
        if every_pod and draft.kinds.get(name) is AmqpSourceSection and draft.raw(*path, "exchange") is None:
            message = "every-pod delivery needs an exchange that the pods' queues are bound to"
            draft.document.mistake("every-pod-without-exchange", (*path, "delivery"), message)
        if name not in used:
            message = "no route takes from this source"
            draft.document.mistake("source-without-route", path, message, key=True, severity="warning")


def _server(draft: Draft, source: str) -> str | None:
    """What tells brokers apart: two names of one URL are one broker."""
    broker = draft.raw_text("sources", source, "broker")
    known = draft.brokers.get(broker or "")
    return broker if known is None else known.url.rstrip("/")


def _shared_queues(draft: Draft) -> None:
    seen: dict[tuple[str | None, str, object], str] = {}
    for name in draft.sources:
        queue = draft.raw_text("sources", name, "queue")
        if not queue or draft.kinds.get(name, KafkaSourceSection) is KafkaSourceSection:
            continue
        delivery = draft.raw("sources", name, "delivery") or "shared"
        first = seen.setdefault((_server(draft, name), queue, str(delivery)), name)
        if first != name:
            message = f'the source "{printable(first)}" reads this queue already: each would get a part of it'
            draft.document.mistake("shared-queue", ("sources", name, "queue"), message)


def _shared_topics(draft: Draft) -> None:
    seen: list[tuple[str, tuple[str | None, str], list[str]]] = []
    for name in draft.sources:
        raw = draft.raw("sources", name, "topic")
        topics = [topic for topic in (raw if isinstance(raw, list) else [raw]) if isinstance(topic, str)]
        if draft.kinds.get(name) is not KafkaSourceSection:
            continue
        group = (_server(draft, name), draft.raw_text("sources", name, "group") or "jobbridge")
        for other, other_group, other_topics in seen:
            if group == other_group and any(_overlap(a, b) for a in topics for b in other_topics):
                message = (
                    f'the source "{printable(other)}" reads this topic in the same group already: '
                    "each would get a part of it"
                )
                draft.document.mistake("shared-topic", ("sources", name, "topic"), message)
                break
        seen.append((name, group, topics))


def _overlap(a: str, b: str) -> bool:
    if a == b:
        return True
    for pattern, topic in ((a, b), (b, a)):
        if pattern.startswith("pattern:") and not topic.startswith("pattern:"):
            try:
                return re.match(pattern.removeprefix("pattern:"), topic) is not None
            except (re.error, RecursionError, OverflowError):
                return False  # a mistake of its own
    return False


def _routes(draft: Draft) -> None:
    names: dict[str, int] = {}
    for index in draft.routes:
        path: Path = ("routes", index)
        name = draft.raw_text(*path, "name")
        if name and names.setdefault(name, index) != index:
            first = draft.document.place(("routes", names[name], "name")).line
            message = f"the route of line {first} has this name already"
            draft.document.mistake("duplicate-route", (*path, "name"), message)
        source = draft.raw_text(*path, "from")
        if source and source not in draft.sources:
            shown = draft.document.text((*path, "from"), source)
            message = f"no source {shown}: {_guess(source, draft.sources)}"
            draft.document.mistake("unknown-source", (*path, "from"), message)
        kind = draft.kinds.get(source or "", KafkaSourceSection)
        for key, others in ((("dedupe", "key"), "message_id, content, "), (("lock",), "")):
            if draft.raw_text(*path, *key) == "key" and kind is not KafkaSourceSection:
                message = f"only Kafka's records have a key: use correlation_id, {others}header:NAME or body:/.."
                draft.document.mistake("key-without-kafka", (*path, *key), message)
        when = draft.raw(*path, "when")
        for test in when if isinstance(when, dict) and source in draft.kinds else ():
            if (test == "topic") != (kind is KafkaSourceSection) and test in ("topic", "routing_key"):
                message = f"no message of this source has a {test}: no message can reach this route"
                draft.document.mistake("unreachable-route", (*path, "when", test), message, key=True)


def _unreachable(draft: Draft) -> None:
    earlier: list[tuple[int, str, dict[str, str]]] = []
    for index in draft.routes:
        source = draft.raw_text("routes", index, "from")
        when = draft.raw("routes", index, "when")
        if source is None or not isinstance(when, dict | None):
            continue
        tests = {key: value for key, value in (when or {}).items() if isinstance(value, str)}
        if len(tests) < len(when or {}):
            continue
        for other, other_source, other_tests in earlier:
            if source == other_source and _covers(other_tests, tests):
                line = draft.document.place(("routes", other)).line
                other_path = path_text(("routes", other))
                message = f"no message can reach it: {other_path} (line {line}) takes all that it would match"
                draft.document.mistake("unreachable-route", ("routes", index), message)
                break
        earlier.append((index, source, tests))


def _covers(first: dict[str, str], second: dict[str, str]) -> bool:
    """Whether what `second` matches is matched by `first` for sure."""
    return all(key in second and _as_wide(pattern, second[key]) for key, pattern in first.items())


def _as_wide(pattern: str, other: str) -> bool:
    literal = not any(character in other for character in "*?[")
    return pattern in ("*", other) or (literal and fnmatchcase(other, pattern))


def _pod(draft: Draft) -> None:
    raw = draft.raw("store")
    url = raw.get("url") if isinstance(raw, dict) else raw
    unknown = draft.document.refused & {("store",), ("store", "url")}
    if unknown or (url is not None and scheme_of(url) != "sqlite"):
        return
    try:
        heartbeat = duration(draft.raw("pod", "heartbeat"))
    except ValueError:
        return  # not given, or a mistake of its own
    if heartbeat < SQLITE_HEARTBEAT:
        draft.document.mistake("heartbeat-too-short", ("pod", "heartbeat"), "on SQLite it must be at least 2s")


def _http(draft: Draft) -> None:
    http = draft.http
    if http is not None and http.dashboard and http.auth is None and not http.is_loopback:
        message = "others reach it here: name under http.auth who may come in, or write auth: none"
        draft.document.mistake("open-dashboard", ("http", "bind"), message)


def _extras(draft: Draft, *, serves: bool) -> None:
    path: Path = ("store", "url") if isinstance(draft.raw("store"), dict) else ("store",)
    scheme = STORE_SCHEMES.get(scheme_of(draft.raw(*path)) or "", "")
    if scheme.endswith("+pymysql") and (needs := lacking("mysql", "pymysql")):
        draft.document.mistake("missing-extra", path, needs)
    # Who asks the store alone serves no pages, and does without what they need.
    if serves and draft.raw("http") is not None and (needs := lacking("http", *HTTP_PACKAGES)):
        draft.document.mistake("missing-extra", ("http",), needs, key=True)


def _handlers(draft: Draft) -> dict[Path, Handler]:
    """The usable handlers, by the place that names them: a route, a recurring job, or `handlers`."""
    found: dict[Path, Handler] = {}
    listed: list[Handler] = []
    for index, reference in enumerate(draft.handlers or ()):
        try:
            handlers = collect([reference])
            HandlerRegistry([*listed, *handlers])
        except (HandlerError, SystemExit) as error:
            _bad_handler(draft, ("handlers", index), error)
        else:
            listed.extend(handlers)
            found |= {("handlers", index, place): handler for place, handler in enumerate(handlers)}
    known = HandlerRegistry(listed)
    paths: list[Path] = [("routes", index) for index in draft.routes]
    for path in (*paths, *(("recurring", name) for name in draft.recurring)):
        named = draft.raw_text(*path, "handler")
        if not named:
            continue
        try:
            handler = known.find(named)
            HandlerRegistry([*found.values(), handler])
            found[path] = handler
        except (HandlerError, SystemExit) as error:
            _bad_handler(draft, (*path, "handler"), error)
    return found


def _recurring(draft: Draft, handlers: dict[Path, Handler]) -> None:
    names: dict[str, Path] = {name: ("recurring", name) for name in draft.recurring}
    for name, section in draft.recurring.items():
        if name != name.strip():  # MySQL takes both for the same
            draft.document.mistake("bad-name", ("recurring", name), "no blanks around a name", key=True)
        handler = handlers.get(("recurring", name))
        if section is None or handler is None or name != name.strip():
            continue
        try:
            handler.parse(section.named(name, handler.name).body.encode())
        except InvalidBody as error:
            draft.document.mistake("bad-body", ("recurring", name, "body"), printable(str(error)))
    first = {handler.function: (path, handler) for path, handler in reversed(handlers.items())}
    for path, handler in first.values():
        try:
            marked = [one.name for one in declared(handler)]
        except HandlerError as error:
            _bad_handler(draft, path, error)
            continue
        for name in marked:
            if names.setdefault(name, path) is not path:
                message = f'"{printable(name)}" is the name of a recurring job already: {path_text(names[name][:2])}'
                draft.document.mistake("duplicate-recurring", path[:2], message)


def _filters(draft: Draft) -> None:
    for index, reference in enumerate(draft.filters or ()):
        try:
            collect_filters([reference])
        except (HandlerError, SystemExit) as error:
            _bad_handler(draft, ("filters", index), error)


def _bad_handler(draft: Draft, path: Path, error: BaseException) -> None:
    message = "importing it ends the process" if isinstance(error, SystemExit) else str(error)
    draft.document.mistake("bad-handler", path, printable(message))


def _timeouts(draft: Draft, handlers: dict[Path, Handler]) -> None:
    if draft.pod is None or draft.defaults is None:
        return
    sections: dict[Path, Route | RecurringJob | None] = {
        **{("routes", index): route for index, route in draft.routes.items()},
        **{("recurring", name): job for name, job in draft.recurring.items()},
    }
    for path, section in sections.items():
        if section is None:
            continue
        handler = handlers.get(path)
        timeout = section.timeout
        if timeout is None and handler is not None:
            timeout = handler.options.policy.timeout
        if timeout is None:
            timeout = draft.defaults.timeout
        if timeout is not None and timeout > draft.pod.grace:
            message = "longer than pod.grace: a stopping pod may cut such a job off, and it runs again"
            draft.document.mistake("timeout-over-grace", (*path, "timeout"), message, severity="warning")
