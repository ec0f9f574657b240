"""The HTTP side: `/livez` and `/readyz`, on a thread and an event loop of their own.

`/livez` asks no database and no broker: it tells whether this process still does its rounds, and a restart would
mend it if not. `/readyz` tells whether it can work now, and names what is in the way.
"""

import socket
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

Check = Callable[[], Mapping[str, str]]
"""What is wrong, by the name of the part; empty: all is well."""


class Health(NamedTuple):
    """What the two pages ask."""

    live: Check
    ready: Check


def application(health: Health, *more: BaseRoute) -> Starlette:
    """The ASGI application.

    :param more: what it serves besides.
    """

    def page(check: Check) -> Callable[[Request], JSONResponse]:
        def answer(_: Request) -> JSONResponse:
            wrong = check()
            body = {"status": "error" if wrong else "ok", "wrong": dict(wrong)}
            return JSONResponse(body, status_code=503 if wrong else 200, headers={"cache-control": "no-store"})

        return answer

    return Starlette(routes=[Route("/livez", page(health.live)), Route("/readyz", page(health.ready)), *more])


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
