"""For the tests of a program that uses `scheduler`: the real engine over a real database, without threads or waiting.

    from scheduler.testing import Bench

    def test_order():
        with Bench(place_order) as bench:                       # a SQLite file of its own; `url=` for another store
            bench.enqueue(place_order, {"id": 7}, correlation_id="order-7")
            assert bench.run_until_idle().succeeded == 1        # raises what a handler raised
            bench.advance("1h")                                 # retries, schedules, recurring jobs become due
            bench.assert_job(state="SUCCEEDED", body={"id": 7})

Promises: what runs is what a pod runs, statement by statement; only the clocks are the bench's own. They stand still
but for `advance` and a hundredth of a second at each step, and a retry comes at the very end of its backoff's range.
Does not promise what needs real threads: a plain function is not ended at its timeout. In a test that is itself a
coroutine, `await asyncio.to_thread(bench.run_until_idle)` runs handlers that are.
"""

import tempfile
from collections.abc import Callable, Sequence

from scheduler.client import Scheduler
from scheduler.declared import declared
from scheduler.filters import Filters
from scheduler.handlers import HandlerRegistry, collect, describe
from scheduler.loops import LoopThread
from scheduler.retry import Policies, PolicyOverride
from scheduler.server import Server
from scheduler.testing.engine import Done, Engine, Ran
from scheduler.testing.expected import Expected, name_of
from scheduler.testing.faults import PodKilled, ReplyLost, Steady

__all__ = ["Bench", "Done", "Engine", "Expected", "PodKilled", "Ran", "ReplyLost", "name_of"]


class Bench(Engine):
    """A server with these handlers, and the `Scheduler` of a program beside it.

    :param handlers: functions, modules by their names, or `module:function`.
    :param url: of a store that is empty; None: a SQLite file in a temporary folder.
    :param defaults: such as `PolicyOverride(retries=3)`, for what the handlers leave open.
    """

    def __init__(
        self,
        *handlers: Callable[..., object] | str,
        url: str | None = None,
        defaults: PolicyOverride | None = None,
        filters: Sequence[Callable[..., object]] = (),
    ) -> None:
        named = collect(one for one in handlers if isinstance(one, str))
        given = [describe(one, name_of(one)) for one in handlers if not isinstance(one, str)]
        self._registry = HandlerRegistry([*named, *given])
        self._recurring = [one for handler in self._registry.values() for one in declared(handler)]
        self._policies = Policies(
            defaults or PolicyOverride(),
            {name: handler.options.policy for name, handler in self._registry.items()},
            {one.route: PolicyOverride(retries=one.retries, timeout=one.timeout) for one in self._recurring},
        )
        self._filters = filters
        self._folder = tempfile.TemporaryDirectory(prefix="jobbridge-")
        super().__init__(url or f"sqlite:///{self._folder.name}/jobs.db")
        self.scheduler = Scheduler.of(self.storage)
        self.enqueue = self.scheduler.enqueue
        self.schedule = self.scheduler.schedule

    def _pod(self) -> tuple[Server, Sequence[LoopThread]]:
        server = Server(
            self.storage,
            self.storage,
            self._registry,
            self._policies,
            filters=Filters(self._filters),
            random=Steady(),
            monotonic=self._clock.monotonic,
            recurring=self._recurring,
        )
        return server, server.threads()

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
