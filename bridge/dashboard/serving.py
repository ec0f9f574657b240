"""Puts the dashboard together: one table of what there is, served as pages and, under `/api`, as JSON.

All work on the store happens on `THREADS` threads with a connection each, of a pool of its own: however many look, what
jobs and messages need is not touched.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import TypeVar
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from bridge.assembly import assemble, decoders, store
from bridge.config.model import Configuration, Http
from bridge.dashboard.acts import Acts
from bridge.dashboard.asked import asked
from bridge.dashboard.gate import Gate
from bridge.dashboard.live import Live
from bridge.dashboard.openapi import document
from bridge.dashboard.overview import overview
from bridge.dashboard.pages import Pages, jsonable
from bridge.dashboard.table import ACTS, MATCHING, VIEWS, Act, View
from bridge.dashboard.views import Missing, Views, window_of
from bridge.dead_letters import Decoders
from scheduler.storage import SchemaOutdated, Storage, StoreUnavailable

T = TypeVar("T")

THREADS = 4


class Dashboard:
    """The ASGI program. `stop` ends its streams and its connections.

    :param of_source: the decoders, for dead letters.
    """

    def __init__(self, configuration: Configuration, storage: Storage, of_source: Decoders) -> None:
        http = configuration.http or Http(port=1)
        self._storage = storage
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        self._views = Views(configuration, storage, of_source)
        self._acts = Acts(self._views)
        self._pages = Pages(configuration)
        self.live = Live(lambda window: self._work(lambda: overview(configuration, storage, window)))
        acts = () if http.read_only else ACTS
        routes: list[BaseRoute] = [
            *(Route(view.path, partial(self._page, view)) for view in VIEWS),
            *(Route(act.path, partial(self._form, act), methods=["POST"]) for act in acts),
            *(Route(f"/api{view.api}", partial(self._facts, view)) for view in VIEWS),
            *(Route(f"/api{act.path}", partial(self._act, act), methods=["POST"]) for act in acts),
            Route("/live", self._stream),
            Route("/api/openapi.json", partial(self._openapi, acts)),
            Mount("/static", StaticFiles(directory=str(files("bridge.dashboard") / "static"))),
        ]
        errors = (HTTPException, Missing, StoreUnavailable, SchemaOutdated)
        app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, self._error))
        self._app = Gate(app, http, [configuration.pod.name])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        await self._app(scope, receive, send)

    def stop(self) -> None:
        """End what is open; `live` by itself earlier, since a server waits for its streams."""
        self.live.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._storage.close()

    async def _page(self, view: View, request: Request) -> Response:
        given = await asked(request)

        def page() -> Response:
            facts = view.facts(self._views, given)
            return HTMLResponse(self._pages.render(view.name, facts, request))

        return await self._work(page)

    async def _facts(self, view: View, request: Request) -> Response:
        given = await asked(request)
        return await self._work(lambda: _json(jsonable(view.facts(self._views, given))))

    async def _form(self, act: Act, request: Request) -> Response:
        given = await asked(request)
        root = request.scope.get("root_path", "")

        def done() -> Response:
            done = act.do(self._acts, given)
            if act is not MATCHING:
                more = urlencode({"result": done.result})
                return RedirectResponse(f"{root}{done.page}{'&' if '?' in done.page else '?'}{more}", 303)
            facts = self._views.matching(given) | {"done": done}
            return HTMLResponse(self._pages.render("matching", facts, request))

        return await self._work(done)

    async def _act(self, act: Act, request: Request) -> Response:
        given = await asked(request)

        def done() -> Response:
            done = act.do(self._acts, given)
            return JSONResponse({"result": done.result, "detail": done.detail}, done.status)

        return await self._work(done)

    async def _stream(self, request: Request) -> Response:
        window = window_of(await asked(request))

        async def events() -> AsyncIterator[bytes]:
            async for facts in self.live.news(window):
                page = await self._work(partial(self._pages.render, "live", facts, request))
                yield b"".join(b"data: " + line + b"\n" for line in page.splitlines()) + b"\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _openapi(self, acts: Sequence[Act], request: Request) -> Response:
        return JSONResponse(document(request.scope.get("root_path", ""), acts))

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _error(self, request: Request, error: Exception) -> Response:
        status, why = 503, f"the store does not answer: {error}"
        if isinstance(error, HTTPException):
            status, why = error.status_code, error.detail
        elif isinstance(error, Missing):
            status, why = 404, str(error)
        root = request.scope.get("root_path", "")
        if request.scope["path"].startswith(f"{root}/api/"):
            return JSONResponse({"result": "ERROR", "detail": why}, status)
        return HTMLResponse(self._pages.render("error", {"status": status, "why": why}, request), status)


def _json(facts: object) -> Response:
    # In ASCII: what is no UTF-8 stands in facts as lone surrogates, which only escapes can carry.
    return Response(json.dumps(facts), media_type="application/json")


def application(configuration: Configuration) -> Dashboard:
    """The dashboard over a store of its own, for any program that serves ASGI. `http` of the configuration says who
    may come in; give the hosts that the program is reached at.

    :raises HandlerError: for a handler that can't be imported.
    """
    of_source = decoders(configuration, assemble(configuration).rules)
    return Dashboard(configuration, store(configuration, THREADS), of_source)
