"""Pods that die, stop, freeze or are killed by their own job: nothing is lost, and what ran elsewhere stands."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler.job import JobState
from tests.acceptance.cluster import REPOSITORY, Cluster, tasks
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

QUEUE = "{{broker: bus, queue: {name}}}"
TOPIC = "{{broker: bus, topic: {name}, group: {name}, partitions: 4}}"
HEARTBEAT = 0.5
RESCUE_SECONDS = 6 * HEARTBEAT
"""The timeout of four intervals, and two."""


def _kill_one_stop_one(cluster: Cluster) -> None:
    doomed, stopped, _ = cluster.start(3)
    number = 600
    assert cluster.publish(tasks(number, 300, sleep=0.05)) == 900
    assert wait_until(lambda: len(cluster.starts()) > 100, 30), cluster.log()
    cluster.kill(doomed)
    assert wait_until(lambda: len(cluster.starts()) > 200, 30), cluster.log()
    assert cluster.terminate(stopped) == 0
    cluster.wait_done(number)
    starts = cluster.starts()
    assert len(starts) == number
    ended = {effect.correlation_id for effect in cluster.effects() if effect.what == "end"}
    assert len(ended) == number
    again = {correlation for correlation, times in starts.items() if times > 1}
    by_doomed = {effect.correlation_id for effect in cluster.effects() if effect.pid == doomed.pid}
    assert again <= by_doomed
    assert max(starts.values()) <= 2
    events = [event["kind"] for job in cluster.storage.list_jobs(limit=1000) for event in _events(cluster, job)]
    assert set(events) <= {"RESCUED"}


def _events(cluster: Cluster, job: dict[str, object]) -> list[dict[str, object]]:
    key = job["id"]
    return cluster.storage.job_events(key.bytes)  # type: ignore[attr-defined]


def test_kill_and_term_on_rabbitmq(rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path) -> None:
    """One pod is killed and one is stopped in mid-work: a job runs twice only if the killed pod was running it."""
    source = QUEUE.format(name=queue_name)
    with Cluster(
        tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source, heartbeat=f"{HEARTBEAT}s"
    ) as cluster:
        _kill_one_stop_one(cluster)


def test_kill_and_term_on_kafka(kafka: Kafka, postgresql_url: str, topic_name: str, tmp_path: Path) -> None:
    """The same with a consumer group."""
    source = TOPIC.format(name=topic_name)
    with Cluster(tmp_path, store=postgresql_url, broker=kafka.url, source=source, heartbeat=f"{HEARTBEAT}s") as cluster:
        _kill_one_stop_one(cluster)


@pytest.mark.parametrize("victim", ["master", "other"])
def test_orphans_run_again_in_time(victim: str, postgresql_url: str, tmp_path: Path) -> None:
    """A killed pod's jobs run elsewhere within the timeout and two intervals, the master's too."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat=f"{HEARTBEAT}s", workers=4) as cluster:
        cluster.start(2)
        cluster.publish(tasks(8, sleep=60.0))
        assert wait_until(lambda: len(cluster.effects()) == 8, 30), cluster.log()
        masters = {row.pid: master for row, master in cluster.storage.live_servers()}
        doomed = next(pod for pod in cluster.pods if masters[pod.pid] == (victim == "master"))
        mine = {effect.correlation_id for effect in cluster.effects() if effect.pid == doomed.pid}
        assert mine
        cluster.kill(doomed)
        killed = time.monotonic()

        def runnable() -> bool:
            found = [cluster.storage.find_jobs(correlation, ["tasks"])[0] for correlation in mine]
            return all(job["rescues"] == 1 for job in found)

        assert wait_until(runnable, RESCUE_SECONDS + 20, 0.05), cluster.log()
        assert time.monotonic() - killed <= RESCUE_SECONDS
        (tmp_path / "hurry").touch()
        cluster.wait_done(8)


def test_a_paused_pod_is_fenced(postgresql_url: str, tmp_path: Path) -> None:
    """A pod that sleeps past its timeout finds its results refused, and the other pod's stand."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat=f"{HEARTBEAT}s", workers=4) as cluster:
        (zombie,) = cluster.start(1)
        cluster.publish(tasks(4, sleep=1.0))
        assert wait_until(lambda: len(cluster.effects()) == 4, 30), cluster.log()
        zombie.send_signal(signal.SIGSTOP)
        cluster.start(1)
        cluster.wait_done(4, RESCUE_SECONDS + 30)
        before = {str(job["id"]): job for job in cluster.storage.list_jobs()}
        zombie.send_signal(signal.SIGCONT)
        assert wait_until(lambda: cluster.log(1000).count("result refused: fenced") == 4, 30), cluster.log()
        assert {str(job["id"]): job for job in cluster.storage.list_jobs()} == before
        assert {job["version"] for job in before.values()} == {4}
        # It registers anew and works again.
        assert wait_until(lambda: len(cluster.storage.live_servers()) == 2, 20)
        cluster.publish([("later", {"id": 99})])
        cluster.wait_done(5)


def test_a_job_that_kills_its_pod(postgresql_url: str, tmp_path: Path) -> None:
    """It ends FAILED at its fourth orphaning, and the 500 good jobs beside it succeed."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat=f"{HEARTBEAT}s", workers=4) as cluster:
        cluster.start(3)
        good = list(tasks(500, sleep=0.02))
        cluster.publish([*good[:100], ("killer", {"id": -1, "act": "exit"}), *good[100:]])
        wanted = {JobState.SUCCEEDED.value: 500, JobState.FAILED.value: 1}
        deadline = time.monotonic() + 90
        while cluster.counts() != wanted and time.monotonic() < deadline:
            cluster.restart_dead()
            time.sleep(0.2)
        assert cluster.counts() == wanted, cluster.log()
        (killer,) = cluster.storage.find_jobs("killer", ["tasks"])
        assert (killer["state"], killer["rescues"], killer["attempts"]) == ("FAILED", 4, 0)
        assert cluster.starts()["killer"] == 4
        assert len(cluster.ended) == 4
        kinds = [event["kind"] for event in cluster.storage.job_events(killer["id"].bytes)]
        assert kinds == ["RESCUED"] * 4


def test_processes_of_one_machine(postgresql_url: str, tmp_path: Path) -> None:
    """`--processes 2`: a child that dies is replaced, its jobs are rescued without waiting for its timeout, and
    SIGTERM ends all with 0."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat="15s", workers=2) as cluster:
        parent = cluster._pod("--processes", "2")
        assert wait_until(lambda: len(cluster.storage.servers()) == 2, 30), cluster.log()
        cluster.publish([("killer", {"id": -1, "act": "exit"})])
        assert wait_until(lambda: cluster.starts()["killer"] == 1, 30), cluster.log()
        assert wait_until(lambda: cluster.storage.find_jobs("killer", ["tasks"])[0]["rescues"] >= 1, 30), cluster.log()
        assert wait_until(lambda: len(cluster.storage.servers()) == 2, 30), cluster.log()
        cluster.storage.delete(cluster.storage.find_jobs("killer", ["tasks"])[0]["id"].bytes)
        assert cluster.terminate(parent) == 0
        assert cluster.storage.servers() == []


def test_grace_and_second_signal(postgresql_url: str, tmp_path: Path) -> None:
    """SIGTERM waits for what runs; a second one hands it back as ENQUEUED, without a failure, and ends with 1."""
    with Cluster(tmp_path, store=postgresql_url, workers=2) as cluster:
        (pod,) = cluster.start(1)
        cluster.publish(tasks(4, sleep=60.0))
        assert wait_until(lambda: len(cluster.effects()) == 2, 30), cluster.log()
        pod.terminate()
        assert wait_until(lambda: cluster.counts() == {"PROCESSING": 2, "ENQUEUED": 2}, 10), cluster.counts()
        pod.terminate()
        assert cluster.terminate(pod, 10) == 1
        assert cluster.counts() == {"ENQUEUED": 4}
        jobs = cluster.storage.list_jobs()
        assert {(job["attempts"], job["rescues"]) for job in jobs} == {(0, 0)}
        assert cluster.storage.servers() == []


AFTERWARDS = """
import os, signal
from types import SimpleNamespace
from bridge import pod

server = SimpleNamespace(membership=SimpleNamespace())
pod.Pod = lambda configuration: SimpleNamespace(run=lambda: 0, signalled=print, server=server)
code = pod.run_pod(None)
os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(code)
"""


def test_a_signal_after_the_drain_changes_nothing() -> None:
    """Python is on its way out, and its handlers may be gone: the pod still ends as one that has drained."""
    ended = subprocess.run([sys.executable, "-c", AFTERWARDS], cwd=REPOSITORY, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
