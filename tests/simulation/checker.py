"""Holds what happened against the promises: every ack, every start, every change of a row, and the end.

It reads the history that the database's triggers wrote, in the order of the commits, and knows of the pods only when
they died, were frozen or cut off. Where it needs an identity it asks the columns, not the product's digest.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from scheduler.inflight import Run
from scheduler.job import FINISHED, TRANSITIONS, JobState
from scheduler.outbox import PREFIX
from tests.simulation.terms import TICKS, Terms, gets_lock
from tests.simulation.traffic import Published

if TYPE_CHECKING:
    from tests.simulation.pods import SimPod
    from tests.simulation.world import World

OPERATOR = 0
TIMEOUT_INTERVALS = 4
MAX_RESCUES = 3
"""As the promises say, whatever the product does."""
SLACK = 0.5
"""Seconds that calls and turns may add to a bound."""

CANCELLING = 3.0
"""Seconds from the end of trust until all that runs is cancelled: a turn of the main thread."""

Claim = tuple[bytes, int, bytes]


class Change(NamedTuple):
    """A line of the history."""

    seq: int
    at: float
    """Virtual."""
    clock: int
    """The database's."""
    writer: int
    op: str
    id: bytes
    version: int
    state: str
    owner: bytes | None
    attempts: int
    rescues: int
    due_at: int
    namespace: str
    correlation: bytes
    body: bytes | None
    lane: int
    lock_key: bytes | None
    limit_key: bytes | None
    expires_at: int | None


class Checker:
    """One run's checks."""

    def __init__(self, world: World, raw: sqlite3.Connection) -> None:
        self.world = world
        self.violations: list[tuple[str, str]] = []
        self.acks = 0
        self.jobs = 0
        self.rescues = 0
        self.worst_rescue = 0.0
        """Virtual seconds from a death, or the last disturbance after it, until its last orphan was rescued."""
        self._raw = raw
        self._seq = 0
        self._rows: dict[bytes, Change] = {}
        self._known: set[tuple[str, bytes]] = set()
        self._letters: set[tuple[str, bytes]] = set()
        self._claims: Counter[Claim] = Counter()
        self._starts: Counter[Claim] = Counter()
        self._started_at: dict[Claim, float] = {}
        self._done: set[Claim] = set()
        self._undone: set[Claim] = set()
        self._servers: set[bytes] = set()
        self.terms = Terms(world, self._rows, self._known, self.violated)

    def violated(self, promise: str, text: str) -> None:
        """A promise is broken."""
        self.world.trace(lambda: f"VIOLATION {promise}: {text}")
        self.violations.append((promise, f"at {self.world.now:.3f}: {text}"))

    def acked(self, published: Published, by: str) -> None:
        """A broker was told that a message may go: what it became must be committed by now (I1)."""
        self.acks += 1
        self.read()
        self._has_place(published, f"{by} acked")

    def _has_place(self, published: Published, what: str) -> None:
        letter = (published.source, published.body)
        if not ((published.is_good and published.key in self._known) or letter in self._letters):
            self.violated("I1", f"{what} {published.correlation}, which has neither a row nor a dead letter")

    def started(self, pod: SimPod, run: Run) -> None:
        """A handler is about to be called."""
        self.read()
        job = run.job
        claim = (job.key, job.version, job.owner)
        self._starts[claim] += 1
        self._started_at[claim] = self.world.now
        if self._starts[claim] > self._claims[claim]:
            self.violated("I7", f"{pod.label} started {_name(job.key)} version {job.version} once more")
        if job.owner not in pod.registrations:
            self.violated("I7", f"{pod.label} started {_name(job.key)}, which another claimed")
        self.terms.started(pod, run)
        self.called(pod, run)

    def called(self, pod: SimPod, run: Run) -> None:
        """A handler's own code begins: of a transactional one that is once its transaction is open."""
        until = pod.beats[-1] + (TIMEOUT_INTERVALS - 0.5) * pod.interval
        if self.world.now > until:
            self.violated(
                "I10", f"{pod.label} started {_name(run.job.key)} {self.world.now - until:.3f} s after its trust"
            )

    def ended(self, pod: SimPod, run: Run, error: BaseException | None) -> None:
        """A handler ended, and its pod took note."""
        untrusted = pod.beats[-1] + (TIMEOUT_INTERVALS - 0.5) * pod.interval
        stopped = any(kind != "cut" and end > untrusted for _, end, kind in pod.hits)
        if self.world.now > untrusted + CANCELLING and not run.cancelled and not stopped:
            self.violated("I10", f"{pod.label} ran {_name(run.job.key)} on without trust, and did not cancel it")
        if error is None:
            self.done(run)

    def done(self, run: Run) -> None:
        """A handler has done its work well, and its success may be written."""
        self._done.add((run.job.key, run.job.version, run.job.owner))

    def undone(self, run: Run) -> None:
        """Whether a transactional handler's work was committed is not known to its pod."""
        self._undone.add((run.job.key, run.job.version, run.job.owner))

    # The history.

    def read(self) -> None:
        """Check what was committed since the last look."""
        for line in self._raw.execute("SELECT * FROM sim_history WHERE seq > ? ORDER BY seq", (self._seq,)).fetchall():
            change = Change(*line)
            self._seq = change.seq
            match change.op:
                case "insert":
                    self._inserted(change)
                case "update":
                    self._updated(change)
                case "delete":
                    self._deleted(change)
                case "register":
                    self._servers.add(change.id)
                case "strike off":
                    self._struck_off(change)
                case "effect":
                    self.terms.wrote(change)
                case "step":
                    self.terms.stepped(change)
                case "letter":
                    self._letters.add((change.namespace, change.body or b""))
                case _:
                    self._acked_locally(change)

    def _inserted(self, new: Change) -> None:
        if new.id in self._rows:
            self.violated("I2", f"{_name(new.id)} stands twice")
        key = (new.namespace, new.correlation)
        if any((row.namespace, row.correlation) == key for row in self._rows.values() if row.id != new.id):
            self.violated("I2", f"{key} has two rows")
        if new.namespace != TICKS and new.body not in self.world.traffic.bodies.get(key, ()):
            self.violated("I3", f"nobody published the body of {key}")
        waits = new.state in (JobState.ENQUEUED, JobState.SCHEDULED) and (new.version, new.owner) == (0, None)
        claimed = (new.state, new.version) == (JobState.PROCESSING, 1) and new.owner is not None
        if not waits and not claimed:
            self.violated("I9", f"{_name(new.id)} was born as {new.state}, version {new.version}")
        self.jobs += key not in self._known
        self._known.add(key)
        self._rows[new.id] = new
        self._claim(new)
        self.terms.inserted(new)

    def _claim(self, new: Change) -> None:
        if new.state == JobState.PROCESSING and new.owner is not None:
            self._claims[new.id, new.version, new.owner] += 1

    def _updated(self, new: Change) -> None:
        old = self._rows.get(new.id, new)
        self._rows[new.id] = new
        if gets_lock(old, new):
            self.terms.given(new)
            return
        self.terms.moved(old, new, operated=new.writer == OPERATOR)
        if new.version != old.version + 1:
            self.violated("I7", f"{_name(new.id)} went from version {old.version} to {new.version}")
        if new.state not in TRANSITIONS[JobState(old.state)]:
            self.violated("I9", f"{_name(new.id)} went from {old.state} to {new.state}")
        if new.body != old.body and new.body is not None:
            self.violated("I3", f"the body of {_name(new.id)} changed")
        operated = new.writer == OPERATOR
        if old.state in (JobState.SUCCEEDED, JobState.DELETED, JobState.FAILED) and not operated:
            self.violated("I8", f"{_name(new.id)} left {old.state}")
        if old.state == JobState.SCHEDULED and not operated and old.due_at > new.clock:
            self.violated("I9", f"{_name(new.id)} was promoted {(old.due_at - new.clock) / 1e6:.3f} s early")
        if old.state == JobState.PROCESSING and not operated:
            self._left(old, new)
        self._claim(new)

    def _left(self, old: Change, new: Change) -> None:
        """A running job's row moved on."""
        assert old.owner is not None
        claim = (old.id, old.version, old.owner)
        if new.rescues != old.rescues:
            self._rescued(old, new)
            return
        owner = self.world.pod_of(old.owner)
        if owner is None or owner.writer != new.writer:
            self.violated("I7", f"{_name(old.id)}: a result was recorded by who does not own it")
            return
        if new.state == JobState.SUCCEEDED and claim not in self._done:
            self.violated("I7", f"{_name(old.id)} succeeded without a run that did")
        if new.state in (JobState.SCHEDULED, JobState.FAILED) and claim not in self._started_at:
            self.violated("I7", f"{_name(old.id)} failed without a run")
        if (
            new.state == JobState.ENQUEUED
            and claim in self._started_at
            and claim not in self._undone
            and not (owner.draining or owner.hits or _lost_trust(owner, self._started_at[claim], new.at))
        ):
            self.violated("I7", f"{_name(old.id)} was handed back by {owner.label}, which nothing had hit")

    def _rescued(self, old: Change, new: Change) -> None:
        assert old.owner is not None
        self.rescues += 1
        if new.rescues != old.rescues + 1 or new.attempts != old.attempts:
            self.violated("I11", f"a rescue of {_name(old.id)} was not counted once, or as a failure")
        wanted = JobState.FAILED if old.rescues >= MAX_RESCUES else JobState.ENQUEUED
        if new.state != wanted:
            self.violated("I11", f"{_name(old.id)} is {new.state} after rescue {new.rescues}")
        if old.owner in self._servers:
            self.violated("I11", f"{_name(old.id)} was taken from a server that is registered")
        owner = self.world.pod_of(old.owner)
        if owner is None or owner.crashed_at is None:
            return
        orphaned = max(owner.crashed_at, old.at)
        took = new.at - self.world.calm_since(orphaned, owner.interval)
        self.worst_rescue = max(self.worst_rescue, took)
        if took > (TIMEOUT_INTERVALS + 2) * owner.interval + SLACK:
            self.violated("I11", f"{_name(old.id)} was an orphan for {took:.3f} s")

    def _deleted(self, gone: Change) -> None:
        row = self._rows.pop(gone.id, gone)
        if row.state not in FINISHED or row.due_at > gone.clock:
            self.violated("I1", f"{_name(gone.id)} was purged as {row.state}, before its time")

    def _struck_off(self, gone: Change) -> None:
        self._servers.discard(gone.id)
        pod = self.world.pod_of(gone.id)
        if pod is None or pod.writer == gone.writer or pod.gone_at <= gone.at:
            return
        beat = pod.beats[bisect_right(pod.beats, gone.at) - 1]
        hit = sum(max(0.0, min(end, gone.at) - max(start, beat)) for start, end, _ in pod.hits)
        # Two missed beats make it silent, and where the clock jumped or the store was away that is enough.
        if hit < 0.9 * pod.interval:
            self.violated("I14", f"{pod.label} was struck off alive, {gone.at - beat:.3f} s after its beat")

    def _acked_locally(self, gone: Change) -> None:
        place = gone.namespace, gone.body or b""
        if gone.namespace.startswith(PREFIX):
            self.terms.left(gone.namespace.removeprefix(PREFIX), place[1])
            return
        self.acks += 1
        published = self.world.traffic.sent.get(place) or self.world.local.pop(place)
        self._has_place(published, "the local queue was told of")

    # The end.

    def finish(self, published: list[Published]) -> None:
        """Faults have ended and traffic has drained."""
        self.read()
        for one in published:
            self._has_place(one, "lost:")
        self.terms.finish()
        for row in self._rows.values():
            plan = self.world.traffic.plan(row.namespace, row.correlation)
            if row.state not in FINISHED:
                self.violated("I17", f"{_name(row.id)} is {row.state} in the end")
            if row.state == JobState.SUCCEEDED and plan.kills:
                self.violated("I11", f"{_name(row.id)} succeeded and kills its pod")
            fails = plan.failures or plan.hangs or plan.broken
            if row.state == JobState.FAILED and row.rescues <= MAX_RESCUES and not fails:
                self.violated("I11", f"{_name(row.id)} is FAILED after {row.rescues} rescues and no failure")

    def unfinished(self) -> dict[str, int]:
        """How many rows are not finished, by state."""
        self.read()
        found: defaultdict[str, int] = defaultdict(int)
        for row in self._rows.values():
            if row.state not in FINISHED:
                found[row.state] += 1
        return dict(found)


def _lost_trust(pod: SimPod, since: float, until: float) -> bool:
    """Whether for a while in that time too much had passed since the pod's last good beat."""
    trust = (TIMEOUT_INTERVALS - 0.5) * pod.interval
    following = [*pod.beats[1:], until]
    return any(
        beat + trust < min(after, until) and after > since for beat, after in zip(pod.beats, following, strict=True)
    )


def _name(key: bytes) -> str:
    return key.hex()[:8]
