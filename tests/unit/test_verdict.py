"""What the end of a run means for its job."""

from random import Random

import pytest

from scheduler.handlers import JobOptions
from scheduler.job import Job, JobState
from scheduler.retry import Backoff, Policy, Snooze
from scheduler.storage.records import Event, Finish
from scheduler.verdict import MAX_TRACE, ended_by, handed_back, microseconds, one_line, stack_trace, succeeded

MOST = 2**53
"""Far below where a database's integers end, together with any clock's time."""


def job(attempts: int = 0, retries: int | None = None) -> Job:
    return Job(b"k" * 16, 5, b"o" * 16, "n", b"c", "c", "r", "h", "s", "{}", b"", attempts, 0, retries)


def end(error: BaseException, of: Job | None = None, policy: Policy | None = None, **options: object) -> Finish:
    return ended_by(error, of or job(), policy or Policy(), JobOptions(**options), Random(1))  # type: ignore[arg-type]


def test_a_success_is_kept_for_the_window_and_may_drop_its_body() -> None:
    """By the policy."""
    assert succeeded(job(), Policy(window=3.0)) == Finish(b"k" * 16, 5, b"o" * 16, JobState.SUCCEEDED, 3_000_000)
    assert succeeded(job(), Policy(keep_body=False)).drop_body


def test_a_hand_back_is_no_failure() -> None:
    """No delay, no attempt, no event."""
    assert handed_back(job(3)) == Finish(b"k" * 16, 5, b"o" * 16, JobState.ENQUEUED, 0)


def test_an_error_is_tried_again_as_often_as_the_policy_says() -> None:
    """Retries 2 makes three runs; the third failure is final and kept for its retention."""
    policy = Policy(retries=2, backoff=Backoff(8, 1, 8), failed_retention=60.0)
    for attempts, state in ((0, JobState.SCHEDULED), (1, JobState.SCHEDULED), (2, JobState.FAILED)):
        result = end(ValueError("no"), job(attempts), policy)
        assert (result.state, result.failures) == (state, 1)
        (event,) = result.events
        assert event.kind == "FAILED"
        assert "ValueError: no" in event.detail
    assert result.delay_us == 60_000_000
    assert end(ValueError("no"), job(0), policy).delay_us <= 8_000_000


def test_the_jobs_own_retries_win_over_the_policy() -> None:
    """Also where they are none."""
    assert end(ValueError(), job(0, retries=0), Policy(retries=5)).state is JobState.FAILED
    assert end(ValueError(), job(7, retries=8), Policy(retries=5)).state is JobState.SCHEDULED


def test_a_snooze_is_no_failure_and_uses_up_no_try() -> None:
    """Also where no retry is left, and whatever the options say."""
    result = end(Snooze("5m"), job(9, retries=0), retry_on=(ValueError,), no_retry_on=(Snooze,))
    assert result == Finish(b"k" * 16, 5, b"o" * 16, JobState.SCHEDULED, 300_000_000)


@pytest.mark.parametrize(
    ("error", "retry_on", "no_retry_on", "again"),
    [
        (ValueError(), (), (), True),
        (SystemExit(), (), (), True),
        (MemoryError(), (), (), True),
        (ValueError(), (ValueError,), (), True),
        (KeyError(), (ValueError,), (), False),
        (KeyError(), (LookupError,), (), True),
        (ValueError(), (), (ValueError,), False),
        (KeyError(), (LookupError,), (KeyError,), False),
        (IndexError(), (LookupError,), (KeyError,), True),
    ],
)
def test_options_choose_the_errors_that_are_tried_again(
    error: BaseException,
    retry_on: tuple[type[BaseException], ...],
    no_retry_on: tuple[type[BaseException], ...],
    again: bool,
) -> None:
    """`retry_on` names the only ones, `no_retry_on` takes out of them, both with their subclasses."""
    result = end(error, retry_on=retry_on, no_retry_on=no_retry_on)
    assert result.state is (JobState.SCHEDULED if again else JobState.FAILED)


@pytest.mark.parametrize("delay", [0.0, 1e9, 1e12, 1e300])
def test_no_delay_is_too_long_for_the_database(delay: float) -> None:
    """One result that can't be written would hold back all that ended with it."""
    assert 0 <= end(Snooze(delay)).delay_us <= MOST
    assert 0 <= succeeded(job(), Policy(window=delay)).delay_us <= MOST
    assert 0 <= end(ValueError(), policy=Policy(retries=0, failed_retention=delay)).delay_us <= MOST
    assert 0 <= microseconds(delay) <= MOST


class Odd(Exception):
    """An error whose text no database takes as it is."""


@pytest.mark.parametrize("text", ["NUL \0", "lone \ud800", "\udcff", "x" * 100_000, "é" * 40_000, "a\r\nb"])
def test_any_errors_trace_can_be_stored(text: str) -> None:
    """No NUL, no lone surrogate, bounded; its end names the error."""
    try:
        raise Odd(text)
    except Odd as raised:
        trace = stack_trace(raised)
    assert "\0" not in trace
    trace.encode()
    assert len(trace) <= MAX_TRACE
    if len(text) < 100:
        assert "Odd: " in trace
        assert "test_verdict.py" in trace


def test_the_trace_of_an_endless_recursion_is_bounded() -> None:
    """The innermost frames, not all thousand."""

    def recurse(depth: int) -> int:
        return recurse(depth + 1) + 1

    with pytest.raises(RecursionError) as caught:
        recurse(0)
    assert len(stack_trace(caught.value)) <= MAX_TRACE
    assert "RecursionError" in stack_trace(caught.value)


def test_one_line_is_one_short_line_of_ascii() -> None:
    """For a log."""
    assert one_line(Odd("a\nb\0\ud800é")) == "Odd: a\\nb\\x00\\ud800\\xe9"
    assert len(one_line(Odd("x" * 1000))) == 200


def test_an_event_is_a_kind_and_a_detail() -> None:
    """What the history shows of a failure."""
    result = end(Odd("why"))
    (event,) = result.events
    assert isinstance(event, Event)
    assert event.detail.rstrip().endswith("Odd: why")
