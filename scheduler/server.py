"""Starts and stops what runs jobs, in order; no logic of its own.

A pod is a process with one Server. Its threads: heartbeat, claim, finish, maintenance, the workers.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from logging import getLogger
from pathlib import Path
from random import Random

from scheduler.claimer import Claimer
from scheduler.filters import Filters
from scheduler.finisher import Finisher
from scheduler.handlers import HandlerRegistry
from scheduler.inflight import Phase
from scheduler.limits import Limit
from scheduler.loops import LoopThread, Outage, waited
from scheduler.maintenance.count import Count
from scheduler.maintenance.duties import Duties, Duty
from scheduler.maintenance.expire import Expire
from scheduler.maintenance.pass_on import PassOn
from scheduler.maintenance.promote import Promote
from scheduler.maintenance.purge import Purge
from scheduler.maintenance.recurring import Declared, Fire, Prune
from scheduler.maintenance.rescue import Rescue
from scheduler.membership import Membership
from scheduler.offers import Offers
from scheduler.recurring import Recurring
from scheduler.retry import Policies
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.storage import Storage
from scheduler.worker import Worker

log = getLogger("jobbridge.pod")

FLUSH_SECONDS = 5.0
"""How long a stop waits for results to be written once nothing runs any more."""


class Server:
    """One process's part of the scheduler.

    :param storage: for all threads but the heartbeat's.
    :param heartbeat_storage: the same database over connections of its own: a full pool must not stop the heartbeat.
    :param name: shown as the server's host; empty: the host's name.
    :param heartbeat: seconds between heartbeats.
    :param filters: functions that are told what happens to jobs.
    :param destinations: for each source that a handler may publish to, its queue in the store.
    :param more_status: added to what the servers table shows of this process.
    :param recurring: the recurring jobs that this process declares.
    :param prune: as the master, forget those that no process declares.
    """

    def __init__(
        self,
        storage: Storage,
        heartbeat_storage: Storage,
        registry: HandlerRegistry,
        policies: Policies,
        *,
        workers: int = 20,
        heartbeat: float = 15.0,
        limits: Sequence[Limit] = (),
        filters: Filters | None = None,
        destinations: Mapping[str, str] = {},
        name: str = "",
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        more_status: Callable[[], dict[str, object]] = dict,
        recurring: Sequence[Recurring] = (),
        prune: bool = False,
    ) -> None:
        random = random or Random(os.urandom(16))
        self.outage = Outage(monotonic)
        self._monotonic = monotonic
        self._more_status = more_status
        self.worker = Worker(
            storage,
            registry,
            policies,
            workers,
            limits=limits,
            filters=filters,
            destinations=destinations,
            random=random,
            monotonic=monotonic,
        )
        self.membership = Membership(
            heartbeat_storage,
            interval=heartbeat,
            status=self._status,
            on_beat=self._on_beat,
            on_fenced=self.worker.fence,
            name=name,
            random=random,
            monotonic=monotonic,
        )
        self.worker.membership = self.membership
        self.offers = Offers(self.worker)
        self.claimer = Claimer(self.worker)
        self.finisher = Finisher(self.worker)
        self.rescue = Rescue(storage, self.membership, policies.default.failed_retention, self.worker.counts)
        self._declared = Declared(recurring)
        duties: list[Duty] = [
            Promote(storage),
            Fire(storage, self.worker.claiming.set),
            Expire(storage, policies.default.window),
            PassOn(storage),
            Purge(storage, lambda: len(self.worker.inflight) > 0, monotonic),
        ]
        if prune:
            duties.append(Prune(storage, self._declared))
        self._count = Count(storage, self.membership, self.worker.counts, random.randbytes(16))
        declare = [partial(self._declared.declare, storage)]
        self.duties = Duties(self.membership, duties, [self.rescue], monotonic, declare, [self._count])
        longest = min(heartbeat / 2, 2.0)

        def thread(loop: Claimer | Finisher | Duties | Membership) -> LoopThread:
            return LoopThread(loop, self.outage, random, longest=longest, proves_store=loop is self.membership)

        self._heartbeat = thread(self.membership)
        self._claim, self._finish = thread(self.claimer), thread(self.finisher)
        self._maintenance = thread(self.duties)

    def start(self) -> None:
        """Start all threads; jobs run once the first heartbeat is in. The schema must be there."""
        self.worker.executors.start()
        for thread in self.threads():
            thread.start()

    def threads(self) -> tuple[LoopThread, ...]:
        """The loops' threads, for health."""
        return self._heartbeat, self._claim, self._finish, self._maintenance

    def stop(self, grace: float, hurry: threading.Event) -> int:
        """Stop claiming, let what runs end within `grace` seconds, hand the rest back, unregister (I15).

        :param hurry: set: don't wait any longer.
        :return: how many jobs were cut off.
        """
        cut_off = waited(self.draining(grace, hurry), time.sleep)
        for thread in (self._claim, self._finish, self._maintenance, self._heartbeat):
            thread.stop(timeout=1.0)
        self.worker.executors.stop()
        # On a thread: a database that hangs must not keep this process from ending.
        leaving = threading.Thread(target=self.leave, daemon=True)
        leaving.start()
        leaving.join(FLUSH_SECONDS)
        return cut_off

    def draining(self, grace: float, hurry: threading.Event) -> Generator[float, None, int]:
        """The part of `stop` in which the loops still run; yields the seconds to wait before it goes on."""
        worker = self.worker
        worker.draining = True
        deadline = self._monotonic() + grace
        while True:
            worker.hand_back_waiting()  # each time: a claim or an insert may have been under way
            worker.distrust()
            if not worker.inflight.in_phase(Phase.RUNNING) or self._monotonic() >= deadline or hurry.is_set():
                break
            yield 0.02
        running = worker.inflight.in_phase(Phase.RUNNING)
        for run in running:
            run.cancel()
        if running:
            yield 0.2  # for those that look at `cancelled`
        cut_off = worker.hand_back_running()
        flushed_by = self._monotonic() + FLUSH_SECONDS
        while len(worker.inflight) and self._monotonic() < flushed_by:
            worker.hand_back_waiting()
            yield 0.01
        return cut_off

    def leave(self) -> None:
        """Unregister, the last thing of all."""
        try:
            self.membership.leave()
            self._count()
        except StoreUnavailable:
            log.warning("can't unregister: the store does not answer; the other pods will notice")

    def _on_beat(self) -> None:
        self.claimer.wake.set()
        self.duties.wake.set()

    def _status(self) -> str:
        running = self.worker.inflight.in_phase(Phase.RUNNING)
        progress = {str(run.job.id): list(run.context.done) for run in running if run.context and run.context.done}
        shown = {
            "workers": self.worker.inflight.workers,
            "busy": len(running),
            "progress": progress,
            "draining": self.worker.draining,
            "handlers": sorted(self.worker.registry),
            "memory": resident_bytes(),
            "clock_offset": round(self.membership.clock_offset, 3),
            "recurring": self._declared.digest,
        }
        return json.dumps(shown | self._more_status())


def resident_bytes() -> int | None:
    """This process's memory that is in RAM; None where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
