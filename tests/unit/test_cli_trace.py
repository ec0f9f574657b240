"""`trace`: one correlation ID from its first message to its last attempt, in the order of time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli.main import cli
from bridge.dead_letters import dead_letter
from bridge.message import Message
from scheduler.storage import Storage, open_storage
from tests.conformance.stores import A, job, put, retry, success

CONFIGURATION = """\
store: sqlite:///jobs.db
sources: {s: {queue: s}}
routes:
  - {name: r, from: s, when: {type: a}, handler: "shop:place"}
  - {name: other, from: s, handler: "shop:place"}
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBBRIDGE_CONFIG", raising=False)
    Path("bridge.yaml").write_text(CONFIGURATION)
    with contextlib.closing(open_storage("sqlite:///jobs.db")) as opened:
        opened.migrate()
        yield opened


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def test_a_correlation_id_is_told_from_its_messages_to_its_last_attempt(storage: Storage) -> None:
    """Two jobs of two routes, a failure with its last line, a conflict, a dead letter; nothing of other IDs."""
    first, other = (job("o-7", namespace=name, route=name, handler="shop:place") for name in ("r", "other"))
    put(storage, [first, other, job("o-8")])
    storage.insert_if_absent([first._replace(body=b"x", digest=b"d" * 16)], token=2)
    storage.insert_dead_letters([dead_letter("s", Message(b"", correlation=b"o-7"), "invalid-json", "no\tJSON")])
    storage.insert_dead_letters([dead_letter("s", Message(b"", correlation=b"o-8"), "invalid-json", "")])
    held = {one.route: one for one in storage.claim(A, ["shop:place"], 9)}
    why = "Traceback\n  File x\nValueError: no stock\n"
    storage.finish([retry(held["r"], detail=why, delay=0), success(held["other"])])
    shown = [line.split("\t") for line in run("trace", "o-7").stdout.splitlines()]
    assert sorted(line[0] for line in shown) == [line[0] for line in shown]
    kinds = [(line[1], line[3]) for line in shown]
    assert sorted(kinds) == sorted(
        [
            *[("CREATED", "r"), ("CREATED", "other"), ("CONFLICT", "r"), ("DEAD_LETTER", "")],
            *[("STARTED", "r"), ("STARTED", "other"), ("FAILED", "r"), ("SUCCEEDED", "other")],
        ]
    )
    details = {line[1]: line[5] for line in shown if line[3] != "other"}
    assert details["CREATED"] == "from s, for shop:place"
    assert details["FAILED"] == "ValueError: no stock"
    assert details["DEAD_LETTER"] == "invalid-json: no\\tJSON"
    whole = json.loads(run("trace", "o-7", "-o", "json").stdout)
    assert len(whole) == 8 and "Traceback\n" in next(one["detail"] for one in whole if one["kind"] == "FAILED")


def test_a_correlation_id_of_dead_letters_alone_is_found_and_an_unknown_one_is_5(storage: Storage) -> None:
    """And one that is no text is found as it is shown."""
    storage.insert_dead_letters([dead_letter("s", Message(b"", correlation=b"\xff\x00"), "too-large", "")])
    assert "DEAD_LETTER" in run("trace", "\\xff\\x00").stdout
    unknown = run("trace", "o-7")
    assert (unknown.exit_code, unknown.stdout) == (5, "")
