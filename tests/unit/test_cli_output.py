"""How data is printed: whole, plain, and harmless to a terminal."""

from __future__ import annotations

import json
import re
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli import output
from bridge.shown import presentable

KEY = UUID("0123456789abcdef0123456789abcdef")
ROW = {
    "id": KEY,
    "at": 0,
    "created_at": 1_700_000_000_000_001,
    "detail": "a\tb\n\x1b[31m[red]",
    "done": True,
    "n": None,
}


def test_tsv_is_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_records([ROW, ROW], tuple(ROW), "tsv")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines == [f"{KEY}\t1970-01-01T00:00:00.000000Z\t2023-11-14T22:13:20.000001Z\ta\\tb\\n\\x1b[31m[red]\tyes\t"] * 2
    )


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_a_table_on_a_terminal_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    row = {"id": KEY, "detail": "word " * 40, "other": KEY}
    output.print_records([row], tuple(row), None)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert printed.startswith("ID ")
    assert "…" not in printed
    assert printed.count(str(KEY)) == 2
    assert printed.count("word") == 40


def test_a_body_is_shown_as_the_text_that_it_is() -> None:
    assert presentable({"body": "ü".encode()}) == {"body": "ü"}
    assert presentable({"body": b"\xff"}) == {"body": None, "body_hex": "ff"}
    assert presentable({"body": None, "digest": b"\x01", "headers": '{"a": "b"}'}) == {
        "body": None,
        "digest": "01",
        "headers": {"a": "b"},
    }


@given(st.text())
def test_no_text_can_draw_on_a_terminal(text: str) -> None:
    assert output.printable(text).isprintable()


@given(st.dictionaries(st.text(), st.text() | st.binary() | st.none() | st.integers(0, 2**50)))
def test_every_row_is_json(row: dict[str, object]) -> None:
    kept = {name: value for name, value in row.items() if name not in ("headers", "envelope")}
    json.dumps(presentable(kept))
