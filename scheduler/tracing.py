"""Traces by OpenTelemetry's API, for programs that have set an SDK; without one nothing of it is even loaded.

A run is a span whose parent is the message's own W3C context, which stands among its headers; so all tries of a job are
siblings. What a handler publishes or enqueues carries the context of its run. Names of attributes stand in this file
alone: those of messaging are not stable yet.

Promises: no header but the two of W3C is read, and no body, header or error text is an attribute.
Does not promise a span of a run that a timeout wrote off: it ends when its thread does.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from scheduler.job import Job

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
JOB_ID = "jobbridge.job.id"
ROUTE = "jobbridge.route"
HANDLER = "jobbridge.handler"
ATTEMPT = "jobbridge.attempt"

W3C = ("traceparent", "tracestate")
MOST_LINKS = 128


def tracer() -> Tracer | None:
    """The tracer of the SDK that this process has set; None: it has none."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else _tracer(provider)


@lru_cache(maxsize=4)
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("jobbridge")


class RunSpan:
    """The span of a run, current while its handler is called. Begun and ended on one thread, or in one task."""

    def __init__(self, tracer: Tracer, job: Job) -> None:
        from opentelemetry import context, trace

        attributes: dict[str, str | int] = {
            OPERATION_NAME: "process",
            OPERATION_TYPE: "process",
            DESTINATION: job.source,
            CONVERSATION_ID: job.correlation_id[:255],
            JOB_ID: str(job.id),
            ROUTE: job.route,
            HANDLER: job.handler,
            ATTEMPT: job.attempts + 1,
        }
        parent = _context(json.loads(job.headers_json).items())
        name, kind = f"process {job.route or job.handler}", trace.SpanKind.CONSUMER
        self._span = tracer.start_span(name, parent, kind, attributes)
        self._token = context.attach(trace.set_span_in_context(self._span))

    def ids(self) -> dict[str, object]:
        """What a log line says of it."""
        return _ids(self._span)

    def end(self, error: BaseException | None) -> None:
        """The handler returned, or raised."""
        from opentelemetry import context, trace

        context.detach(self._token)
        with contextlib.suppress(Exception):
            if error is not None:
                self._span.set_attribute(ERROR_TYPE, type(error).__qualname__)
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end()


def begin(job: Job) -> RunSpan | None:
    """The span of a run whose handler is about to be called; None without an SDK."""
    found = tracer()
    if found is not None:
        with contextlib.suppress(Exception):  # of a program's own SDK, which must not keep a job from its run
            return RunSpan(found, job)
    return None


def received(source: str, number: int, seconds: float, headers: Iterable[Iterable[tuple[str, bytes]]]) -> None:
    """A batch of so many messages is stored, so many seconds after it had arrived; a span with links to them."""
    found = tracer()
    if found is not None:
        with contextlib.suppress(Exception):
            _received(found, source, number, seconds, headers)


def _received(
    found: Tracer, source: str, number: int, seconds: float, headers: Iterable[Iterable[tuple[str, bytes]]]
) -> None:
    from opentelemetry import trace

    links: list[trace.Link] = []
    for of_message in headers:
        named = ((name, value.decode("ascii", "replace")) for name, value in of_message)
        sent_by = trace.get_current_span(_context(named)).get_span_context()
        if sent_by.is_valid and len(links) < MOST_LINKS:
            links.append(trace.Link(sent_by))
    attributes: dict[str, str | int] = {OPERATION_NAME: "receive", OPERATION_TYPE: "receive"}
    attributes |= {DESTINATION: source, BATCH_COUNT: number}
    now = time.time_ns()
    span = found.start_span(
        f"receive {source}", None, trace.SpanKind.CLIENT, attributes, links, start_time=now - int(seconds * 1e9)
    )
    span.end(now)


def injected(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of what is sent now, with the context of the span that is current, unless they have one."""
    sent = dict(headers or {})
    if tracer() is not None and W3C[0] not in sent:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(sent)
    return sent


def current_ids() -> dict[str, object]:
    """What a log line says of the span that is current; nothing where there is none."""
    if tracer() is None:
        return {}
    from opentelemetry import trace

    return _ids(trace.get_current_span())


def _ids(span: Span) -> dict[str, object]:
    of_span = span.get_span_context()
    if not of_span.is_valid:
        return {}
    return {"trace_id": f"{of_span.trace_id:032x}", "span_id": f"{of_span.span_id:016x}"}


def _context(headers: Iterable[tuple[str, str]]) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name.lower(): value for name, value in headers if name.lower() in W3C}
    return TraceContextTextMapPropagator().extract(carrier, Context())
