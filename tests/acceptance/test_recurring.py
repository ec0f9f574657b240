"""Recurring jobs as a user has them: pods that are killed while they fire, and the command."""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.cluster import REPOSITORY, Cluster
from tests.servers.processes import wait_until

COMMAND = Path(sys.executable).with_name("jobbridge")
HANDLERS = """\
from scheduler import JobContext, job, recurring
from tests.acceptance.handlers import note

@recurring(every="1s", overlap="allow", misfire="all")
@job(name="beat")
def beat(context: JobContext) -> None:
    note("start", context)
"""
CONFIGURATION = """\
store: "{store}"
handlers: [shop]
recurring:
  nightly: {{cron: "30 2 * * *", timezone: Europe/Amsterdam, handler: beat, overlap: allow}}
  prune: true
pod: {{heartbeat: 1s, workers: 4, grace: 10s, name: "${{POD_NAME:-pod}}"}}
"""


@pytest.fixture
def folder(tmp_path: Path, postgresql_url: str) -> Path:
    (tmp_path / "shop.py").write_text(HANDLERS)
    (tmp_path / "bridge.yaml").write_text(CONFIGURATION.format(store=postgresql_url))
    return tmp_path


def ticks_of(cluster: Cluster) -> list[datetime]:
    found = cluster.storage.list_jobs(route="recurring:beat", limit=1000)
    return sorted(datetime.fromisoformat(str(one["correlation_id"]).partition("@")[2]) for one in found)


@pytest.mark.timeout(240)
def test_each_second_is_one_job_and_one_run_while_masters_are_killed(folder: Path) -> None:
    """Forty seconds, three pods, the master killed and replaced again and again: no second is lost or doubled."""
    with Cluster.over(folder) as cluster:
        cluster.storage.migrate()
        cluster.start(3)
        assert wait_until(lambda: bool(ticks_of(cluster)), 20), cluster.log()
        killed = 0
        until = time.monotonic() + 40
        while time.monotonic() < until:
            time.sleep(min(8.0, max(0.0, until - time.monotonic())))
            (master,) = [row.pid for row, leads in cluster.storage.live_servers() if leads]
            for pod in [pod for pod in cluster.pods if pod.pid == master]:
                pod.kill()
                pod.wait()
                killed += cluster.restart_dead()
        assert killed >= 3
        last = datetime.now(UTC)
        assert wait_until(lambda: ticks_of(cluster)[-1] > last, 30), cluster.log()
        cluster.storage.pause_recurring("beat")
        assert wait_until(lambda: set(cluster.counts()) == {"SUCCEEDED"}, 40), cluster.counts()
        made = ticks_of(cluster)
        assert made == [made[0] + timedelta(seconds=number) for number in range(len(made))]
        assert len(made) >= 40
        starts = {one: number for one, number in cluster.starts().items() if one.startswith("beat@")}
        assert set(starts) == {f"beat@{tick:%Y-%m-%dT%H:%M:%SZ}" for tick in made}
        twice = [one for one, number in starts.items() if number > 1]
        rescued = {str(one["correlation_id"]) for one in cluster.storage.list_jobs(limit=1000) if one["rescues"]}
        assert set(twice) <= rescued, "only a run whose pod was killed in it runs again"


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [COMMAND, "recurring", *arguments],
        cwd=folder,
        env={"PYTHONPATH": REPOSITORY, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def listed(folder: Path) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in json.loads(command(folder, "list", "-o", "json"))}


def test_the_command_shows_and_steers_them(folder: Path) -> None:
    with Cluster.over(folder) as cluster:
        cluster.storage.migrate()
        assert command(folder, "list") == ""
        cluster.start()
        assert wait_until(lambda: len(listed(folder)) == 2, 20), cluster.log()
        shown = listed(folder)
        assert (shown["nightly"]["schedule"], shown["beat"]["schedule"]) == ("30 2 * * *", "every 1s")
        assert (shown["nightly"]["timezone"], shown["nightly"]["paused"]) == ("Europe/Amsterdam", False)
        assert shown["nightly"]["handler"] == "beat"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(shown["nightly"]["next_at"]))
        following = [line.split("\t") for line in command(folder, "next", "nightly", "-n", "10").splitlines()]
        assert len(following) == 10
        assert all(re.fullmatch(r".*T02:30:00\+0[12]:00|.*T03:00:00\+02:00", local) for _, local in following)
        assert str(shown["nightly"]["next_at"]).startswith(following[0][0][:-1])

        command(folder, "pause", "beat")
        assert listed(folder)["beat"]["paused"] is True
        assert wait_until(lambda: set(cluster.counts()) <= {"SUCCEEDED"}, 20)
        stood = len(ticks_of(cluster))
        triggered = command(folder, "trigger", "nightly").strip()
        cluster.wait_done(stood + 1)
        assert [one.partition("!")[0] for one in cluster.starts() if "!" in one] == ["nightly"]
        (job,) = cluster.storage.find_jobs(triggered)
        assert job["route"] == "recurring:nightly"
        assert len(ticks_of(cluster)) == stood, "paused"
        command(folder, "resume", "beat")
        assert wait_until(lambda: len(ticks_of(cluster)) > stood, 20)
        command(folder, "pause", "beat")

        span = ("--from", "2026-03-28T00:00:00Z", "--to", "2026-03-30T02:00:00+02:00")
        made = json.loads(command(folder, "backfill", "nightly", *span, "-o", "json"))
        assert made == {"name": "nightly", "created": 2, "duplicates": 0}
        made = json.loads(command(folder, "backfill", "nightly", *span, "-o", "json"))
        assert made == {"name": "nightly", "created": 0, "duplicates": 2}
        gap = "nightly@2026-03-29T01:00:00Z"
        assert wait_until(lambda: cluster.starts()[gap] == 1, 20), "the time that the clock left out"

        year = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z")
        assert "more than 10000 jobs: say --yes" in command(folder, "backfill", "beat", *year, code=2)
        assert "is not an instant" in command(folder, "backfill", "beat", "--from", "now", "--to", "then", code=2)
        for verb in ("next", "trigger", "pause", "resume"):
            assert "no recurring job is called 'nigthly'" in command(folder, verb, "nigthly", code=5)
        (folder / "bridge.yaml").write_text("store: postgresql://127.0.0.1:1/nowhere\n")
        command(folder, "list", code=4)


def test_what_the_configuration_no_longer_has_is_forgotten_once_no_pod_has_it(folder: Path) -> None:
    """A pod of before keeps it; when the last has gone the row goes, and a change is taken over."""
    with Cluster.over(folder) as cluster:
        cluster.storage.migrate()
        (old,) = cluster.start()
        assert wait_until(lambda: len(listed(folder)) == 2, 20), cluster.log()
        text = (folder / "bridge.yaml").read_text()
        (folder / "bridge.yaml").write_text(re.sub(r"  nightly:.*\n", "", text))
        cluster.start()
        time.sleep(3)
        assert set(listed(folder)) == {"beat", "nightly"}
        cluster.terminate(old)
        cluster.terminate(cluster.pods[0])
        cluster.start()
        assert wait_until(lambda: set(listed(folder)) == {"beat"}, 30), cluster.log()
