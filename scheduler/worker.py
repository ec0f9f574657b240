"""Claim, run, finish.

How a job crosses the threads, and whose connection each uses:

    ingest thread (its source's)        claim thread (its own)
      offer: enter in the map,            claim, peek, promote, reconcile
      INSERT claimed                        |
            \\                               |
             +------- submit ---------------+
                         |
                  worker threads / event loop (none)      run the handler
                         |
                    results queue
                         |
                  finish thread (its own)                 guarded UPDATE of all that ended meanwhile

Promises: results that can't be written are held and offered again, before anything is claimed (I14); a result that
was fenced is dropped and logged; a job starts only under a trusted, current registration (I10).
"""

import threading
import time
from collections.abc import Callable, Sequence
from logging import DEBUG, getLogger
from queue import Empty, SimpleQueue
from random import Random

from scheduler.executors import Executors, HandlerTimeout
from scheduler.handlers import HandlerRegistry, log_fields
from scheduler.inflight import UNPARSED, InFlight, Phase, Registration, Run
from scheduler.job import Job, JobState
from scheduler.limits import Limit
from scheduler.membership import Membership
from scheduler.retry import Policies
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.gates import LIMITED, RESCUED_LANES
from scheduler.storage.records import Finish
from scheduler.storage.storage import Storage
from scheduler.verdict import ended_by, handed_back, one_line, succeeded

log = getLogger("jobbridge.worker")

BUSY_POLL = 0.02
IDLE_POLL = 1.0
IDLE_FINISH = 60.0
MAX_HELD = 500


class Worker:
    """What the claim thread, the finish thread and the ingest threads share."""

    def __init__(
        self,
        storage: Storage,
        registry: HandlerRegistry,
        policies: Policies,
        workers: int,
        *,
        limits: Sequence[Limit] = (),
        random: Random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage = storage
        self.registry = registry
        self.policies = policies
        self.limits = limits
        self.membership: Membership
        self.random = random
        self.monotonic = monotonic
        self.inflight = InFlight(workers, monotonic)
        self.claiming = threading.Event()
        """Wakes the claim thread."""
        self.finishing = threading.Event()
        """Wakes the finish thread."""
        self.executors = Executors(self.inflight, self._may_start, self._ended, self.finishing.set, monotonic)
        self.draining = False
        self.paused_routes: frozenset[str] = frozenset()
        """An operator has paused them: their jobs wait in the store."""
        self.hungry = False
        """The last claim came back short: whoever inserts here may run it at once."""
        self.holding = False
        """Results wait for a database that does not take them."""
        self.results: SimpleQueue[tuple[Run, Finish]] = SimpleQueue()
        self._parked: list[Run] = []
        self._parked_lock = threading.Lock()

    def submit(self, starting: Sequence[tuple[Run, Job, object]]) -> None:
        """Run jobs whose rows are ours, each with its parsed body, or UNPARSED."""
        for run, job, body in starting:
            run.job = job
            run.handler = self.registry[job.handler]
            run.policy = self.policies.of(job.route, job.handler)
            run.body = body
        self.inflight.make_wait([run for run, _, _ in starting])
        for run, _, _ in starting:
            self.executors.submit(run)

    def _may_start(self, run: Run) -> bool:
        if self.draining:
            return False  # whoever drains hands it back
        if run.job.route in self.paused_routes:  # claimed or inserted while the pause came
            self._give_back(run, Phase.WAITING)
            return False
        if self.membership.trusts(run.registration):
            return True
        with self._parked_lock:
            self._parked.append(run)
        return False

    def parked(self) -> list[Run]:
        """Take the runs that were due to start while trust was lost."""
        with self._parked_lock:
            parked, self._parked = self._parked, []
        return parked

    def _ended(self, run: Run, error: BaseException | None) -> None:
        job = run.job
        if error is None:
            result = succeeded(job, run.policy)
            if log.isEnabledFor(DEBUG):
                log.debug("job succeeded", extra=self._fields(run))
        elif run.cancelled and not isinstance(error, HandlerTimeout):
            result = handed_back(job)  # it ended because it was told to
        else:
            result = ended_by(error, job, run.policy, run.handler.options, self.random)
            if result.failures:
                self._log_failure(run, error, result)
        self.results.put((run, result))
        if not self.finishing.is_set():
            self.finishing.set()
        if not self.hungry and not self.claiming.is_set() and self.inflight.worth_claiming():
            self.claiming.set()

    def _log_failure(self, run: Run, error: BaseException, result: Finish) -> None:
        fields = self._fields(run) | {"error.type": type(error).__name__}
        if result.state is JobState.FAILED:
            log.error("job failed for good: %s", one_line(error), extra=fields)
        else:
            log.warning("job failed, next try in %.1f s: %s", result.delay_us / 1e6, one_line(error), extra=fields)

    def _fields(self, run: Run) -> dict[str, object]:
        return log_fields(run.job) | {"duration_ms": round((self.monotonic() - run.started) * 1000, 1)}

    def hold_routes(self, routes: frozenset[str]) -> None:
        """Start no job of these routes any more; those that run finish, those that wait here are handed back."""
        resumed = self.paused_routes - routes
        self.paused_routes = routes
        for run in self.inflight.in_phase(Phase.WAITING) if routes else ():
            if run.job.route in routes:
                self._give_back(run, Phase.WAITING)
        if resumed:
            self.claiming.set()

    def hand_back_waiting(self) -> None:
        """Give back what has not started."""
        for run in self.inflight.in_phase(Phase.WAITING):
            self._give_back(run, Phase.WAITING)

    def hand_back_running(self) -> int:
        """Give back what still runs, however its handler goes on; how many."""
        return sum(self._give_back(run, Phase.RUNNING) for run in self.inflight.in_phase(Phase.RUNNING))

    def _give_back(self, run: Run, phase: Phase) -> bool:
        if not self.inflight.move(run, Phase.ENDED, only_from=phase):
            return False
        self.results.put((run, handed_back(run.job)))
        self.finishing.set()
        return True

    def fence(self, registration: Registration) -> None:
        """This registration has ended: cancel what runs under it, and never start what waits."""
        for run in self.inflight.snapshot().values():
            if run.registration is registration:
                if run.phase is Phase.RUNNING:
                    run.cancel()
                elif run.phase is Phase.WAITING and self.inflight.move(run, Phase.ENDED, only_from=Phase.WAITING):
                    self.inflight.leave([run])

    def distrust(self) -> None:
        """Tell what runs under a registration that may not be trusted now to stop: others may hold us for dead. Called
        every half second by whoever owns the server, on no thread that waits for the database."""
        for run in self.inflight.in_phase(Phase.RUNNING):
            if not run.cancelled and not self.membership.trusts(run.registration):
                run.cancel()


class Claimer:
    """The claim thread's loop: reconcile after each beat, then fill the free slots."""

    name = "claim"

    def __init__(self, worker: Worker) -> None:
        self.wake = worker.claiming
        self._worker = worker
        self._handlers = list(worker.registry)
        self._limits = [limit.key for limit in worker.limits]
        self._reconciled = 0
        self._pause = BUSY_POLL
        self._peeked = float("-inf")
        self._left: float | None = None
        """Seconds until the next scheduled job was due at the last look."""

    def step(self) -> float:
        """One round; seconds to wait unless woken."""
        worker = self._worker
        registration = worker.membership.registration()
        if registration is None:
            worker.hungry = False
            return IDLE_POLL
        if worker.holding:
            return BUSY_POLL
        if self._reconciled != worker.membership.rounds:
            self._reconciled = worker.membership.rounds
            self.reconcile(registration)
        if worker.draining or not self._handlers:
            return IDLE_POLL
        if not worker.inflight.worth_claiming():
            return IDLE_POLL  # woken by the run that ends
        room = worker.inflight.room()
        taken = self._claim(registration, room)
        worker.hungry = taken < room
        if taken:
            self._pause = BUSY_POLL
            return 0.0 if taken >= room else BUSY_POLL
        self._pause = min(IDLE_POLL, self._pause * 2)
        return self._pause if self._left is None else max(BUSY_POLL, min(self._pause, self._left))

    def _claim(self, registration: Registration, room: int) -> int:
        worker = self._worker
        now = worker.monotonic()
        if not worker.hungry and now - self._peeked <= 0.1:
            return self._take(registration, room, 0)
        self._peeked = now
        waiting = worker.storage.peek(self._handlers, self._limits, worker.paused_routes)
        if waiting.left is not None and waiting.left <= 0:
            worker.storage.promote()
            waiting = worker.storage.peek(self._handlers, self._limits, worker.paused_routes)
        self._left = waiting.left
        taken = 0
        # A job that was orphaned may have killed its pod: those orphaned twice run one at a time, those orphaned once
        # are taken for free workers only. So one that kills takes no innocent with it often.
        for lane in (2, 1):
            if waiting.lanes[lane]:
                taken += self._take(registration, self._few(room - taken, lane), lane)
        for limit, highest in zip(worker.limits, waiting.limited, strict=True):
            for lane in () if highest is None else {highest, LIMITED}:
                taken += self._take(registration, self._few(room - taken, lane), lane, limit)
        if waiting.lanes[0]:
            taken += self._take(registration, room - taken, 0)
        return taken

    def _few(self, room: int, lane: int) -> int:
        """How many of a lane are taken that must not be taken ahead of their start: a limited job would keep a place
        that another pod could use."""
        inflight = self._worker.inflight
        one = 0 if inflight.holds_lane(lane) else 1
        if lane in (RESCUED_LANES, LIMITED + RESCUED_LANES):
            return min(room, one)
        return min(room, inflight.free_workers() or one)  # behind a queue that never ends no worker is ever free

    def _take(self, registration: Registration, number: int, lane: int, limit: Limit | None = None) -> int:
        if number <= 0:
            return 0
        storage, server, paused = self._worker.storage, registration.id, self._worker.paused_routes
        if limit is None:
            claimed = storage.claim(server, self._handlers, number, lane, paused)
        else:
            claimed = storage.claim_limited(server, self._handlers, number, lane, limit, paused)
        self._start(claimed, registration, lane)
        return len(claimed)

    def _start(self, jobs: Sequence[Job], registration: Registration, lane: int) -> None:
        worker = self._worker
        runs = worker.inflight.enter((job.key for job in jobs), registration, lane)
        # One that is here already is an older run of it; once that has left, reconcile finds this one.
        worker.submit([(runs[job.key], job, UNPARSED) for job in jobs if job.key in runs])

    def reconcile(self, registration: Registration) -> None:
        """Hold the map against the rows that stand as ours, both ways (I12)."""
        worker = self._worker
        copy = worker.inflight.snapshot()
        phases = {key: run.phase for key, run in copy.items()}
        standing = dict(worker.storage.standing(registration.id))
        forgotten = [key for key in standing if key not in copy and key not in worker.inflight]
        if forgotten:
            # Read once more, after the look into the map: one that was inserted and finished between the copy and
            # the read is no longer held by now.
            held = worker.storage.held(registration.id, forgotten)
            known = [job for job in held if job.handler in worker.registry]
            if known:
                log.warning("found %d claimed jobs whose claim's reply was lost", len(known))
                for lane in range(RESCUED_LANES + 1):
                    self._start([job for job in known if min(job.rescues, RESCUED_LANES) == lane], registration, lane)
        for key, run in copy.items():
            if run.registration is not registration or run.phase is not phases[key]:
                continue
            if run.phase not in (Phase.WAITING, Phase.RUNNING) or standing.get(key) == run.job.version:
                continue
            if run.phase is Phase.RUNNING:
                run.cancel()
            elif worker.inflight.move(run, Phase.ENDED, only_from=Phase.WAITING):
                worker.inflight.leave([run])
        for run in worker.parked():
            if run.registration is registration:
                worker.executors.submit(run)
            else:
                worker.inflight.leave([run])


class Finisher:
    """The finish thread's loop: writes all results that came meanwhile, and ends runs past their timeout."""

    name = "finish"

    def __init__(self, worker: Worker) -> None:
        self.wake = worker.finishing
        self._worker = worker
        self._held: list[tuple[Run, Finish]] = []

    def step(self) -> float:
        """One round; seconds to wait unless woken."""
        worker = self._worker
        left = worker.executors.expire()
        while len(self._held) < MAX_HELD:
            try:
                self._held.append(worker.results.get_nowait())
            except Empty:
                break
        if not self._held:
            return IDLE_FINISH if left is None else left
        try:
            written = worker.storage.finish([result for _, result in self._held])
        except StoreUnavailable:
            worker.holding = True
            raise
        ended, self._held = self._held, []
        worker.holding = False
        worker.inflight.leave([run for run, _ in ended])
        for run, result in ended if len(written) < len(ended) else ():
            if result.id not in written:
                log.warning("result refused: fenced, the job is another's now", extra=log_fields(run.job))
        if not worker.hungry and worker.inflight.worth_claiming():
            worker.claiming.set()
        return 0.0
