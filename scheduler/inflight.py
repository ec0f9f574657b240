"""The jobs that this process holds, each with how far it is: the map that reconcile holds against the database.

Promises: a run enters the map before its row can be ours (an INSERT or a claim is sent), and leaves it only when its
end is known to the database; so a row that stands as ours and is nowhere in the map was forgotten (I12).
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

from scheduler.context import JobContext
from scheduler.handlers import Handler
from scheduler.job import Job, NewJob
from scheduler.retry import Policy
from scheduler.tracing import RunSpan

MAX_PREFETCH = 1000
PREFETCH_SECONDS = 0.1
ENOUGH = 100
"""Runs that make a measurement; fewer do where they took `PREFETCH_SECONDS` together."""


class Phase(IntEnum):
    PENDING = 0
    """Its INSERT is under way."""
    WAITING = 1
    """Ours, waits for a worker."""
    RUNNING = 2
    ENDED = 3
    """Its result waits to be written, or is being written."""


_WAITING, _RUNNING, _ENDED = Phase.WAITING, Phase.RUNNING, Phase.ENDED


class Registration:
    """One stay of this process in the servers table; jobs of an ended one never start."""

    __slots__ = ("current", "id", "number")

    def __init__(self, server: bytes, number: int) -> None:
        self.id = server
        self.number = number
        self.current = True


UNPARSED = object()
"""The body of a run that must be parsed before its handler is called."""


class Run:
    """One job in this process. Its phase changes under the map's lock."""

    __slots__ = (
        "body",
        "cancel_hook",
        "cancelled",
        "committed",
        "context",
        "deadline",
        "ended",
        "handler",
        "job",
        "key",
        "lane",
        "outcome",
        "phase",
        "policy",
        "registration",
        "span",
        "started",
        "taken",
    )

    def __init__(self, key: bytes, registration: Registration, lane: int = 0) -> None:
        self.key = key
        self.registration = registration
        self.lane = lane
        self.phase = Phase.PENDING
        self.job: Job
        self.handler: Handler
        self.policy: Policy
        self.context: JobContext | None = None
        self.span: RunSpan | None = None
        self.cancelled = False
        self.committed = False
        """Its result is written, together with what its handler wrote."""
        self.body: object = UNPARSED
        self.taken = self.started = self.ended = 0.0
        """When it was ours, its handler was called and had returned, by the monotonic clock."""
        self.outcome = ""
        """How it ended, as it is counted; empty while it has not run."""
        self.deadline: float | None = None
        self.cancel_hook: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Ask the handler to stop."""
        self.cancelled = True
        if self.context is not None:
            self.context.cancel()
        if self.cancel_hook is not None:
            self.cancel_hook()


def claimed_job(new: NewJob, owner: bytes) -> Job:
    """The job of a row that was inserted as this server's own."""
    return Job(
        new.id,
        1,
        owner,
        new.namespace,
        new.correlation_bytes,
        new.correlation_id,
        new.route,
        new.handler,
        new.source,
        new.headers,
        new.body,
        0,
        0,
        new.retries,
        new.lock_key,
    )


class InFlight:
    """The map, and how much more it may take.

    :param workers: how many runs this process works on at once.
    """

    def __init__(self, workers: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.workers = workers
        self.lock = threading.Lock()
        self._monotonic = monotonic
        self._runs: dict[bytes, Run] = {}
        self._phases = [0, 0, 0, 0]
        self._lanes: Counter[int] = Counter()
        self._pace = 0.0
        self._counted = 0
        self._spent = 0.0

    def room(self) -> int:
        """How many more jobs may be taken: up to what the workers finish in a tenth of a second at their measured
        pace, between the workers' number and `MAX_PREFETCH`."""
        with self.lock:
            return self._room()

    @property
    def quick(self) -> float:
        """How many jobs the workers finish in `PREFETCH_SECONDS` at their measured pace."""
        return self._pace * PREFETCH_SECONDS

    def worth_claiming(self) -> bool:
        """Whether a claim would be no small one, or a worker has nothing to do: many small claims cost more."""
        with self.lock:
            room = self._room()
            return room * 2 >= self._ahead() or (self._phases[Phase.WAITING] == 0 and room > 0)

    def _ahead(self) -> int:
        return min(MAX_PREFETCH, max(self.workers, int(self._pace * PREFETCH_SECONDS)))

    def _room(self) -> int:
        ended = self._phases[Phase.ENDED]
        return max(0, min(self._ahead() - (len(self._runs) - ended), 2 * MAX_PREFETCH - ended))

    def free_workers(self) -> int:
        """How many workers have nothing to do."""
        with self.lock:
            return max(0, self.workers - (len(self._runs) - self._phases[Phase.ENDED]))

    def holds_lane(self, lane: int) -> bool:
        """Whether a job of this lane is here."""
        with self.lock:
            return self._lanes[lane] > 0

    def enter(self, keys: Iterable[bytes], registration: Registration, lane: int = 0) -> dict[bytes, Run]:
        """Enter jobs as pending; those that are here already are left out."""
        entered: dict[bytes, Run] = {}
        with self.lock:
            for key in keys:
                if key not in self._runs:
                    entered[key] = self._runs[key] = Run(key, registration, lane)
            self._phases[Phase.PENDING] += len(entered)
            self._lanes[lane] += len(entered)
        return entered

    def move(self, run: Run, phase: Phase, only_from: Phase | None = None) -> bool:
        """Change a run's phase; False: it is not in `only_from`, and nothing was changed."""
        with self.lock:
            if only_from is not None and run.phase is not only_from:
                return False
            self._phases[run.phase] -= 1
            self._phases[phase] += 1
            run.phase = phase
            return True

    def begin(self, run: Run) -> bool:
        """Change a run from waiting to running; False: it no longer waits."""
        run.started = self._monotonic()
        return self.move(run, _RUNNING, _WAITING)

    def end(self, run: Run) -> bool:
        """Change a run from running to ended; False: somebody else has ended it. Keeps the pace: a moving average of
        how long a run takes, which a lack of jobs does not slow down."""
        now = self._monotonic()
        with self.lock:
            if run.phase is not _RUNNING:
                return False
            self._phases[_RUNNING] -= 1
            self._phases[_ENDED] += 1
            run.phase = _ENDED
            run.ended = now
            self._spent += now - run.started
            self._counted += 1
            if self._counted >= ENOUGH or self._spent >= PREFETCH_SECONDS:
                pace = self.workers * self._counted / max(self._spent, 1e-6)
                self._pace = (self._pace + pace) / 2 if self._pace else pace
                self._counted, self._spent = 0, 0.0
        return True

    def make_wait(self, runs: Sequence[Run]) -> None:
        """Change pending runs to waiting."""
        now = self._monotonic()
        with self.lock:
            for run in runs:
                run.phase = Phase.WAITING
                run.taken = now
            self._phases[Phase.PENDING] -= len(runs)
            self._phases[Phase.WAITING] += len(runs)

    def leave(self, runs: Sequence[Run]) -> None:
        """Take runs out whose rows are no longer ours."""
        with self.lock:
            for run in runs:
                if self._runs.get(run.key) is run:
                    del self._runs[run.key]
                    self._phases[run.phase] -= 1
                    self._lanes[run.lane] -= 1

    def number(self, phase: Phase) -> int:
        """How many runs are in this phase now."""
        return self._phases[phase]

    def snapshot(self) -> dict[bytes, Run]:
        """A copy of the map."""
        with self.lock:
            return dict(self._runs)

    def in_phase(self, phase: Phase) -> list[Run]:
        """The runs that are in this phase now."""
        with self.lock:
            return [run for run in self._runs.values() if run.phase is phase]

    def __contains__(self, key: bytes) -> bool:
        with self.lock:
            return key in self._runs

    def __len__(self) -> int:
        return len(self._runs)
