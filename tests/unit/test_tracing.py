"""Traces as an SDK of the user's program records them; and that without one nothing is done, or even loaded."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge import logs
from bridge.config.load import load
from bridge.testing import Bridge
from scheduler import JobContext, Scheduler, tracing
from scheduler.storage import open_storage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, SENDER = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
CONSUMER, ERROR = trace.SpanKind.CONSUMER, trace.StatusCode.ERROR
CONFIGURATION = """\
sources: {in: {queue: in}, next: {queue: next}}
routes:
  - {name: first, from: in, handler: "tests.unit.test_tracing:first"}
  - {name: second, from: next, handler: "tests.unit.test_tracing:second"}
defaults: {retries: 1}
"""


def first(body: dict[str, object], context: JobContext) -> None:
    context.log.info("in the handler")
    if body.get("fails") and context.job.attempt == 1:
        raise ValueError(f"C4n4ry in {body}")
    context.publish("next", {"secret": "C4n4ry"})


async def second(body: dict[str, object]) -> None:
    assert trace.get_current_span().get_span_context().is_valid or not body.get("traced")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Set an SDK for this test alone, as a user's program does for good."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return kept


@pytest.fixture
def bridge(tmp_path: Path, sqlite_url: str) -> Iterator[Bridge]:
    file = tmp_path / "bridge.yaml"
    file.write_text(CONFIGURATION)
    made = Bridge(load(file, import_handlers=True), sqlite_url)
    yield made
    made.close()


def spans(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def own(span: ReadableSpan) -> tuple[int, int]:
    return span.get_span_context().trace_id, span.get_span_context().span_id


def test_runs_are_children_of_the_message_and_siblings_of_each_other(
    bridge: Bridge, exporter: InMemorySpanExporter
) -> None:
    """With the attempt; a failure tells the error's type and neither its text nor the body."""
    bridge.publish("in", {"fails": True, "secret": "C4n4ry"}, correlation_id="order-7", headers={"Traceparent": PARENT})
    bridge.run_until_idle(raises=False)
    bridge.advance("1h")
    bridge.run_until_idle()
    failed, succeeded = spans(exporter, "process first")
    assert parent_of(failed) == parent_of(succeeded) == (TRACE_ID, SENDER)
    attributes = dict(failed.attributes or {})
    assert attributes.pop(tracing.JOB_ID)
    assert attributes == {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "in",
        "messaging.message.conversation_id": "order-7",
        "jobbridge.route": "first",
        "jobbridge.handler": "tests.unit.test_tracing:first",
        "jobbridge.attempt": 1,
        "error.type": "ValueError",
    }
    assert (failed.kind, failed.status.status_code, failed.status.description) == (CONSUMER, ERROR, None)
    assert (succeeded.attributes or {})["jobbridge.attempt"] == 2
    assert succeeded.status.is_ok or succeeded.status.is_unset
    assert "C4n4ry" not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_what_a_handler_publishes_goes_on_with_its_trace(bridge: Bridge, exporter: InMemorySpanExporter) -> None:
    """Over the outbox to the run that it causes, of a coroutine; a receive links to the messages."""
    bridge.publish("in", {}, headers={"traceparent": PARENT}, correlation_id="a")
    bridge.publish("in", {}, headers={"traceparent": "no context"}, correlation_id="b")
    bridge.run_until_idle()
    caused = {parent_of(span) for span in spans(exporter, "process second")}
    assert caused == {own(span) for span in spans(exporter, "process first")}
    links = [link.context.span_id for span in spans(exporter, "receive in") for link in span.links]
    assert links == [SENDER]
    assert {None, (TRACE_ID, SENDER)} == {parent_of(span) for span in spans(exporter, "process first")}
    assert sum((span.attributes or {})["messaging.batch.message_count"] for span in spans(exporter, "receive in")) == 2


def test_a_programs_own_job_goes_on_with_its_trace(sqlite_url: str, exporter: InMemorySpanExporter) -> None:
    """Unless it says itself which one."""
    scheduler = Scheduler(sqlite_url)
    with trace.get_tracer("program").start_as_current_span("request") as span:
        scheduler.enqueue(second, {}, correlation_id="a", headers={"mine": "x"})
        scheduler.enqueue(second, {}, correlation_id="b", headers={"traceparent": PARENT})
    storage = open_storage(sqlite_url)
    headers = {str(one["correlation_id"]): json.loads(str(one["headers"])) for one in storage.list_jobs()}
    storage.close()
    context = span.get_span_context()
    assert headers["b"] == {"traceparent": PARENT}
    assert headers["a"].keys() == {"mine", "traceparent"}
    assert headers["a"]["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


def test_lines_of_a_run_name_its_trace(
    bridge: Bridge, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the handler, and those about its end."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    monkeypatch.setattr(logging.getLogger("jobbridge"), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("jobbridge"), "level", logging.INFO)
    bridge.publish("in", {"fails": True}, headers={"traceparent": PARENT}, correlation_id="a")
    bridge.run_until_idle(raises=False)
    lines = {one["message"]: one for one in map(json.loads, stream.getvalue().splitlines())}
    failed = next(one for message, one in lines.items() if message.startswith("job failed"))
    (span,) = spans(exporter, "process first")
    for line in (failed, lines["in the handler"]):
        assert (int(line["trace_id"], 16), int(line["span_id"], 16)) == own(span)
    assert (failed["event"], failed["outcome"], failed["version"], failed["source"]) == (
        "job-failed",
        "retried",
        1,
        "in",
    )


def test_an_sdk_that_raises_keeps_no_job_from_its_run(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *_: object, **__: object) -> Any:
            return object()

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Broken())
    bridge.publish("in", {}, correlation_id="a")
    assert bridge.run_until_idle().succeeded == 2


def test_without_an_sdk_nothing_is_loaded_and_no_header_added(sqlite_url: str) -> None:
    """In a fresh process."""
    code = f"""
import sys
from bridge.pod import Pod
from scheduler import Scheduler
from scheduler.tracing import begin, injected
Scheduler({sqlite_url!r}).enqueue("bridge.demo:place_order", {{"id": 1, "amount": 2}}, correlation_id="a")
print(begin(None), injected(None), [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None {} []\n", done.stderr


def test_without_an_sdk_a_loaded_api_makes_no_spans() -> None:
    """Some other library of the program may have loaded it."""
    assert tracing.tracer() is None
