"""What `/metrics` says of a pod, its steps taken by hand, on a real store; and the probe by a file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text

from bridge.cli.main import cli
from bridge.config.load import load
from bridge.config.model import LocalSourceSection
from bridge.message import Message
from bridge.metrics import Metrics, Watched
from bridge.pod import Pod
from bridge.pulse import STALE, Pulse
from bridge.sources.local import publish_local
from scheduler.storage import StoreUnavailable

CONFIGURATION = """\
store: {store}
sources: {{in: {{queue: in}}, idle: {{queue: idle}}}}
routes:
  - {{name: placed, from: in, handler: "tests.unit.test_metrics:place"}}
  - {{name: unused, from: idle, handler: "tests.unit.test_metrics:place"}}
defaults: {{retries: 0}}
recurring:
  hourly: {{every: 1h, handler: "tests.unit.test_metrics:place"}}
"""

COUNTERS = """
    messages source,outcome; messages_rejected source,reason; source_reconnects source; acks_dropped source;
    jobs_finished route,handler,outcome; jobs_rescued reason; store_errors kind"""
HISTOGRAMS = """
    ingest_seconds source; ingest_commit_seconds source; ingest_batch_messages source; store_seconds verb;
    job_run_seconds route,handler; job_wait_seconds route,handler; job_end_to_end_seconds route,handler;
    duties_seconds duty"""
GAUGES = """
    source_up source; source_paused source,reason; source_lag_messages source; source_unacked_oldest_seconds source;
    source_last_message_timestamp_seconds source; workers; workers_busy; results_held; heartbeat_timestamp_seconds;
    store_up; master; build_info version,python,store; config_info digest"""
OF_THE_MASTER = """
    backlog_jobs route; backlog_oldest_seconds route; jobs state; dead_letters source; servers state;
    recurring_last_fire_timestamp_seconds id"""
KINDS = {"counter": COUNTERS, "histogram": HISTOGRAMS, "gauge": f"{GAUGES};{OF_THE_MASTER}"}


def listed(table: str) -> dict[str, set[str]]:
    """Each metric of a table with its labels."""
    metrics = (entry.split() for entry in table.split(";"))
    return {f"jobbridge_{name}": set(labels[0].split(",")) if labels else set() for name, *labels in metrics}


# What operators' rules and dashboards are written for.
TABLE = {name: (kind, labels) for kind, table in KINDS.items() for name, labels in listed(table).items()}
HANDLER = "tests.unit.test_metrics:place"


def place(order: dict[str, object]) -> None:
    if order.get("bad"):
        raise ValueError("bad order")


class Stepped:
    """A pod whose loops are stepped by the test, and its metrics."""

    def __init__(self, file: Path) -> None:
        self.configuration = load(file, import_handlers=True)
        self.pod = Pod(self.configuration)
        assert self.pod._await_store()
        ingests = list(zip(self.pod._sources, self.pod._ingests, strict=True))
        storages = (self.pod._storage, self.pod._heartbeat_storage)
        versions = {"jobbridge": "1", "python": "3"}
        self.metrics = Metrics(
            Watched(self.pod.server, storages, ingests, lambda: self.pod._gate.by_operators, versions, "d1")
        )

    def pass_through(self) -> None:
        """Beat, receive, run, finish, do the duties."""
        server = self.pod.server
        server.membership.step()
        self.pod._gate.step()
        for ingest in self.pod._ingests:
            ingest.step()
        for _ in range(3):
            server.claimer.step()
            while server.worker.executors.run_one():
                pass
            server.finisher.step()
        server.duties.hurry()
        server.duties.step()

    def publish(self, *bodies: object) -> None:
        section = self.configuration.sources["in"]
        assert isinstance(section, LocalSourceSection)
        publish_local(
            self.pod._storage,
            section,
            [Message(json.dumps(body).encode(), correlation=os.urandom(8)) for body in bodies],
        )

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """By the sample's name without its prefix, by its labels' values in the order of their names."""
        body, content_type = self.metrics.page("text/plain")
        assert content_type.startswith("text/plain")
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name.startswith("jobbridge_"):
                    values = tuple(sample.labels[name] for name in sorted(sample.labels))
                    found.setdefault(sample.name.removeprefix("jobbridge_"), {})[values] = sample.value
        return found


@pytest.fixture
def stepped(tmp_path: Path, sqlite_url: str) -> Iterator[Stepped]:
    """Give a pod that is alone, and the master."""
    file = tmp_path / "bridge.yaml"
    file.write_text(CONFIGURATION.format(store=sqlite_url))
    made = Stepped(file)
    yield made
    made.pod._storage.close()
    made.pod._heartbeat_storage.close()


def test_all_metrics_of_the_table_are_there(stepped: Stepped) -> None:
    """With their types and labels, and none besides."""
    storage = stepped.pod._storage
    storage.pause("source", "idle", "ann")
    stepped.publish({"id": 1}, "no dict")
    stepped.pass_through()
    stepped.pod.server.worker.draining = True
    stepped.publish({"id": 2})
    stepped.pass_through()
    with storage.engine.connect() as connection:
        connection.execute(text("UPDATE jobbridge_recurring SET last_at = 1"))
    with pytest.raises(ValueError, match="no number"):
        storage.backlog("no number")  # type: ignore[arg-type]
    stepped.pass_through()
    body, _ = stepped.metrics.page("")
    shown: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(body.decode()):
        if family.name.startswith("jobbridge_"):
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            shown[family.name] = (family.type, labels)
    shown = {name: kind for name, kind in shown.items() if not name.endswith("_created")}
    assert shown == TABLE


def test_messages_and_jobs_are_counted(stepped: Stepped) -> None:
    """What came of each, and how long it took."""
    stepped.publish({"id": 1}, {"id": 2}, "no dict", {"bad": True})
    stepped.pass_through()
    stepped.pass_through()
    found = stepped.samples()
    assert found["messages_total"] == {("created", "in"): 3, ("rejected", "in"): 1}
    assert sum(found["messages_rejected_total"].values()) == 1
    assert found["jobs_finished_total"] == {
        (HANDLER, "succeeded", "placed"): 2,
        (HANDLER, "failed", "placed"): 1,
    }
    for name in ("run", "wait", "end_to_end"):
        assert found[f"job_{name}_seconds_count"] == {(HANDLER, "placed"): 3}
    assert found["ingest_batch_messages_sum"]["in",] == 4
    assert (found["workers"][()], found["workers_busy"][()], found["store_up"][()]) == (20, 0, 1)
    assert found["source_lag_messages"] == {("in",): 0, ("idle",): 0}
    assert found["source_last_message_timestamp_seconds"].keys() == {("in",)}
    assert found["store_seconds_count"]["finish",] == 1
    assert found["config_info"] == {("d1",): 1}


def test_the_whole_store_is_seen_by_the_master_alone(stepped: Stepped) -> None:
    """One query a heartbeat, and none for a page."""
    stepped.pod._storage.pause("route", "placed", "ann")
    stepped.publish({"id": 1}, "no dict")
    stepped.pass_through()
    found = stepped.samples()
    assert found["jobs"] == {("SCHEDULED",): 0, ("ENQUEUED",): 1, ("PROCESSING",): 0}
    assert "backlog_jobs" not in found  # its route is paused
    assert found["dead_letters"] == {("in",): 1}
    assert found["servers"] == {("live",): 1, ("silent",): 0}
    stepped.pod._storage.resume("route", "placed")
    stepped.pod.server.duties.hurry()
    stepped.pod.server.duties.step()
    asked: list[str] = []
    for storage in (stepped.pod._storage, stepped.pod._heartbeat_storage):
        event.listen(storage.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    found = stepped.samples()
    assert found["backlog_jobs"] == {("placed",): 1}
    assert asked == []
    stepped.pod.server.membership.is_master = False
    assert not {f"jobbridge_{name}" for name in stepped.samples()} & set(listed(OF_THE_MASTER))


def test_a_verb_that_fails_is_counted_by_its_kind(stepped: Stepped, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreUnavailable("the password is C4n4ry")

    stepped.pass_through()
    monkeypatch.setattr(stepped.pod._storage, "connection", away)
    with pytest.raises(StoreUnavailable):
        stepped.pod._storage.backlog(1)
    stepped.pod.server.outage.begins(StoreUnavailable("the password is C4n4ry"))
    found = stepped.samples()
    assert (found["store_errors_total"], found["store_up"]) == ({("unavailable",): 1}, {(): 0})
    assert b"C4n4ry" not in stepped.metrics.page("")[0]


def test_a_pod_without_http_loads_no_metrics(tmp_path: Path, sqlite_url: str) -> None:
    """In a fresh process, whose pod was made and served nothing."""
    file = tmp_path / "bridge.yaml"
    file.write_text(f"store: {sqlite_url}\nsources: {{in: {{queue: in}}}}\n")
    code = (
        "import sys; from bridge.pod import Pod; from bridge.config.load import load; from pathlib import Path\n"
        f"pod = Pod(load(Path({str(file)!r}), import_handlers=True)); assert not pod._serve()\n"
        "print([name for name in sys.modules if name.startswith('prometheus')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("how", ["live", "ready"])
def test_the_probe_reads_the_heartbeat_file(tmp_path: Path, how: str) -> None:
    """Well, not well, too old, gone."""
    file, alive = tmp_path / "bridge.yaml", tmp_path / "alive"
    file.write_text(f"pod: {{heartbeat_file: {alive}}}\n")
    wrong = {"live": "", "ready": ""}
    pulse = Pulse(alive, lambda: {"claim": wrong["live"]}, lambda: {"store": wrong["ready"]})

    def probe() -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["health", "-c", str(file), f"--{how}"])
        return done.exit_code, done.stderr

    assert probe() == (0, "")
    wrong[how] = "its thread has ended"
    pulse._write()
    assert probe() == (1, f"jobbridge: {'claim' if how == 'live' else 'store'}: its thread has ended\n")
    wrong[how] = ""
    pulse._write()
    wrong["live" if how == "ready" else "ready"] = "something else"
    assert probe()[0] == 0
    long_ago = alive.stat().st_mtime - STALE - 5
    os.utime(alive, (long_ago, long_ago))
    assert (probe()[0], "s ago" in probe()[1]) == (1, True)
    pulse.stop()
    assert not alive.exists()
    assert probe() == (1, f"jobbridge: pod: {alive} can't be read: FileNotFoundError\n")


def test_the_probe_says_when_there_is_nothing_to_ask(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text("pod: {workers: 1}\n")
    done = CliRunner().invoke(cli, ["health", "-c", str(file)])
    assert (done.exit_code, "pod.heartbeat_file" in done.stderr) == (2, True)
