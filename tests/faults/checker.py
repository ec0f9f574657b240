"""Decides from a run's histories and its database which promises were broken. Promises are those of the design, I1 to
I17.

Promises: what it calls a violation is one; where what was written down leaves a legal explanation, it is none. A run in
which nothing was confirmed, no fault landed or the drain did not end is invalid, whatever else was seen.
Does not promise to see what left no trace: a moment between two readings of the table of servers, for one.

It shares no rule with the product: the transitions are written here once more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.faults.history import FOREVER, EventRow, History, Hit, JobRow, Note, Reading, Rows
from tests.faults.observer import body_digest
from tests.faults.terms import (
    BOOKED,
    CONCURRENCY,
    ECHOES,
    LIMITED,
    LOCKED,
    PULSE_BODY,
    RECURRING,
    Span,
    Turn,
    broken_ticks,
    crowds,
    overtaken,
    tick_of,
)

MOVES = {
    "SCHEDULED": {"ENQUEUED"},
    "ENQUEUED": {"PROCESSING"},
    "PROCESSING": {"SUCCEEDED", "FAILED", "SCHEDULED", "ENQUEUED"},
    "SUCCEEDED": set(),
    "FAILED": set(),
}
"""What one added to the version may mean. No operator acts in a fault run."""

FIRST = {"ENQUEUED", "PROCESSING"}
RESULTS = {"FAILED", "RESCUED"}
"""Kinds of events that end a run. A FAILED one is a failed try, whether or not there is another."""
TIMEOUT_INTERVALS = 4
RESCUE_INTERVALS = TIMEOUT_INTERVALS + 2
TOLD = 2.0
"""Seconds after the end of trust by which a handler that looks has been told to stop."""
UNHEARD = "-15"
"""The exit code of a process that SIGTERM ended, having no handler for it."""
INTERRUPTED = 0.2
"""Seconds after the end of a freeze in which a thread may note the start that it was in the middle of."""


@dataclass(frozen=True)
class Violation:
    kind: str
    promise: str
    text: str

    def __str__(self) -> str:
        return f"{self.promise} {self.kind}: {self.text}"


@dataclass
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    """Why the run proves nothing."""
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """Those that landed, by kind."""
    worst_rescue_s: float | None = None

    @property
    def exit_code(self) -> int:
        """0 passed, 1 a promise was broken, 3 the run proves nothing."""
        return 1 if self.violations else 3 if self.invalid else 0


class Checker:
    """One run's judge. `heartbeat` is that of its pods, in seconds."""

    def __init__(self, history: History, rows: Rows, heartbeat: float) -> None:
        self._history = history
        self._rows = rows
        self._heartbeat = heartbeat
        self._found: list[Violation] = []
        self._jobs = {row.key: row for row in rows.jobs}
        self._recurring = [row for row in rows.jobs if row.namespace == RECURRING]
        self._by_id: dict[str, list[JobRow]] = defaultdict(list)
        for row in rows.jobs:
            self._by_id[row.id].append(row)
        self._notes: dict[str, list[Note]] = defaultdict(list)
        for note in history.notes:
            self._notes[note.id].append(note)
        self._events: dict[str, list[EventRow]] = defaultdict(list)
        for event in rows.events:
            self._events[event.key].append(event)
        self._pids = {owner: pid for reading in history.readings for owner, (pid, _) in reading.servers.items()}
        self._pids |= {note.owner: note.pid for note in history.notes}
        self._hits: dict[int, list[Hit]] = defaultdict(list)
        for hit in history.hits:
            self._hits[hit.pid].append(hit)
        self._beats = Beats(history.readings)
        self._worst: float | None = None
        self._reexecuted = 0
        self._most = 0
        self._waited = 0

    def verdict(self) -> Verdict:
        """Look at everything."""
        self._messages()
        self._bodies()
        self._letters()
        self._doubles()
        self._ticks()
        if self._rows.drained:  # else rows changed while they were read
            for row in self._rows.jobs:
                self._transitions(row)
                self._results(row)
                self._again(row)
            self._commits()
        self._limit()
        self._locks()
        self._trust()
        self._rescues()
        self._drain()
        for crash in self._history.crashes:
            # One that was told to end while Python still started it had begun nothing, not even to listen.
            if crash.code != UNHEARD or crash.pid in self._pids.values():
                self._say("crashed", "I16", f"pod {crash.pid} ended with {crash.code}")
        landed = Counter(fault.kind for fault in self._history.faults if fault.landed)
        return Verdict(self._found, self._invalid(landed), self._counts(), dict(sorted(landed.items())), self._worst)

    def _say(self, kind: str, promise: str, text: str) -> None:
        self._found.append(Violation(kind, promise, text))

    def _invalid(self, landed: Counter[str]) -> list[str]:
        reasons = []
        if not self._history.confirmed:
            reasons.append("no message was confirmed")
        if not self._recurring:
            reasons.append("no tick made a job")
        if not self._rows.effects:
            reasons.append("no handler's transaction was committed")
        if not landed:
            reasons.append("no fault landed")
        if not self._rows.drained:
            reasons.append(f"the drain did not end: {self._left_over()}")
        return reasons

    def _left_over(self) -> str:
        unfinished = Counter(row.state for row in self._rows.jobs if row.state not in ("SUCCEEDED", "FAILED"))
        return ", ".join(f"{name} {number}" for name, number in [*unfinished.items(), *self._rows.left.items()])

    def _counts(self) -> dict[str, int]:
        confirmed_ids = {one.id for one in self._history.attempts if one.number in self._history.confirmed}
        return {
            "messages": len(self._history.attempts),
            "confirmed": len(self._history.confirmed),
            "jobs": len(self._rows.jobs),
            "dead_letters": len(self._rows.letters),
            "starts": sum(note.what == "start" for note in self._history.notes),
            "ticks": len(self._recurring),
            "limited_at_once": self._most,
            "waited_for_lock": self._waited,
            "transactions": len(self._rows.effects),
            "recovered": sum(
                all(row.namespace not in (RECURRING, ECHOES) for row in rows) and identity not in confirmed_ids
                for identity, rows in self._by_id.items()
            ),
            "reexecuted": self._reexecuted,
            "rescued": sum(event.kind == "RESCUED" for event in self._rows.events),
        }

    # Messages and rows

    def _messages(self) -> None:
        """Lost (I1)."""
        letters = set(self._rows.letters)
        for one in self._history.attempts:
            if not self._rows.drained or one.number not in self._history.confirmed:
                continue
            if one.good and one.id not in self._by_id and one.digest not in letters:
                self._say("lost", "I1", f"{one.id} was confirmed, and there is no job and no dead letter")
            elif not one.good and one.digest not in letters:
                self._say("lost", "I1", f"poison {one.number} ({one.digest}) was confirmed and is no dead letter")

    def _bodies(self) -> None:
        """Unexpected (I3)."""
        bodies: dict[tuple[str, str], set[str]] = defaultdict(set)
        for one in self._history.attempts:
            if one.good:
                bodies[one.route, one.id].add(one.digest)
        for row in self._rows.jobs:
            if row.namespace == RECURRING:
                if tick_of(row) is None or row.digest != body_digest(PULSE_BODY):
                    self._say("unexpected", "I3", f"{row.id} with the body {row.digest} is no tick's job")
            elif row.namespace == ECHOES:
                continue  # `_commits` knows them
            elif (row.namespace, row.id) not in bodies:
                self._say("unexpected", "I3", f"nobody published {row.id} for {row.namespace}")
            elif row.digest not in bodies[row.namespace, row.id]:
                self._say("unexpected", "I3", f"the body of {row.id} is none that was published under this ID")

    def _letters(self) -> None:
        """Dead letters of good messages, of nobody's, and more than were sent (I2, I3, I5)."""
        poison = Counter(one.digest for one in self._history.attempts if not one.good)
        good = {one.digest for one in self._history.attempts if one.good}
        for digest, number in Counter(self._rows.letters).items():
            if digest not in poison:
                kind = "condemned" if digest in good else "unexpected"
                self._say(kind, "I5", f"a dead letter of a body ({digest}) that is no poison")
            elif number > poison[digest]:
                self._say("doubled", "I2", f"{number} dead letters of a body sent {poison[digest]} times")

    def _doubles(self) -> None:
        """More than one row of an ID (I2), start of a version, or result of a version (I7)."""
        for (namespace, identity), number in Counter((row.namespace, row.id) for row in self._rows.jobs).items():
            if number > 1:
                self._say("doubled", "I2", f"{number} rows of {identity} in {namespace}")
        starts: dict[tuple[str, int], list[Note]] = defaultdict(list)
        for note in self._history.notes:
            if note.what == "start":
                starts[note.id, note.version].append(note)
        for (identity, version), notes in starts.items():
            if len(notes) > 1:
                owners = [note.owner[:8] for note in notes]
                self._say(
                    "doubled", "I7", f"version {version} of {identity} was started {len(notes)} times, by {owners}"
                )
        results = Counter((event.key, event.version) for event in self._rows.events if event.kind in RESULTS)
        for (key, version), number in results.items():
            if number > 1:
                self._say("doubled", "I7", f"{number} results of version {version} of {self._name(key)}")

    def _ticks(self) -> None:
        """Each tick of the recurring job has one job (I13)."""
        for text in broken_ticks(self._recurring):
            self._say("ticks", "I13", text)

    def _name(self, key: str) -> str:
        return self._jobs[key].id if key in self._jobs else key

    # One job's history

    def _transitions(self, row: JobRow) -> None:
        """Whether the versions can be walked by legal moves through all that is known of them (I7, I8, I9)."""
        known: dict[int, set[str]] = defaultdict(lambda: set(MOVES))

        def must(version: int, *states: str) -> None:
            known[version] &= set(states)

        must(1, *FIRST)
        must(row.version, row.state)
        for note in self._notes[row.id]:
            must(note.version, "PROCESSING")
        for event in self._events[row.key]:
            if event.kind in RESULTS:
                must(event.version, "PROCESSING")
                must(
                    event.version + 1, *(("ENQUEUED", "FAILED") if event.kind == "RESCUED" else ("SCHEDULED", "FAILED"))
                )
        for version, state in self._samples.get(row.key, ()):
            must(version, state)
        if max(known) > row.version:
            text = f"{row.id} was seen at version {max(known)} and stands at {row.version}"
            self._say("illegal transition", "I9", text)
            return
        possible = known[1]
        for version in range(2, row.version + 1):
            after = {target for state in possible for target in MOVES[state]}
            possible = after & known[version] if version in known else after
            if not possible:
                seen = ", ".join(f"{at}: {'/'.join(sorted(states))}" for at, states in sorted(known.items()))
                self._say("illegal transition", "I9", f"{row.id} can't come to version {version}: {seen}")
                return
        if not possible:
            self._say("illegal transition", "I9", f"{row.id} began as {row.state}")

    @property
    def _samples(self) -> dict[str, list[tuple[int, str]]]:
        if not hasattr(self, "_sampled"):
            self._sampled: dict[str, list[tuple[int, str]]] = defaultdict(list)
            for key, version, state in self._history.samples:
                self._sampled[key].append((version, state))
        return self._sampled

    def _results(self, row: JobRow) -> None:
        """A result has a run behind it, and the counts of a row are those of its history (I7)."""
        notes = self._notes[row.id]
        if row.state == "SUCCEEDED" and not any(n.what == "end" and n.version == row.version - 1 for n in notes):
            self._say(
                "result without a run", "I7", f"{row.id} SUCCEEDED at {row.version}; its handler did not end there"
            )
        kinds = Counter(event.kind for event in self._events[row.key])
        if (row.attempts, row.rescues) != (kinds["FAILED"], kinds["RESCUED"]):
            text = f"{row.id} counts {row.attempts} failures and {row.rescues} rescues, its history {dict(kinds)}"
            self._say("miscounted", "I11", text)

    def _again(self, row: JobRow) -> None:
        """A run is repeated only where its pod was hit, was told to end, or the handler raised (I7, I14, I15)."""
        notes = self._notes[row.id]
        starts = sorted((note for note in notes if note.what == "start"), key=lambda note: note.version)
        self._reexecuted += max(0, len(starts) - 1)
        ends = {event.version: event for event in self._events[row.key] if event.kind in RESULTS}
        for note in starts:
            event = ends.get(note.version)
            if event is None:
                if row.version > note.version + 1 and not self._handed_back(note, notes):
                    text = (
                        f"{row.id} version {note.version} was given back by pod {note.pid}, which nothing happened to"
                    )
                    self._say("re-executed", "I7", text)
            elif event.kind == "FAILED" and not any(n.what == "raise" and n.version == note.version for n in notes):
                self._say("failed", "I7", f"{row.id} version {note.version} is a failure and its handler did not raise")

    def _handed_back(self, start: Note, notes: Sequence[Note]) -> bool:
        if any(hit.how == "ended" for hit in self._hits[start.pid]):
            return True
        if any(row.namespace == BOOKED for row in self._by_id[start.id]):
            return True  # its transaction failed, and left nothing: `_commits` knows
        told = [n for n in notes if n.what == "cancelled" and n.version == start.version]
        return any(self._may_be_told(one) for one in told)

    def _may_be_told(self, note: Note) -> bool:
        """Whether a pod had a reason to tell a handler to stop: a hit, or a store that was away past its trust."""
        since = note.at - 2 * RESCUE_INTERVALS * self._heartbeat
        return (
            any(hit.start <= note.at and hit.end >= since for hit in self._hits[note.pid])
            or any(one.disturbs_store and one.start <= note.at and one.end >= since for one in self._history.faults)
            or self._stalled(since, note.at)
        )

    # What routes ask for

    def _limit(self) -> None:
        """No more handlers of the limited route run at once than it allows, over all pods."""
        for running in crowds(self._spans(row for row in self._rows.jobs if row.namespace == LIMITED)):
            self._most = max(self._most, len(running))
            if len(running) > CONCURRENCY:
                self._say("too many at once", "limit", ", ".join(one.name for one in running))

    def _locks(self) -> None:
        """Of the jobs with one lock one runs at a time and keeps the lock from its first run to its last; they begin in
        the order in which they came."""
        keys = {(one.route, one.id): one.key for one in self._history.attempts if one.key}
        by_key: dict[str, list[JobRow]] = defaultdict(list)
        for row in self._rows.jobs:
            if row.namespace == LOCKED:
                by_key[keys.get((row.namespace, row.id), "")].append(row)
        for key, rows in by_key.items():
            for running in crowds(self._spans(rows)):
                if len(running) > 1:
                    self._say("two at once", "lock", f"of {key}: " + ", ".join(one.name for one in running))
            for held in crowds(self._held(rows)):
                if len(held) > 1:
                    self._say("not kept", "lock", f"of {key}: by " + ", ".join(one.name for one in held))
            for turn, other in overtaken(self._turns(rows)):
                late = other.start - turn.start
                self._say("overtaken", "lock", f"of {key}: {other.name} by {turn.name}, {late:.2f} s before it")

    def _held(self, rows: Iterable[JobRow]) -> Iterator[Span]:
        """For each of these jobs, from its first run to the end of its last."""
        for row in rows:
            versions = {note.version: span for note, span in self._runs(row)}
            if versions:
                first = min(span.start for span in versions.values())
                yield versions[max(versions)]._replace(start=first, name=row.id)

    def _turns(self, rows: Iterable[JobRow]) -> Iterator[Turn]:
        for row in rows:
            starts = [note.at for note in self._notes[row.id] if note.what == "start"]
            seen_at = self._history.waiting.get(row.key, FOREVER)
            self._waited += seen_at < FOREVER
            if starts:
                yield Turn(row.created_at, min(starts), seen_at, row.id)

    def _spans(self, rows: Iterable[JobRow]) -> Iterator[Span]:
        """The runs of these jobs. One counts until its handler noted an end, its pod was killed, frozen or told to end,
        or its row was taken from it: a pod without the store is told by its own clock, and a cut alone ends nothing."""
        for row in rows:
            for _, span in self._runs(row):
                yield span

    def _runs(self, row: JobRow) -> Iterator[tuple[Note, Span]]:
        notes = self._notes[row.id]
        for note in notes:
            if note.what != "start":
                continue
            ends = [n.at for n in notes if n.version == note.version and n.what != "start"]
            ends += [hit.start for hit in self._hits[note.pid] if hit.how != "cut" and hit.end + INTERRUPTED >= note.at]
            ends += [
                event.at for event in self._events[row.key] if (event.kind, event.version) == ("RESCUED", note.version)
            ]
            until = min(ends, default=FOREVER)
            yield note, Span(note.at, until, f"{row.id} version {note.version} on pod {note.pid}")

    def _commits(self) -> None:
        """What a handler wrote and sent in the transaction of its job's success is there once if the job succeeded, and
        else not at all."""
        written = Counter(self._rows.effects)
        echoed = Counter(row.id for row in self._rows.jobs if row.namespace == ECHOES)
        for row in self._rows.jobs:
            if row.namespace != BOOKED:
                continue
            expected = int(row.state == "SUCCEEDED")
            if (number := written.pop(row.key, 0)) != expected:
                self._say("rows of a handler", "one commit", f"{row.id} is {row.state} and has {number} rows")
            if (number := echoed.pop(str(UUID(row.key)), 0)) != expected:
                self._say("messages of a handler", "outbox", f"{row.id} is {row.state} and has {number} jobs")
        for key in written:
            self._say("rows of a handler", "one commit", f"no job {key} could write the row of it")
        for identity in echoed:
            self._say("messages of a handler", "outbox", f"no job could send {identity}")

    # Trust and rescue

    def _trust(self) -> None:
        """No start on a pod that has not beaten for timeout - half an interval (I10)."""
        window = (TIMEOUT_INTERVALS - 0.5) * self._heartbeat
        for note in self._history.notes:
            if note.what != "start" or self._was_interrupted(note):
                continue
            silent_since = self._beats.silent_since(note.owner, note.at)
            if silent_since is not None and note.at - silent_since > window + 0.05:
                text = f"{note.id} version {note.version} started {note.at - silent_since:.1f} s after the last beat"
                self._say("started without trust", "I10", text)

        self._told(window)

    def _told(self, window: float) -> None:
        """A handler that looks whether it should stop learns soon that trust was lost (I10)."""
        for note in self._history.notes:
            if note.what != "end" or self._was_interrupted(note):
                continue
            silent_since = self._beats.silent_since(note.owner, note.at)
            if silent_since is not None and note.at - silent_since > window + TOLD:
                text = f"{note.id} version {note.version} ran on, {note.at - silent_since:.1f} s after the last beat"
                self._say("not told", "I10", text)

    def _was_interrupted(self, note: Note) -> bool:
        """Whether the thread may have been stopped between its look at the trust and its note. The end of a freeze is
        written down a moment after the thaw; while it lasts nobody writes a note."""
        return any(
            hit.how == "frozen" and hit.start <= note.at <= hit.end + INTERRUPTED for hit in self._hits[note.pid]
        ) or any(start <= note.at <= end + INTERRUPTED for start, end in self._history.stalls)

    def _rescues(self) -> None:
        """Only pods that were hit are robbed (I14), and it does not take long (I11)."""
        bound = RESCUE_INTERVALS * self._heartbeat
        for event in self._rows.events:
            if event.kind != "RESCUED":
                continue
            pid = self._pids.get(event.owner, 0)
            beat = self._beats.last_before(event.owner, event.at)
            hits = [hit for hit in self._hits[pid] if hit.start <= event.at and hit.end >= beat]
            if not hits:
                if not self._stalled(beat, event.at):
                    text = f"{self._name(event.key)} was taken from pod {pid}, which nothing had happened to"
                    self._say("fenced", "I14", text)
                continue
            since = self._rescue_base(self._orphaned_at(event, hits), pid, event.at)
            if since is None:
                continue
            took = event.at - since
            self._worst = max(self._worst or 0.0, took)
            if took > bound:
                text = f"{self._name(event.key)} of pod {pid} was runnable again after {took:.1f} s, not {bound:g}"
                self._say("rescued late", "I11", text)

    def _orphaned_at(self, event: EventRow, hits: Sequence[Hit]) -> float:
        """When the job was orphaned: at the hit; or, where no run of it had begun, at the latest when the hit was over,
        since a claim that was under way in a frozen pod lands after the thaw, for a server that was struck off."""
        began = min(hit.start for hit in hits)
        healed = [hit.end for hit in hits if hit.end <= event.at]
        started = any(
            n.what == "start" and n.version == event.version and n.at <= began
            for n in self._notes[self._name(event.key)]
        )
        return began if started or not healed else max(healed)

    def _rescue_base(self, hit: float, victim: int, at: float) -> float | None:
        """The moment from which nothing stood in the way of a rescue at `at`; None: something still did."""
        bases = [hit]
        for fault in self._history.faults:
            if fault.disturbs_store and hit < fault.end and fault.start <= at:
                if fault.end >= at:
                    return None
                bases.append(fault.end)
        for start, end in self._history.stalls:
            if hit < end and start <= at:
                bases.append(min(end, at))
        others = [self._well_since(pid, at) for pid in set(self._pids.values()) - {victim}]
        witnesses = [since for since in others if since is not None]
        return max(*bases, min(witnesses)) if witnesses else None

    def _well_since(self, pid: int, at: float) -> float | None:
        """Since when this pod has been registered and untouched, as of `at`; None: it is not."""
        if any(hit.start <= at < hit.end for hit in self._hits[pid]):
            return None
        registered = [self._beats.first(owner) for owner, of in self._pids.items() if of == pid]
        known = [one for one in registered if one <= at]
        return max(min(known), *(hit.end for hit in self._hits[pid] if hit.end <= at), 0.0) if known else None

    def _stalled(self, since: float, until: float) -> bool:
        return any(start <= until and end >= since for start, end in self._history.stalls)

    def _drain(self) -> None:
        """Nothing is left (I17). A drain that did not end is no proof of anything, and said elsewhere."""
        if not self._rows.drained:
            return
        for row in self._rows.jobs:
            if row.state not in ("SUCCEEDED", "FAILED"):
                self._say("left over", "I17", f"{row.id} is {row.state}")
        for name, number in self._rows.left.items():
            self._say("left over", "I17", f"{number} {name}")


class Beats:
    """What is known of each server's heartbeats, from readings of the table."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._at = [reading.at for reading in readings]
        self._readings = readings
        self._first: dict[str, float] = {}
        self._known: dict[str, list[float]] = defaultdict(list)
        for reading in readings:
            for owner, (_, beat) in reading.servers.items():
                self._first.setdefault(owner, reading.at)
                if not self._known[owner] or self._known[owner][-1] != beat:
                    self._known[owner].append(beat)

    def first(self, owner: str) -> float:
        """When the server was first seen."""
        return self._first.get(owner, FOREVER)

    def last_before(self, owner: str, at: float) -> float:
        """The last beat that is known up to then."""
        beats = self._known.get(owner, [])
        place = bisect_right(beats, at)
        return beats[place - 1] if place else 0.0

    def silent_since(self, owner: str, at: float) -> float | None:
        """The last beat before `at`, where it is proven that none came between; else None."""
        place = bisect_right(self._at, at)
        for reading in self._readings[place : place + 1]:  # the first one after it
            shown = reading.servers.get(owner)
            if shown is not None and shown[1] <= at:
                return shown[1]
        before = self._readings[place - 1] if place else None
        if before is None or before.until > at or owner not in self._known or owner in before.servers:
            return None
        struck_off = self._first[owner] < before.at
        return self.last_before(owner, at) if struck_off else None


def check(history: History, rows: Rows, heartbeat: float) -> Verdict:
    """Judge one run."""
    return Checker(history, rows, heartbeat).verdict()


def summary(violations: Iterable[Violation], most: int = 20) -> Iterator[str]:
    """Lines for a reader: the number of each kind, then the first of them."""
    listed = list(violations)
    for kind, number in sorted(Counter(one.kind for one in listed).items()):
        yield f"{number} x {kind}"
    yield from map(str, listed[:most])
