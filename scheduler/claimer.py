"""The claim thread: it holds the map of jobs against their rows after each heartbeat, and fills the free slots.

Promises: nothing is claimed while results wait to be written, nor under a registration that is not trusted; a row that
stands as ours and that nobody here knows is found and run (I12).
"""

from collections.abc import Sequence
from logging import getLogger

from scheduler.inflight import UNPARSED, Phase, Registration
from scheduler.job import Job
from scheduler.limits import Limit
from scheduler.storage.gates import LIMITED, RESCUED_LANES
from scheduler.worker import Worker

log = getLogger("jobbridge.worker")

BUSY_POLL = 0.02
IDLE_POLL = 1.0


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
