"""Tests of routes, as `tests:` and `*.test.yaml` hold them. Shape only, as `model.py`."""

from typing import Literal

from pydantic import JsonValue

from bridge.config.section import Name, Section


class CaseMessage(Section):
    source: Name
    body: JsonValue = ""
    """Text as it is, anything else as JSON."""
    headers: dict[str, str] = {}
    correlation_id: str | None = None
    message_id: str | None = None
    key: str | None = None
    routing_key: str | None = None
    topic: str | None = None
    type: str | None = None
    content_type: str | None = None


class Expected(Section):
    """What `jobbridge route` would show; None: anything."""

    outcome: Literal["job", "dead-letter", "ignored"] = "job"
    route: str | None = None
    handler: str | None = None
    namespace: str | None = None
    correlation_id: str | None = None
    id: str | None = None
    lock: str | None = None
    due: str | None = None
    reason: str | None = None
    field: str | None = None
    """One that is wrong in the body."""


class Case(Section):
    name: Name
    env: dict[str, str] = {}
    """What the configuration's references see of the environment, besides what is there."""
    message: CaseMessage
    expect: Expected = Expected()


class CaseFile(Section):
    """A file of nothing but tests."""

    tests: tuple[Case, ...] = ()
