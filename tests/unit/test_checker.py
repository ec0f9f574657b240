"""The judge of fault runs is judged: a good history passes, one of each kind of violation is found, and nothing proves
nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.checker import Verdict, check
from tests.faults.history import (
    NEMESIS,
    Attempt,
    Crash,
    EventRow,
    Fault,
    History,
    Hit,
    JobRow,
    Journal,
    Note,
    Reading,
    Rows,
    read,
)
from tests.faults.observer import body_digest
from tests.faults.terms import BOOKED, ECHOES, LIMITED, LOCKED, PULSE_BODY, RECURRING

HEARTBEAT = 2.0
TICKS = range(10, 30)
ECHO = UUID("cc" * 16)
"""Of the job that wrote and sent."""
A, B = "aa" * 16, "bb" * 16
"""Two servers, of the pods 1 and 2."""


def note(what: str, identity: str, version: int, at: float, owner: str = A) -> Note:
    return Note(what, identity, version, owner, 1 if owner == A else 2, 7, at)


def row(identity: str, version: int, state: str = "SUCCEEDED", **more: object) -> JobRow:
    plain = JobRow(f"key-{identity}", identity, "tasks", version, state, A, 0, 0, f"body-{identity}")
    return replace(plain, **more)  # type: ignore[arg-type]


def pulse(second: int) -> str:
    return f"pulse@1970-01-01T00:00:{second:02}Z"


def tick(second: int, version: int = 2, **more: object) -> JobRow:
    """The job of a tick."""
    return row(pulse(second), version, namespace=RECURRING, digest=body_digest(PULSE_BODY), **more)


class Run:
    """A run in which all went well: five jobs, one of which wrote and sent with its success, a poison, a tick's job
    each second, a pod that was killed at 20 and its job run again."""

    def __init__(self) -> None:
        names = ["one", "two", "again", "retried"]
        self.history = History(
            attempts=[Attempt(number, name, f"body-{name}", True) for number, name in enumerate(names)]
            + [Attempt(9, "booked", "body-booked", True, route=BOOKED), Attempt(10, "poison", "body-poison", False)],
            confirmed={0, 1, 2, 3, 9, 10},
            notes=[
                note("start", "one", 1, 10.0),
                note("end", "one", 1, 10.1),
                note("start", "two", 2, 11.0, B),
                note("end", "two", 2, 11.1, B),
                note("start", "again", 1, 19.0),
                note("start", "again", 3, 29.0, B),
                note("end", "again", 3, 29.1, B),
                note("start", "retried", 1, 12.0, B),
                note("raise", "retried", 1, 12.1, B),
                note("start", "retried", 4, 13.0, B),
                note("end", "retried", 4, 13.1, B),
                note("start", "booked", 1, 13.0, B),
                note("end", "booked", 1, 13.1, B),
                note("start", str(ECHO), 1, 13.2, B),
                note("end", str(ECHO), 1, 13.3, B),
            ],
            faults=[Fault(1, "kill-pod", True, 20.0, 22.0, False)],
            hits=[Hit(1, "dead", 20.0)],
            readings=[self.reading(at / 4) for at in range(200)],
        )
        self.rows = Rows(
            jobs=[
                row("one", 2),
                row("two", 3, owner=B),
                row("again", 4, owner=B, rescues=1),
                row("retried", 5, owner=B, attempts=1),
                row("booked", 2, owner=B, namespace=BOOKED, key=ECHO.hex),
                row(str(ECHO), 2, owner=B, namespace=ECHOES),
            ],
            events=[
                EventRow("key-again", "RESCUED", 1, A, 28.5),
                EventRow("key-retried", "FAILED", 1, B, 12.1),
            ],
            letters=["body-poison"],
            effects=[ECHO.hex],
            drained=True,
        )
        self._tick()

    def _tick(self) -> None:
        """Those from 20 to 28 were made by the next master."""
        for second in TICKS:
            self.history.notes.append(note("start", pulse(second), 1, second + 0.9 if second < 20 else 28.7, B))
            self.history.notes.append(note("end", pulse(second), 1, second + 0.91 if second < 20 else 28.8, B))
            self.rows.jobs.append(tick(second))

    @staticmethod
    def reading(at: float) -> Reading:
        """Both beat every 2 s; A's last beat is at 18, and it is struck off at 28."""
        servers = {B: (2, at // 2 * 2)}
        if at < 28:
            servers[A] = (1, min(at // 2 * 2, 18.0))
        return Reading(at, at, servers)

    def verdict(self) -> Verdict:
        return check(self.history, self.rows, HEARTBEAT)

    def change(self, name: str, **more: object) -> None:
        """Change a job's row."""
        self.rows.jobs = [replace(one, **more) if one.id == name else one for one in self.rows.jobs]  # type: ignore[arg-type]

    def job(self, name: str, start: float, end: float, owner: str = A, *, key: str = "", **more: object) -> None:
        """A job of the limited route that ran once, or, with a key, of the locked one."""
        route, number = LOCKED if key else LIMITED, len(self.history.attempts) + 100
        self.history.attempts.append(Attempt(number, name, f"body-{name}", True, 0.0, route, key))
        self.history.notes += [note("start", name, 1, start, owner), note("end", name, 1, end, owner)]
        self.rows.jobs.append(row(name, 2, namespace=route, **more))

    def job_again(
        self, name: str, start: float, end: float, *, rescued: float, late: float | None = None, key: str = ""
    ) -> None:
        """A job that the pod of A began at 19.5, and B ended. A's handler ended late, or never."""
        self.job(name, start, end, B, key=key, rescues=1)
        self.change(name, version=4)
        self.history.notes = [replace(one, version=3) if one.id == name else one for one in self.history.notes]
        self.history.notes.append(note("start", name, 1, 19.5))
        if late is not None:
            self.history.notes.append(note("end", name, 1, late))
        self.rows.events.append(EventRow(f"key-{name}", "RESCUED", 1, A, rescued))

    def turn(self, name: str, key: str, created: float, start: float, *, seen: float | None = None) -> None:
        """A job with a lock that ran for half a second."""
        self.job(name, start, start + 0.5, B, key=key, created_at=created)
        if seen is not None:
            self.history.waiting[f"key-{name}"] = seen


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_good_run_passes(run: Run) -> None:
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.invalid == []
    assert verdict.exit_code == 0
    assert verdict.worst_rescue_s == 8.5
    assert verdict.faults == {"kill-pod": 1}
    assert verdict.counts == {
        "messages": 6,
        "confirmed": 6,
        "jobs": 26,
        "dead_letters": 1,
        "starts": 28,
        "ticks": 20,
        "limited_at_once": 0,
        "waited_for_lock": 0,
        "transactions": 1,
        "recovered": 0,
        "reexecuted": 2,
        "rescued": 1,
    }


def test_what_was_not_confirmed_and_is_there_is_recovered(run: Run) -> None:
    run.history.confirmed.discard(0)
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.counts["recovered"] == 1


def test_what_was_not_confirmed_may_be_missing(run: Run) -> None:
    run.history.attempts.append(Attempt(11, "unconfirmed", "body", True))
    assert run.verdict().violations == []


def _lost(run: Run) -> None:
    run.rows.jobs.pop(0)


def _lost_poison(run: Run) -> None:
    run.rows.letters.clear()


def _nobodys(run: Run) -> None:
    run.rows.jobs.append(row("nobodys", 1, "ENQUEUED"))


def _other_body(run: Run) -> None:
    run.change("one", digest="another")


def _body_of_another(run: Run) -> None:
    run.change("one", digest="body-two")


def _condemned(run: Run) -> None:
    run.rows.letters.append("body-one")


def _strange_letter(run: Run) -> None:
    run.rows.letters.append("body-of-nobody")


def _two_letters(run: Run) -> None:
    run.rows.letters.append("body-poison")


def _two_rows(run: Run) -> None:
    run.rows.jobs.append(row("one", 2, key="another"))


def _started_twice(run: Run) -> None:
    run.history.notes.append(note("start", "one", 1, 10.05, B))


def _two_results(run: Run) -> None:
    run.rows.events.append(EventRow("key-retried", "FAILED", 1, B, 12.2))
    run.change("retried", attempts=2)


def _left_succeeded(run: Run) -> None:
    """A stale rescue took a finished job, which ran again."""
    run.history.notes += [note("start", "one", 4, 31.0, B), note("end", "one", 4, 31.1, B)]
    run.rows.events.append(EventRow("key-one", "RESCUED", 2, A, 30.0))
    run.change("one", version=5, rescues=1)


def _version_jumped(run: Run) -> None:
    run.change("one", version=3)


def _went_back(run: Run) -> None:
    run.history.samples.append(("key-one", 3, "ENQUEUED"))


def _seen_otherwise(run: Run) -> None:
    run.history.samples.append(("key-again", 2, "SCHEDULED"))


def _no_run(run: Run) -> None:
    run.history.notes = [one for one in run.history.notes if one.id != "one"]


def _miscounted(run: Run) -> None:
    run.change("again", rescues=0)


def _without_cause(run: Run) -> None:
    """Given back by a pod that nobody had told to end."""
    run.history.notes += [note("start", "two", 4, 15.0, B), note("end", "two", 4, 15.1, B)]
    run.change("two", version=5)


def _failure_without_raise(run: Run) -> None:
    run.history.notes = [one for one in run.history.notes if one.what != "raise"]


def _started_without_trust(run: Run) -> None:
    run.history.hits = [Hit(1, "frozen", 18.5, 26.0)]
    run.history.notes += [note("start", "late", 2, 26.5), note("end", "late", 2, 26.6)]
    run.history.attempts.append(Attempt(11, "late", "body-late", True))
    run.rows.jobs.append(row("late", 3))


def _started_after_it_was_struck_off(run: Run) -> None:
    run.history.hits = [Hit(1, "frozen", 18.5, 30.0)]
    run.history.notes += [note("start", "late", 2, 30.5), note("end", "late", 2, 30.6)]
    run.history.attempts.append(Attempt(11, "late", "body-late", True))
    run.rows.jobs.append(row("late", 3))


def _not_told(run: Run) -> None:
    run.history.hits = [Hit(1, "cut", 18.5, 40.0)]
    run.history.notes += [note("start", "late", 1, 20.5), note("end", "late", 1, 27.6)]
    run.history.attempts.append(Attempt(11, "late", "body-late", True))
    run.rows.jobs.append(row("late", 2))


def _fenced(run: Run) -> None:
    """Nothing had happened to the pod."""
    run.history.hits = [Hit(2, "dead", 40.0)]


def _rescued_late(run: Run) -> None:
    run.rows.events[0] = replace(run.rows.events[0], at=32.5)


def _left_over(run: Run) -> None:
    run.history.notes.append(note("start", "held", 1, 30.0, B))
    run.history.attempts.append(Attempt(11, "held", "body-held", True))
    run.rows.jobs.append(row("held", 1, "PROCESSING"))


def _unacknowledged(run: Run) -> None:
    run.rows.left["unacknowledged in faults"] = 3


def _skipped_tick(run: Run) -> None:
    run.rows.jobs = [one for one in run.rows.jobs if one.id != pulse(24)]


def _tick_made_twice(run: Run) -> None:
    run.rows.jobs.append(tick(24, id="pulse@1970-01-01T00:00:24+00:00"))


def _no_tick(run: Run) -> None:
    run.change(pulse(29), id="pulse@1970-01-01T00:00:29.5Z")


def _another_name(run: Run) -> None:
    run.change(pulse(29), id="other@1970-01-01T00:00:29Z")


def _body_of_no_tick(run: Run) -> None:
    run.change(pulse(29), digest="another")


def _tick_not_run(run: Run) -> None:
    run.history.notes = [one for one in run.history.notes if one.id != pulse(24)]


def _tick_taken_from_a_pod_that_lives(run: Run) -> None:
    run.history.notes.append(note("start", pulse(24), 3, 29.5, B))
    run.history.notes.append(note("end", pulse(24), 3, 29.6, B))
    run.rows.events.append(EventRow(f"key-{pulse(24)}", "RESCUED", 1, B, 29.0))
    run.change(pulse(24), version=4, rescues=1)


def _too_many(run: Run) -> None:
    for number in range(4):
        run.job(f"limited-{number}", 12.0, 13.0, A if number % 2 else B)


def _too_many_beside_one_that_goes_on(run: Run) -> None:
    """It was killed at 20, and no sooner."""
    run.job_again("limited", 28.6, 29.0, rescued=28.5)
    for number in range(3):
        run.job(f"limited-{number}", 19.6, 19.9, B)


def _two_of_one_lock(run: Run) -> None:
    run.turn("first", "a", 12.0, 12.1)
    run.turn("second", "a", 12.2, 12.5)


def _lost_its_lock_to_a_retry(run: Run) -> None:
    run.history.attempts.append(Attempt(50, "retry", "body-retry", True, 0.0, LOCKED, "a"))
    run.history.notes += [note("start", "retry", 1, 12.0, B), note("raise", "retry", 1, 12.1, B)]
    run.history.notes += [note("start", "retry", 4, 13.0, B), note("end", "retry", 4, 13.1, B)]
    run.rows.events.append(EventRow("key-retry", "FAILED", 1, B, 12.1))
    run.rows.jobs.append(row("retry", 5, namespace=LOCKED, attempts=1))
    run.turn("between", "a", 12.0, 12.3)


def _overtaken(run: Run) -> None:
    run.turn("first", "a", 12.0, 13.5, seen=12.3)
    run.turn("second", "a", 12.4, 12.5)


def _another_route(run: Run) -> None:
    run.change("one", namespace=LIMITED)


def _row_lost(run: Run) -> None:
    run.rows.effects = ["99" * 16]


def _rows_doubled(run: Run) -> None:
    run.rows.effects *= 2


def _row_of_a_failure(run: Run) -> None:
    run.history.notes += [note("raise", "booked", 1, 13.1, B)]
    run.rows.events.append(EventRow(ECHO.hex, "FAILED", 1, B, 13.1))
    run.change("booked", state="FAILED", attempts=1)
    run.rows.jobs.pop(5)


def _echo_lost(run: Run) -> None:
    run.rows.jobs.pop(5)


def _echo_of_nobody(run: Run) -> None:
    run.history.notes += [note("start", "nobody", 1, 13.2, B), note("end", "nobody", 1, 13.3, B)]
    run.rows.jobs.append(row("nobody", 2, namespace=ECHOES))


def _crashed(run: Run) -> None:
    run.history.crashes.append(Crash(1, "-15"))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_lost, "lost"),
        (_lost_poison, "lost"),
        (_nobodys, "unexpected"),
        (_other_body, "unexpected"),
        (_body_of_another, "unexpected"),
        (_condemned, "condemned"),
        (_strange_letter, "unexpected"),
        (_two_letters, "doubled"),
        (_two_rows, "doubled"),
        (_started_twice, "doubled"),
        (_two_results, "doubled"),
        (_left_succeeded, "illegal transition"),
        (_version_jumped, "illegal transition"),
        (_went_back, "illegal transition"),
        (_seen_otherwise, "illegal transition"),
        (_no_run, "result without a run"),
        (_miscounted, "miscounted"),
        (_without_cause, "re-executed"),
        (_failure_without_raise, "failed"),
        (_started_without_trust, "started without trust"),
        (_started_after_it_was_struck_off, "started without trust"),
        (_not_told, "not told"),
        (_fenced, "fenced"),
        (_rescued_late, "rescued late"),
        (_left_over, "left over"),
        (_unacknowledged, "left over"),
        (_skipped_tick, "ticks"),
        (_tick_made_twice, "ticks"),
        (_no_tick, "unexpected"),
        (_another_name, "unexpected"),
        (_body_of_no_tick, "unexpected"),
        (_tick_not_run, "result without a run"),
        (_tick_taken_from_a_pod_that_lives, "fenced"),
        (_too_many, "too many at once"),
        (_too_many_beside_one_that_goes_on, "too many at once"),
        (_two_of_one_lock, "two at once"),
        (_lost_its_lock_to_a_retry, "not kept"),
        (_overtaken, "overtaken"),
        (_another_route, "unexpected"),
        (_row_lost, "rows of a handler"),
        (_rows_doubled, "rows of a handler"),
        (_row_of_a_failure, "rows of a handler"),
        (_echo_lost, "messages of a handler"),
        (_echo_of_nobody, "messages of a handler"),
        (_crashed, "crashed"),
    ],
)
def test_each_violation_is_found(spoil: Callable[[Run], None], kind: str, run: Run) -> None:
    spoil(run)
    verdict = run.verdict()
    assert kind in {violation.kind for violation in verdict.violations}
    assert verdict.exit_code == 1


def test_a_rescue_is_counted_from_the_last_fault_of_the_store(run: Run) -> None:
    _rescued_late(run)
    run.history.faults.append(Fault(2, "kill-store", True, 21.0, 25.0, True))
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.worst_rescue_s == 7.5


def test_a_claim_that_lands_after_the_thaw_is_orphaned_then(run: Run) -> None:
    _rescued_late(run)
    run.history.notes = [one for one in run.history.notes if (one.id, one.version) != ("again", 1)]
    run.history.hits = [Hit(1, "frozen", 20.0, 31.0)]
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.worst_rescue_s == 1.5


def test_a_rescue_is_counted_from_when_a_pod_was_there_to_do_it(run: Run) -> None:
    _rescued_late(run)
    run.history.hits.append(Hit(2, "frozen", 21.0, 24.0))
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.worst_rescue_s == 8.5


def test_a_start_that_a_freeze_may_have_interrupted_is_none_without_trust(run: Run) -> None:
    _started_without_trust(run)
    run.history.hits = [Hit(1, "frozen", 18.5, 26.45)]
    assert run.verdict().violations == []
    run.history.hits = [Hit(1, "frozen", 18.5, 26.501)]  # the thaw was written down after the start
    assert run.verdict().violations == []


def test_a_ticks_job_whose_pod_was_killed_is_run_again(run: Run) -> None:
    killed = pulse(19)
    run.history.notes = [one for one in run.history.notes if one.id != killed]
    run.history.notes += [note("start", killed, 1, 19.9), note("start", killed, 3, 28.6, B)]
    run.history.notes.append(note("end", killed, 3, 28.7, B))
    run.rows.events.append(EventRow(f"key-{killed}", "RESCUED", 1, A, 28.5))
    run.change(killed, version=4, rescues=1)
    verdict = run.verdict()
    assert verdict.violations == []
    assert (verdict.counts["rescued"], verdict.counts["reexecuted"]) == (2, 3)


def test_so_many_as_the_limit_allows_may_run_at_once(run: Run) -> None:
    for number in range(6):
        run.job(f"limited-{number}", 12.0 + number // 3, 13.0 + number // 3, A if number % 2 else B)
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.counts["limited_at_once"] == 3


def test_what_a_killed_pod_ran_leaves_its_place(run: Run) -> None:
    run.job_again("limited", 28.6, 29.0, rescued=28.5)
    for number in range(3):
        run.job(f"limited-{number}", 20.1, 21.0, B)
    assert run.verdict().violations == []


def test_what_a_pod_ran_that_was_cut_off_leaves_its_place_when_it_is_taken(run: Run) -> None:
    run.history.hits = [Hit(1, "cut", 19.0, 30.0)]
    run.job_again("limited", 28.6, 28.9, rescued=28.5, late=28.95)
    for number in range(2):
        run.job(f"limited-{number}", 28.6, 28.9, B)
    assert [one.kind for one in run.verdict().violations] == ["not told"]
    run.job("too-many", 28.7, 28.8, B)
    assert [one.kind for one in run.verdict().violations] == ["too many at once", "not told"]
    run.history.notes = [one for one in run.history.notes if one.id != "too-many"]
    run.change("too-many", version=1, state="ENQUEUED")
    for number in range(3):
        run.job(f"early-{number}", 20.1, 20.2, B)
    assert "too many at once" in {one.kind for one in run.verdict().violations}


def test_a_start_that_is_noted_after_the_thaw_takes_no_place(run: Run) -> None:
    run.history.hits = [Hit(1, "frozen", 19.0, 30.0)]
    run.job_again("limited", 28.6, 28.9, rescued=28.5)
    run.history.notes = [
        replace(one, at=30.1) if (one.id, one.version) == ("limited", 1) else one for one in run.history.notes
    ]
    for number in range(3):
        run.job(f"limited-{number}", 30.0, 31.0, B)
    assert run.verdict().violations == []


def test_jobs_with_one_lock_run_one_after_the_other(run: Run) -> None:
    run.turn("first", "a", 12.0, 12.1)
    run.turn("second", "a", 12.2, 12.6, seen=12.3)
    run.turn("third", "a", 12.4, 13.1, seen=12.5)
    run.turn("another", "b", 12.4, 12.5)
    verdict = run.verdict()
    assert verdict.violations == []
    assert verdict.counts["waited_for_lock"] == 2


def test_the_order_of_inserts_that_were_under_way_at_once_is_open(run: Run) -> None:
    run.turn("second", "a", 12.2, 12.7, seen=12.45)
    run.turn("first", "a", 12.4, 12.1)
    assert run.verdict().violations == []


def test_what_a_killed_pod_ran_leaves_its_lock_to_its_next_run(run: Run) -> None:
    run.job_again("limited", 28.6, 28.9, rescued=28.5, key="a")
    run.turn("next", "a", 20.0, 29.0, seen=20.2)
    assert run.verdict().violations == []
    run.turn("soon", "a", 20.0, 21.0, seen=20.2)  # its lock was to be kept until it ended
    assert [one.kind for one in run.verdict().violations] == ["not kept"]


def test_a_run_that_goes_on_after_the_thaw_keeps_no_lock(run: Run) -> None:
    run.history.hits = [Hit(1, "frozen", 20.0, 31.0)]
    run.job_again("limited", 28.6, 28.9, rescued=28.5, late=31.1, key="a")
    run.turn("next", "a", 20.0, 31.0, seen=20.2)
    assert run.verdict().violations == []


def test_a_pod_that_was_told_to_end_may_give_back(run: Run) -> None:
    _without_cause(run)
    run.history.hits.append(Hit(2, "ended", 14.0))
    assert run.verdict().violations == []


def test_a_handler_that_was_told_without_the_stores_being_away_is_none(run: Run) -> None:
    _without_cause(run)
    run.history.notes.append(note("cancelled", "two", 2, 14.9, B))
    assert [one.kind for one in run.verdict().violations] == ["re-executed"]
    run.history.faults.append(Fault(2, "freeze-store", True, 5.0, 14.8, True))
    assert run.verdict().violations == []


def test_a_pod_that_ended_before_it_began_did_not_crash(run: Run) -> None:
    run.history.crashes.append(Crash(3, "-15"))
    assert run.verdict().violations == []
    run.history.crashes.append(Crash(3, "1"))
    assert run.verdict().exit_code == 1


def test_a_machine_that_stood_still_excuses_a_fence(run: Run) -> None:
    _fenced(run)
    run.history.stalls.append((18.0, 27.0))
    assert run.verdict().violations == []


def _nothing_confirmed(run: Run) -> None:
    run.history.confirmed.clear()


def _no_fault(run: Run) -> None:
    run.history.faults = [replace(run.history.faults[0], landed=False)]


def _no_ticks(run: Run) -> None:
    run.rows.jobs = [one for one in run.rows.jobs if one.namespace != RECURRING]


def _no_transactions(run: Run) -> None:
    run.rows.effects.clear()
    run.rows.jobs = [one for one in run.rows.jobs if one.namespace not in (BOOKED, ECHOES)]
    run.history.attempts = [one for one in run.history.attempts if one.route != BOOKED]


def _not_drained(run: Run) -> None:
    run.rows.drained = False
    run.rows.left["ready in faults"] = 5
    run.rows.jobs.pop(0)  # still in the queue, perhaps: not lost
    run.change("two", version=0, state="ENQUEUED")  # and this one is not run yet


@pytest.mark.parametrize("spoil", [_nothing_confirmed, _no_fault, _no_ticks, _no_transactions, _not_drained])
def test_a_run_that_proves_nothing_is_no_pass(spoil: Callable[[Run], None], run: Run) -> None:
    spoil(run)
    verdict = run.verdict()
    assert verdict.violations == []
    assert len(verdict.invalid) == 1
    assert verdict.exit_code == 3


def test_an_empty_run_proves_nothing() -> None:
    assert check(History(), Rows(drained=True), HEARTBEAT).exit_code == 3


def test_what_the_nemesis_wrote_down_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / NEMESIS)
    journal.write("begin", n=1, kind="freeze-pod")
    journal.write("hit", n=1, pid=5, how="frozen")
    journal.write("healed", n=1, landed=True)
    journal.write("begin", n=2, kind="kill-store")
    journal.write("disturbs-store", n=2)
    journal.write("begin", n=3, kind="kill-pod")
    journal.write("hit", n=3, pid=6, how="dead")
    journal.write("healed", n=3, landed=True)
    journal.close()
    history = read(tmp_path)
    assert [(one.kind, one.landed, one.disturbs_store) for one in history.faults] == [
        ("freeze-pod", True, False),
        ("kill-store", False, True),
        ("kill-pod", True, False),
    ]
    frozen, dead = history.hits
    assert frozen.how == "frozen" and frozen.end < float("inf")
    assert dead.how == "dead" and dead.end == float("inf")
