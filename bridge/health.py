"""The HTTP side: `/livez`, `/readyz` and `/metrics`, on a thread and an event loop of their own.

`/livez` asks no database and no broker: it tells whether this process still does its rounds, and a restart would
mend it if not. `/readyz` tells whether it can work now, and names what is in the way. Both list all that they look at
with `?verbose`.
"""

import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from bridge.pulse import Check, only_wrong


class Health(NamedTuple):
    """What the pages ask."""

    live: Check
    ready: Check
    metrics: Callable[[str], tuple[bytes, str]]
    """The page for whoever accepts this, and its content type."""


def application(health: Health, *more: BaseRoute) -> Starlette:
    """The ASGI application.

    :param more: what it serves besides.
    """

    def page(check: Check) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            parts = check()
            wrong = only_wrong(parts)
            status, headers = 503 if wrong else 200, {"cache-control": "no-store"}
            if "verbose" in request.query_params:
                lines = [f"[-] {part}: {why}" if why else f"[+] {part}" for part, why in parts.items()]
                return PlainTextResponse("\n".join([*lines, ""]), status, headers)
            return JSONResponse({"status": "error" if wrong else "ok", "wrong": wrong}, status, headers)

        return answer

    def metrics(request: Request) -> Response:
        body, content_type = health.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    pages = {"/livez": page(health.live), "/readyz": page(health.ready), "/metrics": metrics}
    return Starlette(routes=[*(Route(path, endpoint) for path, endpoint in pages.items()), *more])


class HttpServer:
    """Serves an application until it is stopped.

    :raises OSError: where the port can't be had.
    """

    def __init__(self, app: Starlette, bind: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._socket = socket.create_server((bind, port), family=family)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, server_header=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(3.0)
        self._socket.close()
