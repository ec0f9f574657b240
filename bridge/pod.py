"""A pod: one process with its sources, their ingest threads and one Server. Only this file and `server.py` own
threads, and only this one knows signals.

Promises: a broker or a store that is down, at start too, is waited for; SIGTERM drains (I15): what has arrived is
ingested, what runs may end, the rest is handed back; a second signal hands back at once.
"""

import gc
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from random import Random
from types import FrameType
from typing import TYPE_CHECKING

from bridge.assembly import assemble, decoders, sources, store
from bridge.backpressure import Backpressure
from bridge.config.model import Configuration, Http
from bridge.ingest import Ingest
from bridge.logs import identify
from bridge.outbox import Relay
from bridge.processes import Parent
from bridge.pulse import Pulse
from bridge.sources.local import LocalSource
from bridge.sources.source import Source
from scheduler.inflight import Registration
from scheduler.loops import LoopThread, waited
from scheduler.server import Server
from scheduler.storage import SchemaOutdated, Storage, StoreUnavailable

if TYPE_CHECKING:
    from bridge.dashboard import Dashboard, Live
    from bridge.health import HttpServer

    Stoppable = HttpServer | Pulse | Dashboard | Live

log = getLogger("jobbridge.pod")

INGEST_SECONDS = 5.0
"""How long a stop lets messages that have arrived be ingested."""


class Pod:
    """One pod. `run` is its life.

    :param open_store: opens the store, with so many connections kept; these four a simulation replaces.
    :param open_sources: makes the sources.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        open_store: Callable[[Configuration, int], Storage] = store,
        open_sources: Callable[[Configuration, Storage], Sequence[Source]] = sources,
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        assembled = assemble(configuration)
        pod = configuration.pod
        self._configuration = configuration
        self._digest = configuration.digest()
        self._versions = {"jobbridge": version("jobbridge"), "python": platform.python_version()}
        self._monotonic = monotonic
        self._random = random or Random(os.urandom(16))
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        # A transactional handler holds a connection while it runs.
        transactional = any(one.options.transactional for one in assembled.registry.values())
        connections = 8 + len(configuration.sources) + (pod.workers if transactional else 0)
        self._open_store = open_store
        self._storage = open_store(configuration, connections)
        self._heartbeat_storage = open_store(configuration, 1)
        self.server = Server(
            self._storage,
            self._heartbeat_storage,
            assembled.registry,
            assembled.policies,
            workers=pod.workers,
            heartbeat=pod.heartbeat,
            limits=assembled.limits,
            filters=assembled.filters,
            destinations=assembled.destinations,
            name=pod.name,
            random=self._random,
            monotonic=monotonic,
            more_status=self._more_status,
            recurring=assembled.recurring,
            prune=configuration.recurring.prune,
        )
        self._sources = open_sources(configuration, self._storage)
        self._of_source = of_source = decoders(configuration, assembled.rules)
        self._ingests = [
            Ingest(source, of_source[source.name], self.server.offers, self._storage, monotonic)
            for source in self._sources
        ]
        self._gate = Backpressure(
            self._sources,
            self._storage,
            configuration.store.max_backlog,
            pod.heartbeat,
            self.server.worker.hold_routes,
        )
        longest = min(pod.heartbeat / 2, 2.0)
        self._ingest_threads = [
            LoopThread(one, self.server.outage, self._random, longest=longest) for one in self._ingests
        ]
        self._backpressure = LoopThread(self._gate, self.server.outage, self._random, longest=longest)
        relay = Relay(configuration, self._storage, self.server)
        self._relay = LoopThread(relay, self.server.outage, self._random, longest=longest)
        self._io = [
            threading.Thread(target=source.run, name=f"source {source.name}", daemon=True) for source in self._sources
        ]
        self._started = False

    def run(self) -> int:
        """Live until a signal; the exit code: 0 after a clean drain, 1 if jobs were cut off."""
        served = self._serve()
        try:
            if not self._await_store():
                return 0
            self._start()
            while not self._stopping.is_set():
                self._stopping.wait(0.5)
                self.server.worker.distrust()
                if self.server.worker.executors.exhausted.is_set():
                    log.error("half of the workers hang past their timeout: this pod drains and ends")
                    self._stopping.set()
            cut_off = self._stop()
            exhausted = self.server.worker.executors.exhausted.is_set()
            return 1 if cut_off or exhausted else 0
        finally:
            for one in served:
                one.stop()

    def signalled(self, number: int, _: FrameType | None) -> None:
        """The first signal drains, the second hands back at once."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _serve(self) -> "Sequence[Stoppable]":
        http, file = self._configuration.http, self._configuration.pod.heartbeat_file
        served: list[Stoppable] = [] if http is None else [*self._pages(http)]
        if file is not None:
            served.append(Pulse(Path(file), self.unhealthy, self.unready))
        return served

    def _pages(self, http: Http) -> "Sequence[Stoppable]":
        # Their libraries are an extra, and cost memory.
        from bridge.health import Health, HttpServer, application
        from bridge.metrics import Metrics, Watched

        ingests = list(zip(self._sources, self._ingests, strict=True))
        storages = (self._storage, self._heartbeat_storage)
        watched = Watched(self.server, storages, ingests, lambda: self._gate.by_operators, self._versions, self._digest)
        health = Health(self.unhealthy, self.unready, Metrics(watched).page)
        if not http.dashboard:
            return (HttpServer(application(health), http.bind, http.port),)
        from starlette.routing import Mount

        from bridge.dashboard import THREADS, Dashboard

        dashboard = Dashboard(self._configuration, self._open_store(self._configuration, THREADS), self._of_source)
        app = application(health, Mount("/", dashboard))
        return dashboard.live, HttpServer(app, http.bind, http.port), dashboard

    def _await_store(self) -> bool:
        """Wait until the store is there with its schema; False: a signal came first."""
        failures = 0
        while not self._stopping.is_set():
            try:
                if self._configuration.store.migrate == "auto":
                    self._storage.migrate()
                else:
                    self._storage.check_schema()
                self._gate.step()  # what is paused stays so from the first message and the first claim on
                self.server.outage.ends()
                return True
            except (StoreUnavailable, SchemaOutdated) as error:
                self.server.outage.begins(error)
                failures += 1
                self._stopping.wait(self._random.uniform(0.0, min(2.0, 0.1 * 2 ** min(failures, 10))))
        return False

    def _start(self) -> None:
        self.server.start()
        for io in self._io:
            io.start()
        helper = ThreadPoolExecutor(max_workers=len(self._sources) or 1, thread_name_prefix="decode")
        for source, ingest in zip(self._sources, self._ingests, strict=True):
            if not isinstance(source, LocalSource):  # which asks the store for each batch
                ingest.helper = helper
        for thread in (*self._ingest_threads, self._backpressure, self._relay):
            thread.start()
        self._started = True
        log.info("pod %s runs: %d sources", self._configuration.pod.name, len(self._sources))

    def loops(self) -> tuple[LoopThread, ...]:
        """All loops but the sources' own, for who runs their rounds himself."""
        return *self.server.threads(), *self._ingest_threads, self._backpressure, self._relay

    def ingesting(self) -> Generator[float, None, None]:
        """The first part of a stop: what has arrived is ingested, for a while; yields the seconds to wait."""
        self._backpressure.stop(1.0)
        self.server.worker.draining = True
        for source in self._sources:
            source.pause("the pod stops")
        deadline = self._monotonic() + INGEST_SECONDS
        while not self._ingested() and self._monotonic() < deadline and not self._hurry.is_set():
            self.server.worker.distrust()
            yield 0.01
        for source in self._sources:
            source.close()
        for thread in self._ingest_threads:
            thread.stop(2.0)
        for ingest in self._ingests:
            ingest.abandon()

    def _stop(self) -> int:
        """Drain; how many jobs were cut off."""
        log.info("stopping: no more messages are received and no more jobs claimed")
        waited(self.ingesting(), time.sleep)
        cut_off = self.server.stop(self._configuration.pod.grace, self._hurry)
        self._relay.stop(2.0)
        for io in self._io:
            io.join(2.0)
        self._storage.close()
        self._heartbeat_storage.close()
        log.info("stopped: %s", "all that ran has ended" if not cut_off else f"{cut_off} jobs were cut off")
        return cut_off

    def _ingested(self) -> bool:
        return all(source.drained() for source in self._sources) and not any(one.busy for one in self._ingests)

    def unhealthy(self) -> Mapping[str, str]:
        """What a restart would mend, for each part."""
        runs = self._started and not self._stopping.is_set()
        parts = {
            thread.name: "its thread has ended" if runs and not thread.is_alive() else ""
            for thread in (*self.server.threads(), *self._ingest_threads)
        }
        exhausted = self.server.worker.executors.exhausted.is_set()
        return parts | {"workers": "half of them hang past their timeout" if exhausted else ""}

    def unready(self) -> Mapping[str, str]:
        """What keeps this pod from working now, for each part."""
        parts = {**self.unhealthy(), "pod": "it stops" if self._stopping.is_set() else "", "store": ""}
        if self.server.outage.since is not None:
            parts["store"] = self.server.outage.reason
        elif self.server.membership.registration() is None:
            parts["store"] = "no heartbeat is in yet"
        for source in self._sources:
            status = source.status()
            well = status.attached or source.name in self._gate.by_operators
            parts[f"source {source.name}"] = "" if well else status.detail or "not attached"
        return parts

    def _more_status(self) -> dict[str, object]:
        return {
            "sources": {
                source.name: source.status()._asdict() | ingest.status()
                for source, ingest in zip(self._sources, self._ingests, strict=True)
            },
            "configuration": self._digest,
            "versions": self._versions,
        }


def run_pod(configuration: Configuration, tell: int | None = None) -> int:
    """Be a pod until a signal comes; the exit code.

    :param tell: a pipe that each server id of this process is written to.
    """
    pod = Pod(configuration)
    # Thousands of small objects live as long as their batch and are freed without the collector's help. At Python's
    # default, 700 new ones start a collection that walks them all, again and again: a third of a busy pod's time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)

    def registered(registration: Registration) -> None:
        identify(registration.number)
        if tell is not None:
            os.write(tell, registration.id)

    pod.server.membership.on_registered = registered
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pod.signalled)
    try:
        return pod.run()
    finally:
        # Python takes its handlers away while it ends: a second signal would then kill a pod that has drained.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def run_processes(configuration: Configuration, number: int) -> int:
    """Be so many pods until a signal comes; the exit code."""
    return Parent(configuration, number, run_pod).run()
