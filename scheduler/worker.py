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

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from logging import DEBUG, getLogger
from queue import SimpleQueue
from random import Random

from scheduler.context import log_fields
from scheduler.counts import Counts, Key
from scheduler.executors import Executors, HandlerTimeout, call
from scheduler.filters import Filters
from scheduler.handlers import HandlerRegistry
from scheduler.inflight import InFlight, Phase, Registration, Run
from scheduler.job import Job, JobState
from scheduler.limits import Limit
from scheduler.membership import Membership
from scheduler.retry import Policies
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.records import Event, Finish
from scheduler.storage.storage import Storage
from scheduler.verdict import ended_by, handed_back, one_line, outcome, storable, succeeded

log = getLogger("jobbridge.worker")


class Undone(Exception):
    """A transactional run that left nothing, through no fault of its own: the job runs again."""


class RolledBack(Exception):
    """Ends a transaction."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


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
        filters: Filters | None = None,
        destinations: Mapping[str, str] = {},
        random: Random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.filters = filters or Filters()
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
        self.leaving = threading.Event()
        """Wakes whoever relays the messages of jobs that succeeded."""
        self.has_left = False
        """Some were written since he last looked."""
        self.executors = Executors(
            self.inflight,
            self._may_start,
            self._ended,
            self.finishing.set,
            monotonic,
            transact=self._transact,
            destinations=destinations,
        )
        self.counts = Counts()
        self.measure: Callable[[Sequence[tuple[Run, str]]], None] | None = None
        """Told of runs that ended, and how."""
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
            self.filters.tell("processing", run.job)
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
        self.filters.tell("processed", job, error)
        if run.committed:
            run.outcome = "succeeded"
            self._leave(run)
            return
        if error is None:
            result = self._success(run)
            run.outcome = "succeeded"
            if log.isEnabledFor(DEBUG):
                log.debug("job succeeded", extra=self._fields(run))
        elif isinstance(error, Undone) or (run.cancelled and not isinstance(error, HandlerTimeout)):
            run.outcome = "cancelled"
            result = handed_back(job)  # it ended because it was told to, or its commit has an unknown fate
        else:
            result = ended_by(error, job, run.policy, run.handler.options, self.random)
            result = result._replace(events=result.events + self._kept_log(run))
            run.outcome = outcome(result)
            if run.outcome == "retried" and isinstance(error, HandlerTimeout):
                run.outcome = "timeout"
            if result.failures:
                self._log_failure(run, error, result)
                if result.state is JobState.FAILED:
                    self.filters.tell("failed", job, error)
        self.results.put((run, result))
        if not self.finishing.is_set():
            self.finishing.set()
        if not self.hungry and not self.claiming.is_set() and self.inflight.worth_claiming():
            self.claiming.set()

    def _success(self, run: Run) -> Finish:
        result = succeeded(run.job, run.policy)
        if run.context is None:
            return result
        return result._replace(events=self._kept_log(run), messages=tuple(run.context.leaving))

    @staticmethod
    def _kept_log(run: Run) -> tuple[Event, ...]:
        lines = run.context.kept_log() if run.context is not None else ()
        return (Event("LOG", storable("\n".join(lines))),) if lines else ()

    def _transact(self, run: Run) -> BaseException | None:
        """Call a handler in a transaction that its job's success is the last statement of; what it raised, or what
        kept the whole from being committed."""
        try:
            with self.storage.finishing(self.membership.timeout) as connection:
                if not self.membership.trusts(run.registration):  # it waited for a connection, or for SQLite's lock
                    raise RolledBack(Undone("trust was lost before it could begin"))
                if run.context is not None:
                    run.context.transaction = connection
                error = call(run)
                if connection.invalidated:
                    raise RolledBack(Undone("its connection was lost"))
                if error is not None:
                    raise RolledBack(error)
                self.filters.tell("changing", run.job, JobState.SUCCEEDED)
                if not self.storage.finish_within(connection, self._success(run)):
                    raise RolledBack(Undone("it was fenced: the job is another's now"))
        except RolledBack as rolled_back:
            return rolled_back.error
        except Exception as error:
            return Undone(f"what it wrote was not committed, or nobody knows: {type(error).__name__}")
        run.committed = True
        return None

    def _leave(self, run: Run) -> None:
        """After a result was written with what its handler wrote."""
        self.count([run], {run.key})
        self.inflight.leave([run])
        self.filters.tell("changed", run.job, JobState.SUCCEEDED)
        if run.context is not None and run.context.leaving:
            self.leave()
        if run.job.lock_key is not None:
            with contextlib.suppress(StoreUnavailable):  # the master looks after it
                self.storage.pass_on([run.job.lock_key])
        self.claiming.set()

    def count(self, ended: Sequence[Run], written: Set[bytes]) -> None:
        """Count runs whose results were written, or, where they are not among these ids, refused."""
        outcomes = [(run, run.outcome if run.key in written else "fenced") for run in ended if run.outcome]
        pairs = Counter([(run.job.source, run.job.route, outcome) for run, outcome in outcomes])
        self.counts.add({Key(*pair): number for pair, number in pairs.items()})
        if self.measure is not None:
            self.measure(outcomes)

    def leave(self) -> None:
        """Messages of jobs that succeeded wait to be relayed."""
        self.has_left = True
        self.leaving.set()

    def _log_failure(self, run: Run, error: BaseException, result: Finish) -> None:
        fields = self._fields(run) | {"error.type": type(error).__name__}
        if result.state is JobState.FAILED:
            log.error("job failed for good: %s", one_line(error), extra=fields)
        else:
            log.warning("job failed, next try in %.1f s: %s", result.delay_us / 1e6, one_line(error), extra=fields)

    def _fields(self, run: Run) -> dict[str, object]:
        took = {"outcome": run.outcome, "duration_ms": round((self.monotonic() - run.started) * 1000, 1)}
        return log_fields(run.job) | took | ({} if run.span is None else run.span.ids())

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
        run.outcome = "cancelled" if phase is Phase.RUNNING else ""
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
