"""What a request asks for, taken as nobody's friend: text is cut and printable, numbers stay within bounds."""

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request

from bridge.dashboard.gate import LOOKING, VISITOR, Visitor
from scheduler.duration import seconds
from scheduler.job import JobState
from scheduler.storage import Storage
from scheduler.storage.matching import Wanted

MOST_TEXT = 500
MOST_FORM = 64 * 1024
MOST_FIELDS = 50


class Asked(NamedTuple):
    """The fields of a query or a form, and who asks."""

    path: Mapping[str, str]
    fields: Mapping[str, str]
    visitor: Visitor

    def text(self, name: str) -> str | None:
        """None: not given, or blank."""
        given = self.path.get(name) or self.fields.get(name, "")
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in given[:MOST_TEXT])
        return shown if shown.strip() else None

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Within `low` and `high`, whatever was given."""
        given = self.text(name) or ""
        if not (given.isascii() and given.isdecimal()):
            return default
        return min(max(int(given[:20]), low), high)

    def key(self) -> bytes:
        """The id in the path."""
        return UUID(self.path["id"]).bytes

    def state(self, default: JobState) -> JobState:
        given = self.text("state")
        return JobState(given) if given in set(JobState) else default

    def filters(self) -> dict[str, str]:
        """The filters of a list of jobs that are given."""
        names = ("route", "handler", "source", "error", "since")
        return {name: text for name in names if (text := self.text(name)) is not None}

    def wanted(self, storage: Storage) -> Wanted:
        """The same as the store takes them; an age that is none is left out."""
        given = self.filters()
        try:
            since = storage.clock() - int(seconds(given["since"]) * 1_000_000) if "since" in given else None
        except ValueError:
            since = None
        return {
            "route": given.get("route"),
            "handler": given.get("handler"),
            "source": given.get("source"),
            "error": given.get("error"),
            "since": since,
        }


async def asked(request: Request) -> Asked:
    """Of a request; a form, or an object in JSON, where it acts.

    :raises HTTPException: for a form that is too large, or none.
    """
    fields = dict(request.query_params)
    if request.method not in LOOKING:
        fields |= _fields(await _body(request), request.headers.get("content-type", ""))
    path = {name: str(value) for name, value in request.path_params.items()}
    return Asked(path, fields, request.scope[VISITOR])


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM:
            raise HTTPException(413, "a form has at most 64 KiB")
    return body


def _fields(body: bytes, content_type: str) -> dict[str, str]:
    try:
        if content_type.partition(";")[0].strip().lower() == "application/json":
            found = json.loads(body or b"{}")
            return {str(name): str(value) for name, value in found.items()}
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=MOST_FIELDS))
    except (ValueError, AttributeError, RecursionError):
        raise HTTPException(400, "neither a form nor an object in JSON") from None
