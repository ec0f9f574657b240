"""Clocks that a test moves, chance without luck, and what a test lets go wrong."""

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import Random
from typing import ParamSpec, TypeVar

from sqlalchemy import BigInteger, Connection, bindparam

from scheduler.context import JobContext
from scheduler.handlers import Handler
from scheduler.storage import Storage, StoreUnavailable, open_storage
from scheduler.storage.database import Options
from scheduler.worker import Undone

P = ParamSpec("P")
R = TypeVar("R")

MOMENT = 10_000
"""Microseconds that pass at each step: more than the rows of a batch are apart, which keeps the order of arrival."""


class ReplyLost(StoreUnavailable):
    """A COMMIT was done, and its reply was lost, as the test has asked."""


class PodKilled(Undone):
    """The pod died here, as the test has asked."""


class Steady(Random):
    """Chance, but of a range always its end."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Clock:
    """The database's clock and the monotonic one; both stand still until they are moved."""

    def __init__(self) -> None:
        self._start = time.time_ns() // 1000
        self.passed = 0
        """Microseconds."""

    def monotonic(self) -> float:
        return self.passed / 1e6

    def database(self) -> int:
        return self._start + self.passed


class Faults:
    """What goes wrong next; each once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.losing: set[str] = set()
        """Of `new` jobs and of `results`, the COMMITs whose reply is lost."""
        self.killing = False
        self.dead = False
        """The pod was killed."""

    def mortal(self, handler: Handler) -> Handler:
        """The handler; where its pod is to be killed, that happens after all that it did."""

        def die() -> None:
            if self.killing:
                self.killing, self.dead = False, True
                raise PodKilled("the pod was killed")

        async def awaited(body: object, context: JobContext | None) -> None:
            result = handler.call(body, context)
            assert inspect.isawaitable(result)
            await result
            die()

        def called(body: object, context: JobContext | None) -> object:
            result = handler.call(body, context)
            die()
            return result

        return handler._replace(call=awaited if handler.is_async else called)

    def store(self, url: str) -> Storage:
        """A store on the test's clock, whose replies may be lost."""
        now = bindparam("clock_of_the_test", type_=BigInteger(), callable_=self._clock.database)
        storage = open_storage(url, options=Options(now=now))
        storage.migrate()
        replaced = {
            "insert_if_absent": self._lossy(storage.insert_if_absent, "new"),
            "finish": self._lossy(storage.finish, "results"),
            "finishing": self._lossy_transaction(storage.finishing),
        }
        for verb, lossy in replaced.items():
            setattr(storage, verb, lossy)
        return storage

    def _lossy(self, verb: Callable[P, R], kind: str) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self._clock.passed += MOMENT
            answer = verb(*args, **kwargs)
            self._reply(kind)
            return answer

        return call

    def _lossy_transaction(
        self, verb: Callable[[float], AbstractContextManager[Connection]]
    ) -> Callable[[float], AbstractContextManager[Connection]]:
        @contextlib.contextmanager
        def within(patience: float) -> Iterator[Connection]:
            with verb(patience) as connection:
                yield connection
            self._reply("results")

        return within

    def _reply(self, kind: str) -> None:
        if kind in self.losing:
            self.losing.remove(kind)
            raise ReplyLost("the reply to a COMMIT was lost")
