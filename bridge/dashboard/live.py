"""News for who watches: one look at the store for all of them together, every `SECONDS`, and none where nobody does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from bridge.dashboard.overview import Facts
from scheduler.storage import SchemaOutdated, StoreUnavailable

SECONDS = 2.0


class Live:
    """Belongs to one event loop; `stop` is for any thread.

    :param look: asks the store, for a window of time.
    """

    def __init__(self, look: Callable[[str], Awaitable[Facts]]) -> None:
        self._look = look
        self._watchers: Counter[str] = Counter()
        self._news: dict[str, Facts] = {}
        self._told = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    async def news(self, window: str) -> AsyncIterator[Facts]:
        """The facts, again and again, until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._watchers[window] += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._round())
        try:
            while not self._stopped:
                await self._told.wait()
                if not self._stopped and window in self._news:
                    yield self._news[window]
        finally:
            self._watchers[window] -= 1

    def stop(self) -> None:
        """End all streams."""
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told.set()
        self._told = asyncio.Event()

    async def _round(self) -> None:
        try:
            while not self._stopped and (watched := +self._watchers):
                for window in watched:
                    self._news[window] = await self._fresh(window)
                self._tell()
                await asyncio.sleep(SECONDS)
        finally:
            self._looking = None

    async def _fresh(self, window: str) -> Facts:
        try:
            return await self._look(window)
        except (StoreUnavailable, SchemaOutdated) as error:
            text = f"The store does not answer: {error}"
            return {"problems": [{"severity": "error", "text": text, "page": "/"}]}
