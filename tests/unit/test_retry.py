"""When a job runs again, and whose word on it counts."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.duration import seconds
from scheduler.retry import Backoff, Policies, Policy, PolicyOverride, Snooze


@given(
    st.floats(0, 1e6),
    st.floats(1, 1e3),
    st.floats(0, 1e9),
    st.integers(1, 10_000),
    st.integers(),
)
def test_a_backoff_keeps_its_bounds(base: float, factor: float, most: float, failures: int, seed: int) -> None:
    """Between nought and the ceiling, for any number of failures; no overflow."""
    delay = Backoff(base, factor, most).delay(failures, Random(seed))
    assert 0 <= delay <= most
    if failures == 1:
        assert delay <= base


def test_a_backoff_grows_to_its_maximum_with_full_jitter() -> None:
    """The ceiling doubles from a second to an hour, and delays are spread over all of it."""
    for failures, ceiling in ((1, 1), (2, 2), (5, 16), (12, 2048), (13, 3600), (5000, 3600)):
        random = Random(failures)
        delays = [Backoff().delay(failures, random) for _ in range(500)]
        assert max(delays) <= ceiling
        assert min(delays) < ceiling / 20
        assert max(delays) > ceiling * 0.95
        assert 0.4 < sum(delays) / 500 / ceiling < 0.6


def test_what_is_built_in() -> None:
    """Eleven runs, no timeout, a week for the window, a month for failures, bodies kept."""
    assert Policies(PolicyOverride(), {}).of("", "h") == Policy(10, None, Backoff(1, 2, 3600), 604800, 2592000, True)


def test_the_route_has_the_last_word() -> None:
    """Weakest first: built in, defaults, @job, route; each sets what it says and leaves the rest."""
    policies = Policies(
        PolicyOverride(retries=1, timeout=1.0, window=1.0),
        {"h": PolicyOverride(retries=2, timeout=2.0)},
        {"r": PolicyOverride(retries=3, keep_body=False), "zero": PolicyOverride(retries=0, timeout=0.0)},
    )
    assert policies.of("r", "h") == Policy(retries=3, timeout=2.0, window=1.0, keep_body=False)
    assert policies.of("r", "other") == Policy(retries=3, timeout=1.0, window=1.0, keep_body=False)
    assert policies.of("", "h") == policies.of("unknown", "h") == Policy(retries=2, timeout=2.0, window=1.0)
    assert policies.of("zero", "h")[:2] == (0, 0.0)
    assert policies.of("r", "h") is policies.of("r", "h")
    assert policies.default == Policy(retries=1, timeout=1.0, window=1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1.5m", 90),
        ("12h", 43200),
        ("7d", 604800),
        (" 5s ", 5),
        ("0s", 0),
        (3, 3),
        (0.25, 0.25),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_read(text: str | float | timedelta, expected: float) -> None:
    """Text with a unit, a bare number of seconds, a timedelta."""
    assert seconds(text) == expected
    assert Snooze(text).delay == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "1 s", "1w", "1e3s", "½s", "1s\n2s", "nan", "5S", "9" * 400 + "s"]
)
def test_what_is_no_duration_is_refused_with_a_hint(text: str) -> None:
    """The message names the text and shows how to write it."""
    with pytest.raises(ValueError, match="is not a duration: write a number and a unit of ms, s, m, h or d"):
        seconds(text)


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), timedelta(seconds=-1)])
def test_a_negative_or_endless_duration_is_refused(value: float | timedelta) -> None:
    """Not a number too."""
    with pytest.raises(ValueError, match="negative or infinite"):
        seconds(value)
