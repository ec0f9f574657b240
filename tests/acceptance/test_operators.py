"""What operators do to a cluster at work: with the command, while pods run as processes on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.cluster import Cluster, tasks
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

COMMAND = Path(sys.executable).with_name("jobbridge")
HEARTBEAT = 1.0


def cluster_of(folder: Path, url: str, **more: str) -> Cluster:
    return Cluster(folder, store=url, heartbeat=f"{HEARTBEAT:g}s", workers=4, **more)


def command(cluster: Cluster, *arguments: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, with this exit code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBBRIDGE")}
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cluster.folder, input=given, capture_output=True, text=True, env=kept, timeout=60
    )
    assert done.returncode == code, done.stderr + cluster.log()
    return done


def test_failed_jobs_are_requeued_from_a_pipe_and_all_at_once(postgresql_url: str, tmp_path: Path) -> None:
    """Those that fail again are not requeued a second time."""
    with cluster_of(tmp_path, postgresql_url, route=", retries: 0") as cluster:
        cluster.start(2)
        cluster.publish(tasks(20, act="raise"))
        cluster.wait_for({"FAILED": 20})
        listed = command(cluster, "jobs", "list", "--state", "FAILED", "--limit", "5", "-o", "tsv").stdout
        done = command(cluster, "jobs", "requeue", "-", given=listed)
        assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["DONE"] * 5
        assert wait_until(lambda: sum(cluster.starts().values()) == 25, 20), cluster.log()
        cluster.wait_for({"FAILED": 20})
        matching = ("jobs", "requeue", "--all-matching", "--state", "FAILED", "--error", "as asked", "-o", "json")
        assert json.loads(command(cluster, *matching, "--dry-run").stdout)["matched"] == 20
        command(cluster, *matching, code=2)
        assert sum(cluster.starts().values()) == 25
        told = json.loads(command(cluster, *matching, "--yes").stdout)
        assert (told["matched"], told["done"]) == (20, 20)
        assert wait_until(lambda: sum(cluster.starts().values()) == 45, 20), cluster.log()
        cluster.wait_for({"FAILED": 20})
        history = json.loads(command(cluster, "jobs", "show", "task-7", "-o", "json").stdout)["history"]
        acts = [line["detail"] for line in history if line["kind"] == "REQUEUED"]
        assert acts and all(line.startswith("by ") and line.endswith("; it was FAILED") for line in acts)


def test_a_running_job_is_cancelled_and_waited_for(postgresql_url: str, tmp_path: Path) -> None:
    """Its handler sees `context.cancelled` by the next heartbeat; a wait tells how each ended."""
    with cluster_of(tmp_path, postgresql_url) as cluster:
        cluster.start(2)
        cluster.publish([("good", {"id": 1}), ("long", {"id": 2, "act": "cancellable"})])
        command(cluster, "jobs", "wait", "good", "--timeout", "20s")
        assert wait_until(lambda: cluster.starts()["long"] == 1, 20), cluster.log()
        late = command(cluster, "jobs", "wait", "long", "--timeout", "200ms", code=1)
        assert "PROCESSING still" in late.stderr
        command(cluster, "jobs", "cancel", "long")
        command(cluster, "jobs", "wait", "good", "long", code=1)
        ended = lambda: {effect.correlation_id for effect in cluster.effects() if effect.what == "end"}  # noqa: E731
        assert wait_until(lambda: "long" in ended(), 4 * HEARTBEAT + 5), cluster.log()
        cluster.wait_for({"SUCCEEDED": 1, "DELETED": 1})
        command(cluster, "jobs", "cancel", "long", code=1)
        command(cluster, "jobs", "wait", "nowhere", "--timeout", "100ms", code=5)


def test_a_paused_source_stands_still_in_all_pods(
    postgresql_url: str, rabbitmq: RabbitMQ, queue_name: str, tmp_path: Path
) -> None:
    """Messages wait in the broker; a pod that starts meanwhile takes none of them either."""
    source = f"{{broker: bus, queue: {queue_name}}}"
    with cluster_of(tmp_path, postgresql_url, broker=rabbitmq.url, source=source) as cluster:
        cluster.start(2)
        cluster.publish(tasks(10))
        cluster.wait_done(10)
        command(cluster, "sources", "pause", "tasks")

        def paused(pods: int) -> bool:
            (told,) = json.loads(command(cluster, "sources", "list", "-o", "json").stdout)
            return [str(pod["paused"])[:9] for pod in told["pods"]] == ["paused by"] * pods

        assert wait_until(lambda: paused(2), 4 * HEARTBEAT + 10, 0.2), cluster.log()
        cluster.publish((f"late-{k}", {"id": k}) for k in range(20))
        cluster.start()
        assert wait_until(lambda: paused(3), 4 * HEARTBEAT + 10, 0.2), cluster.log()
        assert wait_until(lambda: rabbitmq.queues()[queue_name].ready == 20, 10, 0.5), rabbitmq.queues()
        assert cluster.counts() == {"SUCCEEDED": 10}
        command(cluster, "sources", "resume", "tasks")
        cluster.wait_done(30)


def test_jobs_of_a_paused_route_wait_in_the_store(postgresql_url: str, tmp_path: Path) -> None:
    """What runs finishes, what was fetched ahead goes back, what comes becomes a job; nothing starts."""
    with cluster_of(tmp_path, postgresql_url) as cluster:
        cluster.start(2)
        cluster.publish(tasks(40, sleep=4))
        assert wait_until(lambda: len(cluster.starts()) >= 4, 20), cluster.log()
        command(cluster, "routes", "pause", "tasks")

        def quiet() -> bool:
            counts = cluster.counts()
            return counts.get("PROCESSING", 0) == 0 and counts.get("SUCCEEDED", 0) == len(cluster.starts())

        assert wait_until(quiet, 20, 0.2), cluster.log()
        ran = cluster.counts()["SUCCEEDED"]
        assert 4 <= ran < 40
        (tmp_path / "hurry").touch()
        cluster.publish((f"late-{k}", {"id": k}) for k in range(10))
        cluster.wait_for({"SUCCEEDED": ran, "ENQUEUED": 50 - ran})
        assert json.loads(command(cluster, "routes", "list", "-o", "json").stdout)[0]["paused_by"]
        command(cluster, "routes", "resume", "tasks")
        cluster.wait_done(50)
        assert set(cluster.starts().values()) == {1}
