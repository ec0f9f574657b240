"""The rules of recurring jobs: what is refused, what becomes of late ticks, what a spec keeps, `@recurring`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler import job
from scheduler import recurring as mark
from scheduler.declared import declared
from scheduler.handlers import HandlerError, collect, describe
from scheduler.instants import instant_of, rfc3339, since_1970
from scheduler.recurring import Recurring

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def minutely(**more: Any) -> Recurring:
    return Recurring.model_validate({"name": "n", "handler": "h", "cron": "* * * * *"} | more)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"cron": "* * * * * *"}, "five fields, not 6: .*for seconds write every: 10s"),
        ({"cron": "3 * * *"}, "five fields, not 4"),
        ({"cron": "@hourly"}, 'write the five fields: "0 \\* \\* \\* \\*"'),
        ({"cron": "60 * * * *"}, "not acceptable, out of range: write minute"),
        ({"cron": "*/0 * * * *"}, "write minute, hour, day"),
        ({"cron": "a b c d e"}, "write minute, hour, day"),
        ({"cron": "5-5 * * * *"}, "a range of one: write 5"),
        ({"cron": "H 3 * * *"}, "H and R are chosen by chance"),
        ({"cron": "r(0-9) 3 * * *"}, "H and R are chosen by chance"),
        ({"cron": "0 0 31 4 *"}, "no date fits it"),
        ({"timezone": "Mars/Olympus"}, "no time zone of this name"),
        ({"timezone": "../../etc/passwd"}, "no time zone of this name"),
        ({"every": "1s"}, "either cron or every"),
        ({"cron": None}, "either cron or every"),
        ({"cron": None, "every": "999ms"}, "greater than or equal to 1"),
        ({"cron": None, "every": "soon"}, "not a duration"),
        ({"until": "2026-01-01T00:00:00"}, "timezone"),
        ({"name": "n "}, "without blanks around it"),
        ({"name": "a\nb"}, "printable"),
        ({"overlap": "queue"}, "overlap"),
        ({"moon": "full"}, "moon"),
    ],
)
def test_what_can_be_none_is_refused_with_the_mend(keys: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        minutely(**keys)


def test_a_spec_survives_the_store_and_differs_by_its_digest() -> None:
    spec = minutely(timezone="Europe/Amsterdam", until="2027-01-01T00:00:00+01:00", body='{"a": "\\u00fc"}', retries=3)
    again = Recurring.loads(spec.dumps())
    assert again == spec and again.dumps() == spec.dumps() and again.digest() == spec.digest()
    assert again.after(NOON) == spec.after(NOON) == NOON + MINUTE
    assert spec.dumps().isascii()
    assert minutely(retries=3).digest() != minutely().digest() == minutely(overlap="skip").digest()
    assert instant_of(since_1970(NOON)) == NOON


LATE = {
    # misfire, how many minutes late, and the grace: the minutes of the ticks that run, and how many are passed over
    ("once", 0, "0s"): ([0], 0),
    ("skip", 0, "0s"): ([0], 0),
    ("once", 1, "60s"): ([0, 1], 0),
    ("once", 5, "60s"): ([3, 4, 5], 3),
    ("skip", 5, "60s"): ([4, 5], 4),
    ("all", 5, "60s"): ([0, 1, 2, 3, 4, 5], 0),
    ("once", 5, "0s"): ([4, 5], 4),
    ("once", 1, "0s"): ([0, 1], 0),
    ("skip", 5, "1d"): ([0, 1, 2, 3, 4, 5], 0),
}


@pytest.mark.parametrize(("misfire", "late", "grace"), LATE)
def test_what_becomes_of_late_ticks(misfire: str, late: int, grace: str) -> None:
    due = minutely(misfire=misfire, misfire_grace=grace).due(NOON, NOON + late * MINUTE, 50)
    assert ([int((tick - NOON) / MINUTE) for tick in due.ticks], due.passed) == LATE[misfire, late, grace]
    assert due.following == NOON + (late + 1) * MINUTE
    assert bool(due.reason) == bool(due.passed)


def test_rounds_are_bounded_and_lose_no_tick() -> None:
    recurring = minutely(misfire="all")
    made, first = [], NOON
    while first <= NOON + 99 * MINUTE:
        due = recurring.due(first, NOON + 99 * MINUTE, 7)
        assert len(due.ticks) <= 7 and due.following is not None
        made += due.ticks
        first = due.following
    assert made == [NOON + number * MINUTE for number in range(100)]


@pytest.mark.parametrize("cron", ["*/5 * * * *", "0 3 * * *", "30 2 * * 1-5", "0 0 29 2 *", "* 0 1 1 *"])
def test_the_newest_of_years_that_were_missed_is_found(cron: str) -> None:
    """And told without listing them all."""
    recurring = minutely(cron=cron, timezone="America/New_York", misfire_grace="0s")
    first, now = recurring.after(datetime(2019, 7, 1, tzinfo=UTC)), datetime(2026, 11, 20, 17, 2, tzinfo=UTC)
    assert first is not None
    due = recurring.due(first, now, 50)
    assert len(due.ticks) == 1 and due.following == recurring.after(due.ticks[0])
    assert due.following is not None and due.ticks[0] < now < due.following
    assert rfc3339(due.ticks[0]) in due.reason or due.passed == 0


def test_a_round_ends_with_the_last_tick() -> None:
    due = minutely(until=rfc3339(NOON), misfire="skip").due(NOON, NOON + 10 * MINUTE, 50)
    assert (due.ticks, due.passed, due.following) == ((), 1, None)


def test_the_mark_takes_the_name_of_its_handler_and_stacks() -> None:
    @mark(cron="0 3 * * *", timezone="Europe/Amsterdam", body={"full": True}, retries=2)
    @job(name="report")
    @mark(every="10m", name="report-often", timeout="30s")
    def report(options: dict[str, bool]) -> None: ...

    handler = describe(report, "m:report")
    often, nightly = declared(handler)
    assert (nightly.name, nightly.handler, nightly.body, nightly.retries) == ("report", "report", '{"full": true}', 2)
    assert (often.name, often.handler, often.body, often.timeout) == ("report-often", "report", "{}", 30.0)


def test_the_mark_makes_a_handler_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marked_alone.py").write_text(
        "from scheduler import recurring\n@recurring(every='1h')\ndef tidy() -> None: ...\ndef other() -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (handler,) = collect(["marked_alone"])
    assert [one.name for one in declared(handler)] == ["marked_alone:tidy"]


def test_a_mark_that_cannot_be_is_an_error_of_the_module() -> None:
    with pytest.raises(ValueError, match="five fields"):
        mark(cron="0 3 * *")
    handler = describe(mark(every=60)(lambda: None), "m:" + "x" * 250)
    with pytest.raises(HandlerError, match="at most 200 characters"):
        declared(handler)
