"""The jobs that a process holds, and how much more it may take."""

import pytest

from scheduler.inflight import ENOUGH, MAX_PREFETCH, InFlight, Phase, Registration, Run, claimed_job
from scheduler.job import new_job

HERE = Registration(b"s" * 16, 1)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def keys(number: int, first: int = 0) -> list[bytes]:
    return [k.to_bytes(16, "big") for k in range(first, first + number)]


def enter(held: InFlight, number: int, first: int = 0, lane: int = 0) -> list[Run]:
    return list(held.enter(keys(number, first), HERE, lane).values())


def test_room_is_the_number_of_workers_at_first() -> None:
    """Each entered job takes of it, whatever its phase, until its run has ended."""
    held = InFlight(4)
    assert (held.room(), held.free_workers(), held.worth_claiming()) == (4, 4, True)
    runs = enter(held, 3)
    assert (held.room(), held.free_workers(), len(held)) == (1, 1, 3)
    held.make_wait(runs)
    assert held.room() == 1
    assert held.move(runs[0], Phase.RUNNING, only_from=Phase.WAITING)
    assert held.move(runs[0], Phase.ENDED, only_from=Phase.RUNNING)
    assert (held.room(), held.free_workers(), len(held)) == (2, 2, 3)
    held.leave(runs)
    assert (held.room(), held.free_workers(), len(held)) == (4, 4, 0)


def test_room_is_never_negative() -> None:
    """Reconcile may find more than there is room for."""
    held = InFlight(2)
    enter(held, 50)
    assert (held.room(), held.free_workers(), held.worth_claiming()) == (0, 0, False)


def run_one(held: InFlight, clock: Clock, seconds: float) -> None:
    (run,) = enter(held, 1)
    held.make_wait([run])
    assert held.begin(run)
    clock.time += seconds
    assert held.end(run)
    held.leave([run])


def test_room_follows_the_measured_pace_between_the_workers_and_the_most() -> None:
    """What the workers finish in a tenth of a second, by how long the last runs took."""
    clock = Clock()
    held = InFlight(4, clock)
    for seconds, room in ((1.0, 4), (0.004, 100), (0.000_01, MAX_PREFETCH), (0.1, 4)):
        for _ in range(4_000):
            run_one(held, clock, seconds)
        assert room <= held.room() <= room * 1.05


def test_a_lack_of_jobs_is_no_slow_pace() -> None:
    clock = Clock()
    held = InFlight(4, clock)
    for _ in range(ENOUGH):
        run_one(held, clock, 0.001)
        clock.time += 10.0
    assert 399 <= held.room() <= 400


def test_a_few_quick_runs_do_not_make_a_pace() -> None:
    clock = Clock()
    held = InFlight(4, clock)
    for _ in range(ENOUGH - 1):
        run_one(held, clock, 0.000_01)
    assert held.room() == 4


def test_a_claim_is_worth_it_for_half_the_room_or_an_idle_worker() -> None:
    """Many small claims cost more than one."""
    held = InFlight(10)
    runs = enter(held, 6)
    held.make_wait(runs)
    assert (held.room(), held.worth_claiming()) == (4, False)
    for run in runs:
        held.move(run, Phase.RUNNING)
    assert held.worth_claiming()


def test_results_that_pile_up_end_the_claiming() -> None:
    """What ended takes no worker, but is bounded too."""
    held = InFlight(4)
    for run in enter(held, 2 * MAX_PREFETCH - 1):
        held.move(run, Phase.ENDED)
    assert held.room() == 1
    held.move(enter(held, 1, 10_000)[0], Phase.ENDED)
    assert (held.room(), held.worth_claiming()) == (0, False)


def test_a_job_is_here_once() -> None:
    """Entering it again leaves it out; leaving by an older run takes nothing away."""
    held = InFlight(4)
    (run,) = enter(held, 1)
    assert enter(held, 1) == []
    assert (len(held), held.room(), run.key in held) == (1, 3, True)
    held.leave([Run(run.key, HERE)])
    assert len(held) == 1
    held.leave([run, run])
    assert (len(held), held.room(), run.key in held) == (0, 4, False)


def test_a_phase_is_left_by_one_alone() -> None:
    """Of two that move a run out of a phase the second is told no and changes nothing."""
    held = InFlight(4)
    (run,) = enter(held, 1)
    held.make_wait([run])
    assert held.move(run, Phase.RUNNING, only_from=Phase.WAITING)
    assert not held.move(run, Phase.ENDED, only_from=Phase.WAITING)
    assert run.phase is Phase.RUNNING
    assert held.in_phase(Phase.RUNNING) == [run]
    assert held.in_phase(Phase.WAITING) == []


def test_lanes_are_counted_until_the_job_has_left() -> None:
    """Also after its run has ended: its end must be known to the database first."""
    held = InFlight(4)
    (run,) = enter(held, 1, lane=2)
    held.move(run, Phase.ENDED)
    assert (held.holds_lane(2), held.holds_lane(1)) == (True, False)
    held.leave([run])
    assert not held.holds_lane(2)


def test_a_snapshot_is_a_copy() -> None:
    """What enters later is not in it."""
    held = InFlight(4)
    enter(held, 1)
    copy = held.snapshot()
    enter(held, 1, 1)
    assert list(copy) == keys(1)


@pytest.mark.parametrize("retries", [None, 3])
def test_an_inserted_job_is_the_one_that_a_claim_would_tell(retries: int | None) -> None:
    """Version 1, no failure, no rescue, everything else as offered."""
    new = new_job(namespace="n", correlation=b"c", handler="h", body=b"b", route="r", source="s", retries=retries)
    job = claimed_job(new, b"o" * 16)
    assert (job.key, job.version, job.owner, job.attempts, job.rescues) == (new.id, 1, b"o" * 16, 0, 0)
    assert (job.namespace, job.correlation_bytes, job.correlation_id) == ("n", b"c", "c")
    assert (job.route, job.handler, job.source, job.headers_json, job.body) == ("r", "h", "s", "{}", b"b")
    assert job.retries == retries
