"""What routes may ask for beyond a run: locks, limits, delays, expiry, ticks, one commit, messages of their own.

A part of the checker. It holds each against the rows and the runs: of the jobs with one lock one holds it and one runs,
and they begin as they came; no more run than a limit says; none starts before it is due, or first after it expired; a
tick is one job or is told as passed over; what a handler wrote and sent stands exactly if its job succeeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from datetime import datetime
from typing import TYPE_CHECKING

from scheduler.inflight import Run
from scheduler.job import FINISHED, JobState
from tests.simulation.profile import CONCURRENCY, DELAY, EVERY, EXPIRES, TIMEOUT

if TYPE_CHECKING:
    from tests.simulation.checker import Change, Claim
    from tests.simulation.pods import SimPod
    from tests.simulation.world import World

LOCKED = 3
"""The lane of jobs that wait for their lock."""
TICKS = "recurring:tick"
STEP = int(EVERY * 1e6)
WAITING = (JobState.ENQUEUED, JobState.SCHEDULED)


def gets_lock(old: Change, new: Change) -> bool:
    """Whether a row changed by nothing but the lock that it was given."""
    return old.lane == LOCKED != new.lane and (old.version, old.state) == (new.version, JobState.ENQUEUED)


class Terms:
    """One run's.

    :param rows: the checker's, as they stand.
    :param known: the messages that have become jobs.
    """

    def __init__(
        self,
        world: World,
        rows: dict[bytes, Change],
        known: Set[tuple[str, bytes]],
        violated: Callable[[str, str], None],
    ) -> None:
        self.reached: Counter[str] = Counter()
        self._world = world
        self._rows = rows
        self._known = known
        self._violated = violated
        self._claimed: set[bytes] = set()
        self._begun: set[bytes] = set()
        self._operated: set[bytes] = set()
        self._arrived: dict[bytes, dict[bytes, int]] = {}
        """By lock: the due time that each job came with, in the order in which they came."""
        self._inside: dict[Run, tuple[SimPod, float]] = {}
        """Whose handlers have not returned, of those with a lock."""
        self._taken: set[Claim] = set()
        """Runs whose jobs somebody else took, or that their own pod gave back."""
        self._successes: Counter[bytes] = Counter()
        self._effects: Counter[bytes] = Counter()
        self._ticks: set[int] = set()
        self._made: list[int] = []
        """Ticks whose jobs were made since the last step."""
        self._next: int | None = None

    # Rows.

    def inserted(self, new: Change) -> None:
        key = (new.namespace, new.correlation)
        if new.namespace == TICKS:
            self._ticked(new)
        self._begun.discard(new.id)
        self._operated.discard(new.id)
        self._claimed.discard(new.id)
        if new.state == JobState.PROCESSING:
            self._claimed.add(new.id)
        parent = self._world.traffic.parents.get(key)
        if parent is not None:
            self.reached["messages of jobs"] += 1
            if not self._successes[parent]:
                self._violated("outbox", f"{key} was sent, and its job has not succeeded")
        match self._world.traffic.terms.get(key, ""):
            case "locked":
                asked = new.lock_key is not None and new.lane == LOCKED
                self._arrived.setdefault(new.lock_key or b"", {})[new.id] = new.due_at
            case "limited":
                asked = new.limit_key is not None and new.state == JobState.ENQUEUED
            case "delayed":
                self.reached["delays"] += 1
                asked = new.state == JobState.SCHEDULED and new.due_at - new.clock >= DELAY * 1e6
            case "expiring":
                asked = new.expires_at == new.clock + EXPIRES * 1e6
            case _:
                asked = new.lock_key is None and new.limit_key is None and new.expires_at is None
        if not asked:
            self._violated("terms", f"{key} was inserted without what its route asks for")

    def given(self, new: Change) -> None:
        """A row was given its lock: no other came before it, and no other has it."""
        self.reached["locks given"] += 1
        for row in self._of_lock(new):
            if row.state == JobState.ENQUEUED and row.lane == LOCKED and row.due_at < new.due_at:
                self._violated("order", f"{_name(new.id)} was given its lock before {_name(row.id)}")
        self._held_once(new)

    def _of_lock(self, new: Change) -> list[Change]:
        return [row for row in self._rows.values() if row.lock_key == new.lock_key and row.id != new.id]

    def _held_once(self, new: Change) -> None:
        if _holds(new):
            for row in self._of_lock(new):
                if _holds(row):
                    self._violated("lock", f"{_name(new.id)} and {_name(row.id)} have the same lock")

    def moved(self, old: Change, new: Change, *, operated: bool) -> None:
        """A row changed."""
        if operated:
            self._operated.add(new.id)
        if new.lock_key is not None:
            self._held_once(new)
        taken = operated or new.rescues != old.rescues or new.state == JobState.ENQUEUED
        if old.state == JobState.PROCESSING and old.owner is not None and taken:
            self._taken.add((old.id, old.version, old.owner))
        if new.state == JobState.PROCESSING:
            self._starts(new)
        elif new.state == JobState.DELETED and not operated:
            self.reached["expired"] += 1
            late = old.expires_at is not None and old.expires_at <= new.clock and old.state in WAITING
            if not late or new.id in self._claimed:
                self._violated("expiry", f"{_name(new.id)} was deleted, and it had not expired")
        elif new.state == JobState.SUCCEEDED:
            self._successes[new.id] += 1
            if self._world.traffic.terms.get((new.namespace, new.correlation)) == "transactional":
                self.reached["transactions"] += 1
                self._wrote_once(new.id)

    def _starts(self, new: Change) -> None:
        if new.limit_key is not None:
            same = (row for row in self._rows.values() if row.limit_key == new.limit_key)
            running = sum(row.state == JobState.PROCESSING for row in same)
            self.reached["limits reached"] += running == CONCURRENCY
            if running > CONCURRENCY:
                self._violated("limit", f"{running} jobs run of a route that allows {CONCURRENCY}")
        if new.id not in self._claimed and new.expires_at is not None and new.expires_at <= new.clock:
            late = (new.clock - new.expires_at) / 1e6
            self._violated("expiry", f"{_name(new.id)} was first taken {late:.3f} s after it expired")
        self._claimed.add(new.id)

    # Runs.

    def started(self, pod: SimPod, run: Run) -> None:
        """A handler is about to be called."""
        job = run.job
        if job.lock_key is not None:
            for other, (where, since) in list(self._inside.items()):
                if not where.alive:
                    del self._inside[other]
                elif other.job.lock_key == job.lock_key:
                    self._overlaps(run, other, since)
            self._inside[run] = (pod, self._world.now)
            if job.key not in self._begun:
                self._begins(job.key, job.lock_key)
        self._begun.add(job.key)

    def _overlaps(self, run: Run, other: Run, since: float) -> None:
        """Another is still in a handler of the same lock: only if its job was taken from it."""
        claim = (other.job.key, other.job.version, other.job.owner)
        if claim in self._taken or self._world.now - since >= TIMEOUT:
            self.reached["overlaps that are allowed"] += 1
        else:
            self._violated("lock", f"{_name(run.key)} runs beside {_name(other.key)}, which has the same lock")

    def _begins(self, key: bytes, lock: bytes) -> None:
        arrived = self._arrived.get(lock, {})
        for earlier, due in arrived.items():
            if earlier == key:
                break
            row = self._rows.get(earlier)
            waits = row is not None and row.state not in FINISHED and earlier not in self._begun
            if waits and due < arrived[key] and not {earlier, key} & self._operated:
                self._violated("order", f"{_name(key)} began before {_name(earlier)}, which came before it")

    def returned(self, run: Run) -> None:
        """A handler returned, whatever its pod makes of it."""
        self._inside.pop(run, None)

    # What handlers wrote and sent.

    def wrote(self, effect: Change) -> None:
        self._effects[effect.id] += 1

    def _wrote_once(self, key: bytes) -> None:
        if self._effects[key] != self._successes[key]:
            self._violated(
                "one commit",
                f"{_name(key)} succeeded {self._successes[key]} times, and {self._effects[key]} rows were written",
            )

    def left(self, source: str, body: bytes) -> None:
        """A message was deleted from the outbox."""
        self.reached["messages relayed"] += 1
        if (source, body) not in self._world.relayed:
            self._violated("outbox", f"a message to {source} was deleted before it was confirmed")

    # Ticks.

    def _ticked(self, new: Change) -> None:
        _, _, instant = new.correlation.decode().partition("@")
        tick = round(datetime.fromisoformat(instant).timestamp() * 1e6)
        if tick in self._ticks or tick % STEP:
            self._violated("I13", f"the tick {instant} has two jobs, or there is none")
        if tick > new.clock:
            self._violated("I13", f"the tick {instant} was fired early")
        self._ticks.add(tick)
        self._made.append(tick)

    def stepped(self, step: Change) -> None:
        """The next tick was set: all before it have jobs, which are committed with it, or are told as passed over."""
        first, following, passed = step.due_at, step.expires_at, step.attempts
        assert following is not None
        self.reached["ticks"] += len(self._made)
        self.reached["ticks passed over"] += passed
        if self._next not in (None, first):
            self._violated("I13", f"the next tick was {self._next}, and is {first}")
        if not all(first <= tick < following for tick in self._made):
            self._violated("I13", f"ticks {self._made} were fired with the step from {first} to {following}")
        asked = (following - first) // STEP
        if len(self._made) + passed != asked and not step.state.startswith("more than"):
            self._violated("I13", f"of {asked} ticks {len(self._made)} have jobs and {passed} were passed over")
        self._made, self._next = [], following

    # The end.

    def finish(self) -> None:
        for key in self._effects:
            self._wrote_once(key)
        for sent, parent in self._world.traffic.parents.items():
            if self._successes[parent] and sent not in self._known:
                self._violated("outbox", f"{sent} never arrived, and its job succeeded")
        if self._made:
            self._violated("I13", "jobs of ticks were made without a step to the next")


def _holds(row: Change) -> bool:
    return row.state == JobState.PROCESSING or (row.state in WAITING and row.lane != LOCKED)


def _name(key: bytes) -> str:
    return key.hex()[:8]
