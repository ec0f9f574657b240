"""The verbs that act on jobs: what they take, when they ask, how they end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bridge.cli import acts
from bridge.cli.main import cli
from scheduler.job import JobState
from scheduler.storage import Storage, open_storage
from tests.conformance.stores import DAY, claimed, failure, force, put, some_jobs, success

CONFIGURATION = """\
store: sqlite:///jobs.db
sources: {s: {queue: s}}
routes: [{name: r, from: s, handler: "shop:place", dedupe: {window: 3d}}]
"""
Run = Callable[..., Result]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """Give a store with three jobs that failed, and its configuration in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBBRIDGE_CONFIG", raising=False)
    Path("bridge.yaml").write_text(CONFIGURATION)
    with contextlib.closing(open_storage("sqlite:///jobs.db")) as opened:
        opened.migrate()
        opened.finish([failure(held) for held in claimed(opened, 3)])
        yield opened


def run(*arguments: str, given: str = "") -> Result:
    done = CliRunner().invoke(cli, arguments, input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def failed(storage: Storage) -> int:
    return storage.count_by_state()[JobState.FAILED]


def lines(storage: Storage, correlation: str) -> list[str]:
    (found,) = storage.find_jobs(correlation)
    key = found["id"]
    assert isinstance(key, UUID)
    return [str(one["detail"]) for one in storage.job_events(key.bytes)]


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ((), "give ids, or - to read them from a pipe, or --all-matching"),
        (("job-0", "--all-matching"), "give ids"),
        (("job-0", "--state", "FAILED"), "go with --all-matching"),
        (("job-0", "--dry-run"), "go with --all-matching"),
        (("--all-matching",), "add --yes, or --dry-run"),
        (("--all-matching", "--yes", "--state", "PROCESSING"), "requeue is for jobs that are DELETED, FAILED, SUCCE"),
        (("--all-matching", "--yes", "--since", "soon"), "neither a duration"),
        (("--all-matching", "--yes", "--since", "2026-02-30"), "neither a duration"),
    ],
)
def test_wrong_usage_touches_nothing(storage: Storage, arguments: tuple[str, ...], mend: str) -> None:
    done = run("jobs", "requeue", *arguments)
    assert (done.exit_code, done.stdout, failed(storage)) == (2, "", 3)
    assert mend in done.stderr


def test_a_terminal_is_asked(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number; no is no."""
    monkeypatch.setattr(acts, "_may_ask", lambda: True)
    for answer in ("\n", "n\n"):
        done = run("jobs", "requeue", "--all-matching", given=answer)
        assert (done.exit_code, done.stdout, failed(storage)) == (1, "", 3)
        assert "requeue 3 jobs? [y/N]" in done.stderr and "nothing was done" in done.stderr
    done = run("jobs", "requeue", "--all-matching", "-o", "json", given="y\n")
    assert (done.exit_code, failed(storage)) == (0, 0)
    assert json.loads(done.stdout) == {"matched": 3, "done": 3, "body_dropped": 0, "lost_race": 0}


def test_a_dry_run_counts_and_touches_nothing(storage: Storage) -> None:
    (dropped,) = claimed(storage, prefix="done")
    storage.finish([success(dropped, drop_body=True)])
    done = run("jobs", "requeue", "--all-matching", "--dry-run")
    assert (done.exit_code, done.stdout.splitlines()[:2]) == (0, ["matched\t4", "done\t0"])
    assert "4 jobs match: 3 FAILED, 1 SUCCEEDED" in done.stderr
    assert failed(storage) == 3
    done = run("jobs", "requeue", "--all-matching", "--yes", "--route", "r")
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        ["matched\t4", "done\t3", "body_dropped\t1", "lost_race\t0"],
    )


def test_filters_say_which(storage: Storage) -> None:
    """The same as those of the list."""
    (other,) = claimed(storage, prefix="other")
    storage.finish([failure(other, detail="TimeoutError: 7")])
    for filters, number in (
        (("--error", "timeout"), 1),
        (("--error", "Traceback"), 3),
        (("--route", "r", "--source", "s", "--handler", "h", "--state", "failed"), 4),
        (("--source", "none"), 0),
        (("--since", "1h"), 4),
        (("--since", "2020-01-01T00:00:00Z"), 4),
        (("--since", "2999-01-01"), 0),
        (("--since", "2999-01-01T00:00:00+02:00"), 0),
    ):
        done = run("jobs", "requeue", "--all-matching", "--dry-run", "-o", "json", *filters)
        assert json.loads(done.stdout)["matched"] == number, filters
        listed = run("jobs", "list", *filters)
        assert len(listed.stdout.splitlines()) == number
        assert listed.exit_code == (5 if "none" in filters else 0)


def test_ids_come_from_a_pipe(storage: Storage) -> None:
    """The first column of each line, as the list prints them; each once."""
    listed = run("jobs", "list", "--state", "FAILED", "-o", "tsv").stdout
    done = run("jobs", "requeue", "-", given=listed + "\r\n" + listed)
    assert (done.exit_code, failed(storage)) == (0, 0)
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["DONE"] * 3
    assert "3 DONE" in done.stderr
    assert all(" by " not in line or "; it was FAILED" in line for line in lines(storage, "job-1"))
    empty = run("jobs", "requeue", "-")
    assert (empty.exit_code, empty.stdout) == (0, "")


def test_what_was_refused_is_counted_and_is_1_and_what_is_missing_5(storage: Storage) -> None:
    put(storage, some_jobs(1, "waiting"))
    done = run("jobs", "requeue", "job-0", "waiting-0")
    assert (done.exit_code, "1 DONE, 1 WRONG_STATE" in done.stderr) == (1, True)
    assert "not possible while it is ENQUEUED" in done.stderr
    done = run("jobs", "cancel", "nowhere", "waiting-0")
    assert (done.exit_code, "1 NOT_FOUND, 1 WRONG_STATE" in done.stderr) == (5, True)


def test_run_now_cancel_and_delete_by_id(storage: Storage) -> None:
    """An ended ID is remembered for its route's window."""
    one, other = claimed(storage, 2, prefix="more")
    force(storage, other.key, state="SCHEDULED")
    assert run("jobs", "cancel", str(UUID(bytes=one.key))).exit_code == 0
    assert run("jobs", "run-now", "more-1").exit_code == 0
    assert storage.states([one.key, other.key]) == {one.key: JobState.DELETED, other.key: JobState.ENQUEUED}
    (stands,) = storage.find_jobs("more-0")
    assert int(str(stands["due_at"])) - int(str(stands["finished_at"])) == 3 * DAY
    assert run("jobs", "delete", "more-1").exit_code == 0
    assert lines(storage, "more-1")[0].endswith("; it was SCHEDULED")


def test_wait_tells_how_jobs_ended(storage: Storage) -> None:
    (good,) = claimed(storage, prefix="good")
    storage.finish([success(good)])
    done = run("jobs", "wait", "good-0")
    assert (done.exit_code, done.stdout) == (0, f"{UUID(bytes=good.key)}\tSUCCEEDED\n")
    done = run("jobs", "wait", "-", given="good-0\njob-1\n")
    assert done.exit_code == 1 and "it FAILED" in done.stderr
    put(storage, some_jobs(1, "waiting"))
    done = run("jobs", "wait", "waiting-0", "good-0", "--timeout", "100ms")
    assert done.exit_code == 1 and "it is ENQUEUED still, and 0.1 s have passed" in done.stderr
    done = run("jobs", "wait", "nowhere", "waiting-0", "--timeout", "100ms", "-o", "json")
    assert done.exit_code == 5 and json.loads(done.stdout)[0] == {"id": "nowhere", "result": "NOT_FOUND"}
    assert run("jobs", "wait", "good-0", "--timeout", "soon").exit_code == 2


def test_sources_and_routes_are_paused_by_their_names(storage: Storage) -> None:
    status = json.dumps({"sources": {"s": {"attached": True, "detail": "", "paused": None, "counts": {"new": 7}}}})
    storage.register(b"o" * 16, host="pod-1", pid=7, interval_us=15_000_000, status=status)
    assert run("sources", "pause", "s").exit_code == run("routes", "pause", "r").exit_code == 0
    assert [(one.kind, one.name) for one in storage.pauses()] == [("route", "r"), ("source", "s")]
    (source,) = json.loads(run("sources", "list", "-o", "json").stdout)
    (route,) = json.loads(run("routes", "list", "-o", "json").stdout)
    assert (source["kind"], source["broker"], source["delivery"], source["attached"]) == (
        "local",
        None,
        "shared",
        "1/1",
    )
    assert (source["pods"][0]["host"], source["pods"][0]["counts"]) == ("pod-1", {"new": 7})
    assert "@" in source["paused_by"] and source["paused_at"].endswith("Z")
    assert (route["name"], route["source"], route["handler"]) == ("r", "s", "shop:place")
    assert route["paused_by"] == source["paused_by"]
    for noun in ("sources", "routes"):
        done = run(noun, "pause", "nowhere")
        assert (done.exit_code, done.stdout) == (5, "nowhere\tNOT_FOUND\n")
    assert run("sources", "resume", "s").exit_code == run("routes", "resume", "r").exit_code == 0
    assert storage.pauses() == []
    assert run("routes", "list").stdout == "r\ts\tshop:place\t\t\n"
