"""Any order of the storage's verbs, against a dictionary: after each step the rows are those of the model.

Time is virtual: the one element that stands for the database's clock is a parameter that the machine sets. Results may
come from a server that was fenced long ago, replies are lost, and batches are offered again under their token.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import fields, replace
from typing import Any, ClassVar, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import BigInteger, bindparam, select

from scheduler.job import FINISHED, TRANSITIONS, Job, JobState, NewJob, job_id
from scheduler.limits import Limit, limit_key, lock_key
from scheduler.maintenance.rescue import MAX_RESCUES, Rescue
from scheduler.membership import Membership
from scheduler.storage import Storage
from scheduler.storage.acts import VERBS, Doing
from scheduler.storage.database import Options
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.records import Act, Event, Finish, ServerRow
from scheduler.storage.tables import dead_letters, job_events, jobs, locks, metadata
from tests.conformance.stores import DAY, HOUR, job, letter
from tests.stateful.model import LIMITED, LOCKED, RESCUED, Model, Row

T = TypeVar("T")

MUST_REACH = {
    *(f"insert {outcome}" for outcome in ("NEW", "NEW claimed", "DUPLICATE", "CONFLICT", "COLLISION")),
    *(f"claim in lane {lane}" for lane in (0, 1, 2, LIMITED, LIMITED + 1, LIMITED + 2)),
    *(f"finish {state}" for state in ("SUCCEEDED", "FAILED", "SCHEDULED", "ENQUEUED")),
    *(f"requeue {act}" for act in ("DONE", "NOT_FOUND", "WRONG_STATE", "BODY_DROPPED")),
    *(f"delete {act}" for act in ("DONE", "NOT_FOUND", "WRONG_STATE")),
    *(f"run-now {act}" for act in ("DONE", "NOT_FOUND", "WRONG_STATE")),
    *(f"cancel {act}" for act in ("DONE", "NOT_FOUND", "WRONG_STATE")),
    *(f"{first} -> {second}" for first, targets in TRANSITIONS.items() for second in targets),
    *("finish fenced", "promote", "purge", "rescue", "rescue by the master"),
    *(
        "pass on",
        "pass on a forgotten lock",
        "let go of a lock",
        "a limit is full",
        "expire",
        "a claim passes a late one",
    ),
}
"""A long run that reaches less of this proves less than it says."""

EPOCH = 1_800_000_000_000_000
SERVERS = [bytes([number]) * 16 for number in (0xA1, 0xB2, 0xC3)]
HANDLERS = ["h", "H", "h "]
"""Which some databases take for equal unless told otherwise."""
KEYS = [b"a", b"A", b"a ", b"\x00", b"\xff\xfe", "é".encode(), *(b"%d" % number for number in range(6))]
BODIES = [b"{}", b"[1]"]
COLUMNS = [jobs.c[one.name] for one in fields(Row)]
RED, BLUE = lock_key("n", b"red"), lock_key("n", b"blue")
FEW = Limit(limit_key("few"), concurrency=2)
TERMS: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"lock_key": RED, "expires_us": 60_000_000},
    {"lock_key": RED},
    {"lock_key": BLUE, "limit_key": FEW.key, "expires_us": HOUR},
    {"lock_key": BLUE, "delay_us": 1000},
    {"expires_us": 60_000_000},
    {"limit_key": FEW.key},
    {"limit_key": FEW.key},
    {"limit_key": FEW.key, "delay_us": HOUR, "expires_us": 2 * HOUR},
    {"at_us": EPOCH + HOUR},
    {"lock_key": RED},
]
"""What a job has to wait for; the first of them for a worker alone."""

servers = st.sampled_from(SERVERS)
places = st.integers(0, 30)
"""Of what there is, counted from the newest."""
moments = st.sampled_from([None, -1, 0, 1])
"""A microsecond too early, to the point, one late."""
filters = st.sampled_from([HANDLERS, HANDLERS, ["h"], ["H"], ["h "], ["h ", "H"]])
limits = st.sampled_from([1, 2, 3, 1000])
delays = st.sampled_from([0, 1000, HOUR, DAY])
offers = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(HANDLERS), st.sampled_from(BODIES), st.sampled_from(TERMS)),
    min_size=1,
    max_size=5,
    unique_by=lambda offer: offer[0],
)


class VirtualClock:
    """The database's clock, as the machine sets it."""

    def __init__(self) -> None:
        self.time = EPOCH

    def options(self) -> Options:
        return Options(now=bindparam("virtual_now", type_=BigInteger(), callable_=lambda: self.time))


class Seen:
    """A membership that holds these servers for dead."""

    interval = 15.0

    def __init__(self, silent: Sequence[ServerRow]) -> None:
        self.silent = silent


class Batch:
    """What was once offered together, to be offered again after a lost reply. What is behind a job that has to wait is
    not claimed."""

    def __init__(self, offered: list[NewJob], token: int, owner: bytes, claimed: int) -> None:
        self.offered = offered
        self.token = token
        self.owner = owner
        self.claimed = min(claimed, next((k for k, one in enumerate(offered) if not one.at_once), claimed))


class Patient:
    """A store whose verbs are done again when they say so: a machine that stands still for seconds loses its
    transactions, which says nothing of the verbs."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._storage, name)
        if not callable(verb):
            return verb

        def patiently(*arguments: Any, **keywords: Any) -> Any:
            for _ in range(4):
                with contextlib.suppress(StoreUnavailable):
                    return verb(*arguments, **keywords)
            return verb(*arguments, **keywords)

        return patiently


class StorageMachine(RuleBasedStateMachine):
    """One example: a store that begins empty. A subclass says which store, and its clock.

    No rule has a precondition and no argument depends on what the store answered: where two jobs are due at once,
    a database may take either, and Hypothesis must draw the same all the same.
    """

    storage: ClassVar[Storage]
    clock: ClassVar[VirtualClock]
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        with self.storage.engine.connect() as connection:
            for table in metadata.sorted_tables:
                connection.execute(table.delete())
        self.clock.time = EPOCH
        self.model = Model(EPOCH)
        self.before: dict[bytes, Row] = {}
        self.batches: list[Batch] = []
        self.runs: list[Job] = []
        """Every job that was ever given out: the runs of it that may end at any time."""
        self.counts["examples"] += 1

    def _reached(self, *what: str) -> None:
        self.counts.update(what)

    def _tick(self) -> None:
        """Each verb sees a time of its own."""
        self._pass(1000)

    def _pass(self, microseconds: int) -> None:
        self.clock.time += microseconds
        self.model.now = self.clock.time

    @initialize(claimed=st.integers(0, len(KEYS)))
    def begin(self, claimed: int) -> None:
        """With a job of each ID: Hypothesis leaves some rules out of each example, inserts too."""
        for server in SERVERS[:2]:
            self._register(server, 1_000_000)
        offered = [job(key, handler=HANDLERS[place % 3], **TERMS[place]) for place, key in enumerate(KEYS)]
        self.batches.append(Batch(offered, 1, SERVERS[0], claimed))
        self._insert(self.batches[0], False, 0)

    # What a pod does.

    @rule(offered=offers, owner=servers, claimed=st.integers(0, 5), look_first=st.booleans(), rejects=st.integers(0, 2))
    def insert(
        self,
        offered: list[tuple[bytes, str, bytes, dict[str, Any]]],
        owner: bytes,
        claimed: int,
        look_first: bool,
        rejects: int,
    ) -> None:
        """New ones, duplicates and conflicts; some of them claimed, dead letters with them."""
        wanted = [job(key, handler=handler, body=body, **terms) for key, handler, body, terms in offered]
        batch = Batch(wanted, len(self.batches) + 1, owner, claimed)
        self.batches.append(batch)
        self._insert(batch, look_first, rejects)

    @rule(place=places, look_first=st.booleans(), collides=st.sampled_from([False, False, True]))
    def insert_again(self, place: int, look_first: bool, collides: bool) -> None:
        """The same batch after a lost reply; or its first ID's digest under another ID."""
        batch = _pick(self.batches, place)
        if collides:
            other = batch.offered[0]._replace(correlation_bytes=b"other", correlation_length=5)
            batch = Batch([other], -1, batch.owner, 0)
        self._insert(batch, look_first, 0)

    def _insert(self, batch: Batch, look_first: bool, rejects: int) -> None:
        self._tick()
        rejected = [letter(f"letter-{number}") for number in range(rejects)]
        self.model.letters |= {one.id for one in rejected}
        expected = self.model.insert(batch.offered, batch.token, batch.owner, batch.claimed)
        answers = self.storage.insert_if_absent(
            batch.offered,
            token=batch.token,
            owner=batch.owner,
            claimed=batch.claimed,
            look_first=look_first,
            rejected=rejected,
        )
        assert answers == expected
        self._pass_on(one.lock_key for one in batch.offered if not one.later)
        self._reached(*(f"insert {one.outcome.name}{' claimed' * one.claimed}" for one in expected))
        claimed = [one.id for one, answer in zip(batch.offered, answers, strict=True) if answer.claimed]
        self._hold(self.storage.held(batch.owner, claimed), claimed)

    def _hold(self, held: list[Job], ids: Sequence[bytes]) -> None:
        assert {one.key for one in held} == set(ids)
        for one in held:
            row = self.model.rows[one.key]
            assert (one.version, one.owner, row.state) == (row.version, row.owner, JobState.PROCESSING)
        self.runs += held

    @rule(
        owner=servers,
        handlers=filters,
        limit=limits,
        lane=st.sampled_from([0, 1, 2, None, None]),
        reply=st.sampled_from([True, True, True, False]),
    )
    def claim(self, owner: bytes, handlers: list[str], limit: int, lane: int | None, reply: bool) -> None:
        """From one lane, or from the last where something waits; where the reply is lost, the server forgot them."""
        self._tick()
        if lane is None:
            lane = self._last_lane(range(RESCUED + 1))
        waiting = self.model.waiting(handlers, lane)
        taken = self.storage.claim(owner, handlers, limit, lane)
        self._taken(owner, waiting, taken, limit, lane, reply)

    @rule(
        owner=servers,
        handlers=filters,
        limit=limits,
        lane=st.sampled_from([LIMITED, None, None, None]),
        reply=st.sampled_from([True, True, True, False]),
    )
    def claim_limited(self, owner: bytes, handlers: list[str], limit: int, lane: int | None, reply: bool) -> None:
        """The same of a limit's jobs, and no more than it leaves room for."""
        self._tick()
        if lane is None:
            lane = self._last_lane(range(LIMITED, LIMITED + RESCUED + 1))
        waiting = self.model.waiting(handlers, lane)
        assert FEW.concurrency is not None
        room = FEW.concurrency - self.model.running(FEW.key)
        if waiting and not room:
            self._reached("a limit is full")
        taken = self.storage.claim_limited(owner, handlers, limit, lane, FEW)
        self._taken(owner, waiting, taken, min(limit, room), lane, reply)

    def _last_lane(self, lanes: range) -> int:
        waiting = (row.lane for row in self.model.rows.values() if row.state is JobState.ENQUEUED)
        return max((lane for lane in waiting if lane in lanes), default=lanes[0])

    def _taken(self, owner: bytes, waiting: list[Row], taken: list[Job], limit: int, lane: int, reply: bool) -> None:
        """Hold a claim's answer against what waited there."""
        in_time = self.model.in_time(waiting)
        if limit and len(in_time) < len(waiting):
            self._reached("a claim passes a late one")
        self._first(in_time, [one.key for one in taken], limit)
        dues = [self.model.rows[one.key].due_at for one in taken]
        assert dues == sorted(dues)
        self.model.claim(owner, taken)
        self._reached(*[f"claim in lane {lane}"] * len(taken))
        if reply:
            self.runs += taken

    def _first(self, candidates: list[Row], taken: Sequence[bytes], limit: int) -> None:
        """As many as there are, up to the limit, and no other was due before them."""
        due = {row.id: row.due_at for row in candidates}
        assert len(set(taken)) == len(taken) == min(limit, len(candidates))
        assert set(taken) <= due.keys()
        left = [when for key, when in due.items() if key not in taken]
        assert not left or not taken or max(due[key] for key in taken) <= min(left)

    @rule(owner=servers)
    def reconcile(self, owner: bytes) -> None:
        """What its server forgot, it finds again."""
        standing = self.storage.standing(owner)
        assert sorted(standing) == sorted((row.id, row.version) for row in self.model.standing(owner))
        ids = [key for key, _ in standing]
        self._hold(self.storage.held(owner, ids), ids)

    @rule(
        ends=st.lists(
            st.tuples(
                places,
                st.sampled_from(["success", "success", "dropping", "retry", "let go", "failure", "back", "snooze"]),
                st.sampled_from(["", "", "", "", "fenced", "fenced", "owner", "version"]),
                delays,
            ),
            min_size=1,
            max_size=4,
        ),
        twice=st.booleans(),
    )
    def finish(self, ends: list[tuple[int, str, str, int]], twice: bool) -> None:
        """Results of runs that stand and of runs that were fenced, some of them twice, some of another's run."""
        if not self.runs:
            return
        self._tick()
        results: dict[tuple[bytes, int], Finish] = {}
        for place, end, flaw, delay in ends:
            standing = [] if flaw == "fenced" else [run for run in self.runs if self._stands(run)]
            run = _pick(standing or self.runs, place)
            if flaw == "owner":
                run = run._replace(owner=SERVERS[(SERVERS.index(run.owner) + 1) % len(SERVERS)])
            elif flaw == "version":
                run = run._replace(version=run.version - 1)
            results.setdefault((run.key, run.version), _result(run, end, delay))
        batch = list(results.values())
        expected = self.model.finish(batch)
        assert self.storage.finish(batch) == expected
        self._reached(*["let go of a lock"] * sum(one.lane == LOCKED and one.id in expected for one in batch))
        self._pass_on(one.lock_key for one in batch)
        self._reached(*(f"finish {one.state}" if one.id in expected else "finish fenced" for one in batch))
        if twice:
            self._tick()
            assert self.storage.finish(batch) == self.model.finish(batch)

    # What time and the master do.

    @rule(
        microseconds=st.sampled_from([1, 1_000_000, 60_000_000, HOUR, DAY]),
    )
    def time_passes(self, microseconds: int) -> None:
        self._pass(microseconds)

    @rule(limit=limits, moment=moments)
    def promote(self, limit: int, moment: int | None) -> None:
        self._promote(limit, self._first_due({JobState.SCHEDULED}, moment))

    @rule(limit=limits)
    def maintain(self, limit: int) -> None:
        self._promote(limit, 1000)
        self.the_rows_are_those_of_the_model()
        self._pass_on_forgotten()
        self.the_rows_are_those_of_the_model()
        self._purge(limit, 1000)

    @rule(limit=limits, moment=moments)
    def purge(self, limit: int, moment: int | None) -> None:
        self._purge(limit, self._first_due(FINISHED, moment))

    def _first_due(self, states: Set[JobState], moment: int | None) -> int:
        """Microseconds until the first job in one of these states is due, and `moment` more."""
        dues = [row.due_at for row in self.model.rows.values() if row.state in states]
        return 1000 if moment is None or not dues else max(0, min(dues) + moment - self.clock.time)

    def _promote(self, limit: int, later: int) -> None:
        self._pass(later)
        before = self._states()
        due = self.model.due()
        number = self.storage.promote(limit)
        after = self._states()
        moved = [row.id for row in due if after.get(row.id) != before.get(row.id)]
        assert number == len(moved)
        self._first(due, moved, limit)
        self.model.promote(moved)
        self._pass_on(self.model.rows[key].lock_key for key in moved)
        self._reached(*["promote"] * number)

    def _purge(self, limit: int, later: int) -> None:
        self._pass(later)
        over = self.model.over()
        number = self.storage.purge(limit)
        after = self._states()
        gone = [row.id for row in over if row.id not in after]
        assert number == len(gone)
        for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.DELETED):  # the next when the one before is done
            of_state = [row for row in over if row.state is state]
            taken = [row.id for row in of_state if row.id in gone]
            self._first(of_state, taken, limit)
            limit -= len(taken)
        self.model.purge(gone)
        self._reached(*["purge"] * number)

    @rule(limit=limits, moment=moments, retention=delays)
    def expire(self, limit: int, moment: int | None, retention: int) -> None:
        """What has not started in time; whoever waits for its lock is found later."""
        ends = [row.expires_at for row in self.model.rows.values() if row.expires_at is not None]
        ends = [end for end in ends if end > self.clock.time]
        self._pass(1000 if moment is None or not ends else max(0, min(ends) + moment - self.clock.time))
        before = self._states()
        late = self.model.late()
        number = self.storage.expire(retention, limit)
        after = self._states()
        gone = [row.id for row in late if after[row.id] != before[row.id]]
        assert number == len(gone) == min(limit, len(late))
        self.model.expire(gone, retention)
        self._reached(*["expire"] * number)

    @rule()
    def pass_on_forgotten(self) -> None:
        """What was expired, rescued for the last time or purged had a lock."""
        self._pass_on_forgotten()

    def _pass_on_forgotten(self) -> None:
        self._tick()
        forgotten = self.model.forgotten()
        assert self.storage.pass_on_forgotten() == len(forgotten)
        self._reached(*["pass on a forgotten lock"] * len(forgotten))
        self._pass_on(forgotten)

    @rule(owner=servers, max_rescues=st.sampled_from([0, 1, 3, 3, 3]), limit=limits)
    def rescue(self, owner: bytes, max_rescues: int, limit: int) -> None:
        """Whoever calls it: what the server does not hold stays."""
        self._tick()
        expected = self.model.rescue(owner, max_rescues, DAY, limit)
        assert self.storage.rescue(owner, max_rescues=max_rescues, retention_us=DAY, limit=limit) == expected
        self._reached(*["rescue"] * expected)

    @rule(server=servers, late=st.booleans())
    def die(self, server: bytes, late: bool) -> None:
        """A round of the master: a server that was seen silent is struck off unless it beat since, and what those
        hold that are not registered runs again."""
        self._tick()
        rows = [row for row in self.storage.servers() if row.id == server]
        if late and self.model.beat(server):
            assert self.storage.beat(server, "{}")
        elif rows:
            del self.model.servers[server]
        for owner in self.model.owners() - set(self.model.servers):
            self._reached(*["rescue by the master"] * self.model.rescue(owner, MAX_RESCUES, DAY))
        Rescue(self.storage, cast(Membership, Seen(rows)), retention=86400.0).step()

    @rule(server=servers, act=st.sampled_from(["register", "beat", "beat", "unregister"]), slow=st.booleans())
    def membership(self, server: bytes, act: str, slow: bool) -> None:
        self._tick()
        if act == "register":
            self._register(server, 15_000_000 if slow else 1_000_000)
        elif act == "beat":
            assert self.storage.beat(server, "{}") == self.model.beat(server)
        else:
            self.model.servers.pop(server, None)
            self.storage.unregister(server)

    def _register(self, server: bytes, interval: int) -> None:
        self.storage.register(server, host="h", pid=1, interval_us=interval, status="{}")
        self.model.register(server, interval, next(row.beat for row in self.storage.servers() if row.id == server))

    # What an operator does and sees.

    @rule(
        place=places,
        state=st.sampled_from([*JobState, *sorted(FINISHED), JobState.SUCCEEDED, None]),
        act=st.sampled_from(["requeue", "requeue", "requeue", "delete", "run-now", "cancel"]),
        retention=delays,
    )
    def operate(self, place: int, state: JobState | None, act: str, retention: int) -> None:
        """On a job of this state, else on any; without one, on one that is not there."""
        rows = self.model.rows.values()
        ids = [row.id for row in rows if row.state is state] or [row.id for row in rows]
        key = _pick(ids, place) if state and ids else job_id("n", b"none")
        self._tick()
        done = self.model.act(act, key, retention)
        assert self.storage.act(Doing(VERBS[act], window_us=retention), key) == done
        if done is Act.DONE:
            self._pass_on([self.model.rows[key].lock_key])
        self._reached(f"{act} {done.name}")

    @rule(handlers=filters)
    def look(self, handlers: list[str]) -> None:
        """What the reading verbs tell."""
        model, storage = self.model, self.storage
        lanes, limited, left = storage.peek(handlers, [FEW.key])
        assert lanes == tuple(bool(model.waiting(handlers, lane)) for lane in range(3))
        later = [row.due_at - model.now for row in model.rows.values() if row.state is JobState.SCHEDULED]
        places = [lane for lane in range(LIMITED, LIMITED + RESCUED + 1) if model.waiting(handlers, lane)]
        assert (limited, left) == ((max(places, default=None),), min(later) / 1e6 if later else None)
        assert storage.next_due() == (max(0.0, min(later) / 1e6) if later else None)
        assert storage.owners() == model.owners()
        counts = Counter(row.state for row in model.rows.values())
        assert storage.count_by_state() == {one: counts[one] for one in JobState}
        assert storage.backlog(2) == min(2, counts[JobState.ENQUEUED])
        live = storage.live_servers()
        assert [row.id for row, _ in live] == model.live()
        assert [master for _, master in live] == [place == 0 for place in range(len(live))]
        assert {row.id: (row.beat, row.last_heartbeat) for row in storage.servers()} == {
            server: (row.beat, row.last_heartbeat) for server, row in model.servers.items()
        }

    def _stands(self, run: Job) -> bool:
        row = self.model.rows.get(run.key)
        return row is not None and (row.version, row.owner) == (run.version, run.owner)

    # What always holds.

    def _locks(self) -> dict[bytes, bytes]:
        with self.storage.engine.connect() as connection:
            return {key: holder for key, holder in connection.execute(select(locks.c.key, locks.c.job_id))}

    def _pass_on(self, keys: Iterable[bytes | None]) -> None:
        """What the verb before has done with the locks of these keys."""
        wanted = [key for key in keys if key is not None]
        if wanted:
            self._reached(*["pass on"] * self.model.pass_on(wanted, self._locks()))

    def _states(self) -> dict[bytes, tuple[str, int]]:
        return {row.id: (row.state, row.version) for row in self._rows()}

    def _rows(self) -> list[Row]:
        with self.storage.engine.connect() as connection:
            return [Row(*row) for row in connection.execute(select(*COLUMNS))]

    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        self.counts["steps"] += 1
        found = self._rows()
        assert len({row.id for row in found}) == len(found)
        stands = {row.id: row for row in found}
        assert stands == self.model.rows
        assert self._locks() == self.model.locks
        holders = Counter(row.lock_key for row in found if row.lock_key is not None and row.holds)
        assert max(holders.values(), default=0) <= 1
        assert sum(row.state == JobState.PROCESSING and row.limit_key == FEW.key for row in found) <= 2
        self._only_transitions_of_the_table(stands)

    def _only_transitions_of_the_table(self, stands: dict[bytes, Row]) -> None:
        for key, row in stands.items():
            old = self.before.get(key)
            if old is None:
                born = (JobState.ENQUEUED, 0), (JobState.SCHEDULED, 0), (JobState.PROCESSING, 1)
                assert (row.state, row.version) in born
            elif row.lane != old.lane == LOCKED and row == replace(old, lane=row.lane):
                pass  # it was given its lock
            elif row != old:
                first, second = JobState(old.state), JobState(row.state)
                assert second in TRANSITIONS[first]
                self._reached(f"{first} -> {second}")
                assert row.version == old.version + 1
        for key in self.before.keys() - stands.keys():
            assert self.before[key].state in FINISHED
            assert self.before[key].due_at <= self.clock.time
        self.before = stands

    def teardown(self) -> None:
        """The history is that of the model too, and the dead letters; the clock has gone far by then."""
        with self.storage.engine.connect() as connection:
            told = connection.execute(
                select(job_events.c.job_id, job_events.c.kind, job_events.c.times, job_events.c.digest).order_by(
                    job_events.c.seq
                )
            ).all()
            letters = set(connection.execute(select(dead_letters.c.id)).scalars())
        events: dict[bytes, list[tuple[str, int]]] = {}
        conflicts: dict[tuple[bytes, bytes], int] = {}
        for key, kind, times, digest in told:
            if digest is None:
                events.setdefault(key, []).append((kind, times))
            else:
                conflicts[key, digest] = times
        assert events == self.model.events
        assert conflicts == self.model.conflicts
        assert letters == self.model.letters


def _pick(choice: Sequence[T], place: int) -> T:
    return choice[-1 - place % len(choice)]


def _result(run: Job, end: str, delay: int) -> Finish:
    def finish(state: JobState, **more: Any) -> Finish:
        return Finish(run.key, run.version, run.owner, state, delay, **more)

    lock, failed = {"lock_key": run.lock_key}, {"failures": 1, "events": (Event("FAILED", "Traceback"),)}
    lane = 0 if run.lock_key is None else LOCKED
    ends: dict[str, Callable[[], Finish]] = {
        "success": lambda: finish(JobState.SUCCEEDED, **lock),
        "dropping": lambda: finish(JobState.SUCCEEDED, drop_body=True, **lock),
        "retry": lambda: finish(JobState.SCHEDULED, **lock, **failed),
        "let go": lambda: finish(JobState.SCHEDULED, lane=lane, **lock, **failed),
        "failure": lambda: finish(JobState.FAILED, **lock, **failed),
        "back": lambda: finish(JobState.ENQUEUED),
        "snooze": lambda: finish(JobState.SCHEDULED, **lock),
    }
    return ends[end]()
