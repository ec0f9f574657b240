"""The job's identity and its transitions."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.job import (
    CORRELATION_CAP,
    FINISHED,
    TRANSITIONS,
    Job,
    JobState,
    digest,
    headers_json,
    job_id,
    new_job,
    preview,
)


def test_the_table_of_transitions_is_the_one_that_is_promised() -> None:
    """Every arrow of the picture, and no other."""
    arrows = {f"{source} -> {target}" for source, targets in TRANSITIONS.items() for target in targets}
    assert arrows == {
        "SCHEDULED -> ENQUEUED",
        "SCHEDULED -> DELETED",
        "ENQUEUED -> PROCESSING",
        "ENQUEUED -> DELETED",
        "PROCESSING -> SUCCEEDED",
        "PROCESSING -> FAILED",
        "PROCESSING -> SCHEDULED",
        "PROCESSING -> ENQUEUED",
        "PROCESSING -> DELETED",
        "SUCCEEDED -> ENQUEUED",
        "FAILED -> ENQUEUED",
        "FAILED -> DELETED",
        "DELETED -> ENQUEUED",
    }
    assert set(TRANSITIONS) == set(JobState)


def test_what_ended_well_or_was_deleted_is_left_by_a_requeue_alone() -> None:
    """SUCCEEDED and DELETED lead to ENQUEUED and nowhere else; three states are ends."""
    assert TRANSITIONS[JobState.SUCCEEDED] == TRANSITIONS[JobState.DELETED] == {JobState.ENQUEUED}
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.DELETED} == FINISHED


def test_the_id_is_what_it_was() -> None:
    """A changed digest would make every known message a new job."""
    assert job_id("n", b"k").hex() == "d01d2560102f5f34f6f3f4eb9fbb3e42"


def test_the_parts_of_an_id_are_framed() -> None:
    """No two pairs run together, wherever the border lies."""
    assert job_id("ab", b"c") != job_id("a", b"bc") != job_id("", b"abc")
    assert digest(b"") != digest() != digest(b"", b"")


@given(st.text(), st.binary(), st.text(), st.binary())
def test_different_pairs_have_different_ids(name: str, raw: bytes, other_name: str, other: bytes) -> None:
    """And the same pair has the same 16 bytes."""
    assert (job_id(name, raw) == job_id(other_name, other)) == ((name, raw) == (other_name, other))
    assert len(job_id(name, raw)) == 16


@given(st.binary(max_size=CORRELATION_CAP))
def test_a_preview_is_printable_and_fits_its_column(raw: bytes) -> None:
    """Any bytes at all; what is printable text is shown as it is."""
    shown = preview(raw)
    assert shown.isprintable()
    assert len(shown) <= 1024
    shown.encode()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"order-7", "order-7"),
        ("ordér 😀".encode(), "ordér 😀"),
        (b"a\0b\n", "a\\x00b\\n"),
        (b"\xff", "\\xff"),
        ("\u202e\u200b".encode(), "\\u202e\\u200b"),
        ("\U000e0001".encode(), "\\U000e0001"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_what_cannot_be_printed_is_escaped(raw: bytes, shown: str) -> None:
    """Control characters, bytes that are no UTF-8, characters that turn a terminal's text around."""
    assert preview(raw) == shown


def test_a_request_keeps_the_head_of_a_long_id_and_its_length() -> None:
    """The whole of it is digested."""
    made = new_job(namespace="n", correlation=b"x" * 300, handler="h", body=b"body")
    assert (made.correlation_bytes, made.correlation_length) == (b"x" * 255, 300)
    assert made.id == job_id("n", b"x" * 300) != job_id("n", b"x" * 255)
    assert made.correlation_id == "x" * 255
    assert len(made.digest) == 16
    assert made.digest != new_job(namespace="n", correlation=b"x", handler="h", body=b"Body").digest


def test_headers_are_kept_as_ascii_json() -> None:
    """NUL and lone surrogates included."""
    assert headers_json({}) == "{}"
    assert headers_json({"a\0": "\ud800é"}) == '{"a\\u0000": "\\ud800\\u00e9"}'


def test_a_job_shows_its_key_as_a_uuid() -> None:
    """The same 16 bytes."""
    job = Job(bytes(range(16)), 1, b"o" * 16, "", b"", "", "", "h", "", "{}", b"", 0, 0, None)
    assert job.id == UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")
