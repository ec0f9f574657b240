"""`stats`, `sources list`, `top` and `report`: what pods counted and said of themselves, and nothing secret."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import stats
from bridge.cli.main import cli
from bridge.dead_letters import dead_letter
from bridge.message import Message
from scheduler.counts import Counted
from scheduler.storage import Storage, StoreUnavailable, open_storage
from tests.conformance.stores import A, B, claimed, failure, job, put

CANARY = "CANARY-7f3a"
CONFIGURATION = """\
store: sqlite:///jobs.db
brokers: {rabbit: {url: "amqp://h/", username: u, password: "${PASSWORD}"}, events: "kafka://h:1"}
sources:
  orders: {broker: rabbit, queue: orders}
  payments: {broker: events, topic: payments}
routes:
  - {name: r, from: orders, handler: "shop:place"}
  - {name: idle, from: payments, handler: "shop:place"}
recurring: {nightly: {every: 1h, handler: "shop:place", body: {token: "${PASSWORD}"}}}
tests: [{name: t, message: {source: orders, body: "${PASSWORD}"}}]
"""


def status(number: int) -> str:
    sources = {
        "orders": {"attached": True, "lag": 7, "last_receive_ago": 2.0 * number, "oldest_unacked": 0.5 * number},
        "payments": {"attached": number == 1, "lag": 3, "last_receive_ago": None, "oldest_unacked": 0.0},
    }
    return json.dumps({"workers": 20, "busy": 3, "memory": 64 * 2**20, "progress": {CANARY: 1}, "sources": sources})


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """Give a store of two pods, which have counted; with a secret in all that a message or an error can hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBBRIDGE_CONFIG", raising=False)
    monkeypatch.setenv("PASSWORD", CANARY)
    Path("bridge.yaml").write_text(CONFIGURATION)
    with contextlib.closing(open_storage("sqlite:///jobs.db")) as opened:
        opened.migrate()
        for number, server in enumerate((A, B), 1):
            opened.register(server, host=f"pod-{number}", pid=1, interval_us=15_000_000, status=status(number))
        minute = opened.clock() // 60_000_000
        of_r = [Counted(minute - 90, "orders", "r", "created", 500), Counted(minute, "orders", "r", "created", 36)]
        opened.record(A, [*of_r, Counted(minute, "orders", "", "rejected", 2)])
        opened.record(B, [Counted(minute, "orders", "r", "created", 36)])
        frames = 'Traceback (most recent call last):\n  File "shop.py", line 1, in place\n    x()\n'
        for trace in (f"{frames}shop.Empty: {CANARY}\nx: y", f"ValueError: {CANARY}"):
            secret = {"body": CANARY.encode(), "headers": json.dumps({"h": CANARY})}
            (held,) = claimed(opened, prefix=f"{CANARY}-{len(trace)}", **secret)
            opened.finish([failure(held, detail=trace)])
        opened.insert_dead_letters([dead_letter("orders", Message(CANARY.encode()), "invalid-json", f"at {CANARY}")])
        put(opened, [job("waiting", route="r")])
        yield opened


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def test_stats_sums_what_all_pods_counted_in_a_window(storage: Storage) -> None:
    """By source, route and outcome; the rate is over the window."""
    assert [line.split("\t") for line in run("stats").stdout.splitlines()] == [
        ["orders", "", "rejected", "2", "0.000556"],
        ["orders", "r", "created", "72", "0.02"],
    ]
    (_, created) = json.loads(run("stats", "--window", "7d", "-o", "json").stdout)
    assert created["n"] == 572
    assert run("stats", "--window", "soon").exit_code == 2


def test_sources_say_how_far_behind_they_are(storage: Storage) -> None:
    """Pods see one queue, but each its own partitions; of times the last receive and the oldest ack count."""
    orders, payments = json.loads(run("sources", "list", "-o", "json").stdout)
    facts = ("attached", "lag", "last_receive_ago", "oldest_unacked")
    assert [orders[fact] for fact in facts] == ["2/2", 7, 2.0, 1.0]
    assert [payments[fact] for fact in facts] == ["1/2", 6, None, 0.0]


def test_a_report_has_what_is_needed_and_nothing_secret(storage: Storage) -> None:
    """The types of errors, and neither their text nor a body, a header, an ID, a password."""
    done = run("report")
    assert done.exit_code == 0 and CANARY not in done.output
    shown = json.loads(done.stdout)
    assert {"jobbridge", "python", "scheduler", "sqlalchemy", "pika"} <= set(shown["versions"])
    assert shown["configuration"]["brokers"]["rabbit"]["password"] == "**********"
    assert [server["status"]["busy"] for server in shown["servers"]] == [3, 3]
    assert {(one["error"], one["n"]) for one in shown["failed"]} == {("shop.Empty", 1), ("ValueError", 1)}
    assert shown["dead_letters"] == [{"source": "orders", "reason": "invalid-json", "n": 1}]
    assert shown["backlog"][0]["waiting"] == 1 and len(shown["counted"]) == 2


def test_a_report_is_made_of_a_store_that_is_away_too(storage: Storage) -> None:
    """That is when it is needed: it says what the store said."""
    Path("bridge.yaml").write_text(CONFIGURATION.replace("sqlite:///jobs.db", "sqlite:///nowhere/jobs.db"))
    shown = json.loads(run("report").stdout)
    assert "not reachable" in shown["store"] and shown["digest"]


def test_top_is_for_a_terminal_and_shows_pods_sources_and_routes(storage: Storage) -> None:
    """Until Ctrl-C, which is no failure."""
    assert run("top").exit_code == 2
    ours, theirs = pty.openpty()
    command = [Path(sys.executable).with_name("jobbridge"), "top", "--interval", "50ms"]
    watching = subprocess.Popen(
        command,
        stdout=theirs,
        env=os.environ | {"COLUMNS": "120", "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    os.close(theirs)
    shown = b""
    while not all(word in shown for word in (b"pod-2", b"2/2", b"idle", b"0.24")):
        shown += os.read(ours, 65_536)
    watching.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while os.read(ours, 65_536):
            pass
    assert watching.wait() == 0
    os.close(ours)


def test_top_goes_on_while_the_store_does_not_answer(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so meanwhile."""
    answers: list[object] = [StoreUnavailable("gone"), []]
    pages: list[object] = []

    def rows(_: Storage) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(_: float) -> None:
        if not answers:
            raise KeyboardInterrupt

    monkeypatch.setattr(stats, "chosen", lambda _: "table")
    monkeypatch.setattr(type(storage), "backlog_by_route", rows)
    monkeypatch.setattr("rich.live.Live.update", lambda _, page, refresh: pages.append(page))
    monkeypatch.setattr(stats.time, "sleep", pause)
    assert run("top").exit_code == 0
    assert pages[0] == "the store does not answer: gone" and len(pages) == 2
