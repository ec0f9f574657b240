"""One pod: the product's `Pod`, its loops as actors, and the gate that its statements pass.

A crash drops all its objects: whatever is on the stack ends at its next statement or ack, its connections roll back,
its brokers see them end. A frozen pod does nothing, wherever it was, and goes on from there.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from bridge.config.model import AmqpSourceSection, Configuration, KafkaSourceSection, LocalSourceSection
from bridge.pod import Pod
from bridge.sources.local import LocalSource
from bridge.sources.source import Source
from scheduler.executors import call
from scheduler.inflight import Registration, Run
from scheduler.loops import LoopThread
from scheduler.storage import Storage
from scheduler.worker import Undone
from tests.simulation.amqp import SimAmqpSource
from tests.simulation.driver import Connection, lost, words
from tests.simulation.handlers import DESK
from tests.simulation.kafka import SimKafkaSource
from tests.simulation.source import NeverWaits
from tests.simulation.traffic import Plan

if TYPE_CHECKING:
    from tests.simulation.world import World

NEVER = float("inf")
EFFECT = text("INSERT INTO sim_effects VALUES (:job, :version)")
"""A transactional handler's own row."""


class Crash(BaseException):
    """The pod whose frames this passes is dead."""


class Cancelled(Exception):
    """A handler that looked at `cancelled`."""


class Hung(Exception):
    """A handler that the product has written off returns at last."""


class Planned(Exception):
    """A handler that fails as planned."""


class Actor:
    """Something that does one step at a time.

    :param step: one step; seconds until the next.
    :param wakes: whether it goes on at once.
    """

    __slots__ = ("busy", "due", "event", "name", "pod", "step", "wakes")

    def __init__(
        self, name: str, step: Callable[[], float], due: float, pod: SimPod | None, wakes: Callable[[], bool] | None
    ) -> None:
        self.name = name
        self.step = step
        self.due = due
        self.pod = pod
        self.wakes = wakes
        self.event: threading.Event | None = None
        """Set: it goes on at once."""
        self.busy = False


class SimLocalSource(NeverWaits, LocalSource):
    """The product's source."""


SimSource = SimAmqpSource | SimKafkaSource | SimLocalSource


class SimPod:
    """A pod of one life. After a crash another one takes its name."""

    def __init__(self, world: World, name: str, configuration: Configuration, writer: int) -> None:
        self.world = world
        self.name = name
        self.label = f"{name}.{writer}"
        self.writer = writer
        self.random = Random(world.random.getrandbits(64))
        self.alive = True
        self.frozen_since: float | None = None
        self.frozen_until = 0.0
        self.crashed_at: float | None = None
        self.gone_at = NEVER
        self.started_at = world.now
        self.draining = False
        self.left = False
        self.hits: list[tuple[float, float, str]] = []
        """When it was frozen or cut off from the store."""
        self.cut_until = 0.0
        self.registrations: set[bytes] = set()
        self.beats = [float("-inf")]
        """When each beat that went well began."""
        self.running: dict[Run, Actor | None] = {}
        self.actors: list[Actor] = []
        self.doing = ""
        self._connections: list[Connection] = []
        self.sources: list[SimSource] = []
        self.pod = Pod(
            configuration,
            open_store=self._open_store,
            open_sources=self._open_sources,
            random=self.random,
            monotonic=world.monotonic,
        )
        server = self.pod.server
        server.membership.on_registered = self._registered
        self.executors = server.worker.executors
        self.executors._start_thread = lambda number: None  # type: ignore[method-assign]
        self.interval = configuration.pod.heartbeat
        self._workers = configuration.pod.workers
        self._make_actors()

    # What the pod is made of.

    def _open_store(self, configuration: Configuration, pool_size: int) -> Storage:
        return self.world.driver.open(self.world.path, self, self.random, self.world.sleep, pool_size)

    def _open_sources(self, configuration: Configuration, storage: Storage) -> list[Source]:
        world, brokers = self.world, configuration.brokers
        clock: dict[str, Any] = {"random": self.random, "monotonic": world.monotonic}
        place: dict[str, Any] = clock | {"pod_name": self.name, "pod": self}
        for name, section in configuration.sources.items():
            made: SimSource
            if isinstance(section, AmqpSourceSection):
                made = SimAmqpSource(name, brokers[section.broker], section, broker=world.amqp, **place)
            elif isinstance(section, KafkaSourceSection):
                made = SimKafkaSource(name, brokers[section.broker], section, cluster=world.kafka, **place)
            else:
                assert isinstance(section, LocalSourceSection)
                made = SimLocalSource(name, section, storage, **clock)
            self.sources.append(made)
        return list(self.sources)

    def _registered(self, registration: Registration) -> None:
        self.registrations.add(registration.id)

    def _make_actors(self) -> None:
        loops = self.pod.loops()
        ingests = dict(zip(loops[4:], self.sources, strict=False))
        for thread in loops:
            source = ingests.get(thread)
            arrived = source.arrived if source is not None and not isinstance(source, SimLocalSource) else None
            actor = self._act(thread.name, lambda: NEVER, arrived)
            actor.step = self._round(thread, source, actor)
        for source in self.sources:
            if not isinstance(source, SimLocalSource):
                self._act(f"io {source.name}", source.io_step, source.io_wakes)
        self._act("workers", self._start_runs, self._has_runs)
        self._act("main", self._look_after, None)

    def _look_after(self) -> float:
        """The main thread's, while the pod runs."""
        if self.draining:
            return NEVER
        self.pod.server.worker.distrust()
        return 0.5

    def _act(self, name: str, step: Callable[[], float], wakes: Callable[[], bool] | None, delay: float = 0.0) -> Actor:
        actor = Actor(name, step, self.world.now + delay, self, wakes)
        self.actors.append(actor)
        self.world.actors.append(actor)
        return actor

    def _round(self, thread: LoopThread, source: SimSource | None, actor: Actor) -> Callable[[], float]:
        wake = thread.loop.wake
        membership = self.pod.server.membership
        is_heartbeat = thread.name == "heartbeat"

        def step() -> float:
            wake.clear()
            if thread.stopping:
                return NEVER
            began, rounds = self.world.now, membership.rounds
            delay = thread.round()
            actor.event = thread.wake
            if source is not None and not isinstance(source, SimLocalSource):
                actor.wakes = None if actor.event is None else source.arrived  # a backoff is not cut short
            if is_heartbeat and membership.rounds > rounds:
                self.beats.append(began)
            if source is not None and source.starved and delay == 0.0:
                source.starved = False
                return 0.5
            return delay

        return step

    # Handlers.

    def _free_workers(self) -> int:
        held = sum(1 for run in self.running if self.pod.server.worker.inflight.snapshot().get(run.key) is run)
        return self._workers - held

    def _has_runs(self) -> bool:
        return bool(self.executors._queue._runs) and self._free_workers() > 0

    def _start_runs(self) -> float:
        run = self.executors.take_now() if self._free_workers() > 0 else None
        if run is None:
            return NEVER
        if self.executors.begin(run):
            plan, number = self.world.starts(self, run)
            failing = number <= plan.failures
            if run.handler.options.transactional:
                self._run_at_once(run, plan, failing=failing)
                return 0.0 if self._has_runs() else NEVER
            assert run.context is not None
            DESK.plans[run.context] = lambda: self._handle(run, plan)
            error = call(run)
            del DESK.plans[run.context]
            assert error is None, error
            seconds = 25.0 if plan.hangs and number == 1 else plan.seconds
            self._run_on(run, seconds, failing=failing, obeys=plan.obeys, kills=plan.kills)
        return 0.0 if self._has_runs() else NEVER

    def _handle(self, run: Run, plan: Plan) -> None:
        assert run.context is not None
        if run.context.job.body != run.job.body:
            self.world.checker.violated("I3", "a handler was given another body")
        if plan.publishes:
            run.context.publish(plan.publishes, self.world.traffic.publishing(run.job))

    def _run_at_once(self, run: Run, plan: Plan, *, failing: bool) -> None:
        """In one step: its transaction keeps all other writers out until it ends."""
        context = run.context
        assert context is not None
        self.running[run] = None
        DESK.plans[context] = lambda: self._write(run, plan, failing=failing)
        try:
            error = self.executors.call(run)
        finally:
            del DESK.plans[context], self.running[run]
            self.world.checker.terms.returned(run)
        if isinstance(error, Crash):
            raise error
        if isinstance(error, Undone):
            self.world.checker.undone(run)
        if self.executors.end(run, error):
            self.world.ended(self, run, error)

    def _write(self, run: Run, plan: Plan, *, failing: bool) -> None:
        """What a transactional handler does."""
        self.world.checker.called(self, run)
        assert run.context is not None
        plan.broken += 1
        run.context.connection.execute(EFFECT, {"job": run.job.key, "version": run.job.version})
        plan.broken -= 1
        if plan.kills:
            self.crash("a job killed it")
            raise Crash
        if failing:
            raise Planned("as planned")
        self.world.checker.done(run)

    def _run_on(self, run: Run, seconds: float, *, failing: bool, obeys: bool, kills: bool) -> None:
        ends_at = self.world.now + seconds

        def step() -> float:
            now = self.world.now
            if run.cancelled and obeys:
                return over(Cancelled())
            if now < ends_at:
                return ends_at - now
            if kills:
                self.crash("a job killed it")
                raise Crash
            return over(Planned("as planned") if failing else None)

        def over(error: BaseException | None) -> float:
            del self.running[run]
            self.world.checker.terms.returned(run)
            self.actors.remove(actor)
            self.world.actors.remove(actor)
            if self.executors.end(run, error):
                self.world.ended(self, run, error)
            return NEVER

        actor = self._act("handler", step, lambda: run.cancelled and obeys, seconds)
        self.running[run] = actor

    # Its end.

    def crash(self, why: str) -> None:
        """It is gone, with all it held."""
        if not self.alive:
            return
        self.alive = False
        self.crashed_at = self.world.now
        self.world.landed("crash", f"{self.label}: {why}")
        self._gone()
        self.world.restart_later(self)

    def _gone(self) -> None:
        self.alive = False
        self.gone_at = self.world.now
        self.world.actors = [actor for actor in self.world.actors if actor.pod is not self]
        for connection in self._connections:
            connection.lose()
            sqlite3.Connection.close(connection)
        self._connections.clear()
        for link in self.world.amqp.links:
            if link.pod is self:
                link.drop()

    def freeze(self, seconds: float, kind: str) -> None:
        """Nothing of it goes on for so long."""
        now = self.world.now
        self.frozen_since, self.frozen_until = now, now + seconds
        self.hits.append((now, now + seconds, "freeze"))
        self.world.landed(kind, f"{self.label} for {seconds:.1f} s", self.frozen_until)

    def cut(self, seconds: float) -> None:
        """It can't reach the store for so long."""
        self.cut_until = self.world.now + seconds
        self.hits.append((self.world.now, self.cut_until, "cut"))
        self.world.landed("cut", f"{self.label} for {seconds:.1f} s", self.cut_until)

    def stop(self) -> None:
        """SIGTERM: it drains and leaves; another takes its name."""
        self.draining = True
        self.world.landed("stop", self.label)
        pod = self.pod

        def life() -> object:
            yield from pod.ingesting()
            yield from pod.server.draining(5.0, pod._hurry)
            for thread in pod.server.threads():
                thread.stop()
            pod.server.leave()
            self.left = True

        steps = iter(life())  # type: ignore[call-overload]

        def step() -> float:
            pause: float | None = next(steps, None)
            if pause is not None:
                return pause
            self._gone()
            self.world.restart_later(self)
            return NEVER

        self._act("stop", step, None)

    # The gate.

    def now(self) -> int:
        return self.world.database_now()

    def time(self) -> float:
        return self.world.now

    def connects(self) -> None:
        if not self.alive:
            raise Crash
        if self.world.store_is_down(self):
            raise lost(sqlite3.SQLITE_CANTOPEN, "unable to open the database")

    def before(self, connection: Connection, statement: str) -> None:
        if connection not in self._connections:
            self._connections.append(connection)
        world = self.world
        self._live()
        world.trace(lambda: f"{self.label} {words(statement)}")
        if connection.is_lost:
            raise lost(sqlite3.SQLITE_IOERR, "the connection was lost")
        world.pass_time(connection.in_transaction)
        if not connection.in_transaction:
            world.others_run(self)
            self._live()
        if world.store_is_down(self):
            connection.lose()
            raise lost(sqlite3.SQLITE_IOERR, "the store is down")
        if world.strikes("crash before a statement"):
            self.crash(f"before {words(statement)}")
            raise Crash
        if world.strikes("failed call"):
            world.disturbed()
            connection.lose()
            raise lost(sqlite3.SQLITE_IOERR, "the connection was lost before")
        if not connection.in_transaction and world.strikes("contended"):
            raise lost(sqlite3.SQLITE_BUSY, "database is locked")

    def after(self, connection: Connection, statement: str) -> None:
        world = self.world
        if world.strikes("crash after a statement"):
            self.crash(f"after {words(statement)}")
            raise Crash
        if world.strikes("lost reply"):
            world.disturbed()
            connection.lose()
            raise lost(sqlite3.SQLITE_IOERR, "the reply was lost")
        if not connection.in_transaction:
            world.others_run(self)
            self._live()

    def _live(self) -> None:
        if not self.alive:
            raise Crash

    def ack_point(self, when: str) -> None:
        """Before and after each ack that a broker is sent."""
        self._live()
        if self.world.strikes(f"crash {when} an ack"):
            self.crash(f"{when} an ack")
            raise Crash

    def loses_ack(self) -> bool:
        return self.world.strikes("lost ack")
