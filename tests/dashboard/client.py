"""Asks an ASGI program in this process, as a browser or a program would, and keeps nothing between two requests."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode

from starlette.types import ASGIApp, Message


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """:param user: `NAME:PASSWORD`, if any."""

    def __init__(self, app: ASGIApp, user: str = "", root: str = "", host: str = "localhost:8080") -> None:
        self._app, self._user, self._root, self._host = app, user, root, host

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, b"", headers)

    def post(self, path: str, form: dict[str, object] | None = None, **headers: str) -> Answer:
        """As a form of a page of this very host, unless the headers say otherwise."""
        given = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"} | headers
        return self.ask("POST", path, urlencode(form or {}).encode(), given)

    def many(self, path: str, number: int) -> list[Answer]:
        """So many at once, on one event loop."""

        async def all_of_them() -> list[Answer]:
            return list(await asyncio.gather(*(self._ask("GET", path, b"", {}) for _ in range(number))))

        return asyncio.run(all_of_them())

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return asyncio.run(self._ask(method, path, body, headers))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        where, _, query = path.partition("?")
        sent = {"host": self._host} | {name.replace("_", "-"): value for name, value in headers.items() if value}
        if self._user:
            sent["authorization"] = "Basic " + base64.b64encode(self._user.encode()).decode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": self._root + unquote(where),
            "raw_path": (self._root + where).encode(),
            "root_path": self._root,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("10.1.2.3", 5000),
            "server": ("localhost", 8080),
        }
        got: list[Message] = []
        given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not given:
                await asyncio.Event().wait()  # who asked is still there
            return given.pop()

        async def send(message: Message) -> None:
            got.append(message)

        await self._app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in got[0]["headers"]}
        return Answer(got[0]["status"], answered, b"".join(one.get("body", b"") for one in got[1:]))
