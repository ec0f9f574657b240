"""Who may come in, and for what. It stands before every page, file and act, so none can be left open by mistake.

Promises: nobody sees anything without a name and a password where `http.auth` names people; no page of another site
makes a visitor's browser act; a viewer, and everybody where `http.read_only` is set, only looks; a name that resolves
to this pod but is none of its own (DNS rebinding) is refused.
"""

import base64
import binascii
import secrets
import socket
from collections.abc import Collection
from logging import getLogger
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.config.model import Http
from scheduler.job import preview

log = getLogger("jobbridge.dashboard")

VISITOR = "jobbridge.visitor"
"""Where the scope holds the `Visitor`."""

LOOKING = ("GET", "HEAD")

_SENT = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Visitor(NamedTuple):
    """Who asks."""

    name: str
    """`USER@ADDRESS`, for a job's history."""
    may_act: bool


class Gate:
    """Lets in, or answers itself.

    :param names: what this pod is called, besides loopback and `http.hosts`.
    """

    def __init__(self, app: ASGIApp, http: Http, names: Collection[str] = ()) -> None:
        self._app = app
        self._http = http
        own = ("localhost", "127.0.0.1", "::1", http.bind, socket.gethostname(), *names, *http.hosts)
        self._hosts = {name.lower() for name in own}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update(_SENT)
                added.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._refused(scope, headers)
        await (answer or self._app)(scope, receive, sent)

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._hosts & {_name(host), "*"}:
            return PlainTextResponse("this host name is not allowed: add it to http.hosts", 400)
        user = self._user(headers.get("authorization", ""))
        client = scope.get("client")
        address = client[0] if client else "unknown"
        if user is None:
            if headers.get("authorization"):
                log.warning("refused to let somebody in from %s: a wrong name or password", address)
            realm = {"www-authenticate": 'Basic realm="jobbridge", charset="UTF-8"'}
            return PlainTextResponse("who are you?", 401, realm)
        people = self._http.auth
        may_act = not self._http.read_only and (not people or people[user].role == "operator")
        if scope["method"] not in LOOKING:
            if not _same_origin(headers, host):
                return PlainTextResponse("refused: it comes from a page of another site", 403)
            if not may_act:
                return PlainTextResponse("refused: you may look, and not act", 403)
        scope[VISITOR] = Visitor(preview(f"{user or 'somebody'}@{address}".encode())[:255], may_act)
        return None

    def _user(self, authorization: str) -> str | None:
        """The name; empty where nobody needs one; None: a wrong one, or none."""
        people = self._http.auth
        if not people:
            return ""
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.encode(), validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, UnicodeError):
            return None
        name, _, password = given.partition(":")
        person = people.get(name)
        # A name that is not there costs as much as a wrong password.
        wanted = secrets.token_hex() if person is None else person.password.get_secret_value()
        right = secrets.compare_digest(password.encode(), wanted.encode())
        return name if right and person is not None else None


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a request that acts comes from a page of this very host, or from no browser at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    # Browsers send no Sec-Fetch-Site over plain HTTP, but always an Origin with what is not a look.
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()
