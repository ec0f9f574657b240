"""The database or the broker goes away under load and comes back: all pods go on by themselves."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.publish import PublishError
from tests.acceptance.cluster import Cluster, lag, tasks
from tests.servers.kafka import Kafka
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import QueueDepth, RabbitMQ
from tests.servers.server import Server, free_port

QUEUE = "{{broker: bus, queue: {name}}}"
TOPIC = "{{broker: bus, topic: {name}, group: {name}, partitions: 4}}"


class Publisher(threading.Thread):
    """Publishes small batches until it is told to stop; a batch that was not confirmed is published again."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.published = 0
        self._cluster = cluster
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            batch = [(f"task-{k}", {"id": k, "sleep": 0.01}) for k in range(self.published, self.published + 10)]
            while not self._stopping.is_set():
                try:
                    self._cluster.publish(batch)
                except PublishError:
                    self._stopping.wait(0.2)
                else:
                    self.published += len(batch)
                    break

    def stop(self) -> int:
        """How many different tasks are published, each confirmed at least once."""
        self._stopping.set()
        self.join(60)
        return self.published


@pytest.fixture
def publishing() -> Iterator[list[Publisher]]:
    """Publishers that a test starts, stopped whatever happens."""
    started: list[Publisher] = []
    yield started
    for publisher in started:
        publisher.stop()


def _away(server: Server, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()


def _assert_all_done(cluster: Cluster, number: int, *, once: bool) -> None:
    # What was published but not confirmed may have become jobs too.
    def done() -> bool:
        counts = cluster.counts()
        return set(counts) == {"SUCCEEDED"} and counts["SUCCEEDED"] >= number

    assert wait_until(done, 90, 0.2), f"{cluster.counts()} for {number}\n{cluster.log()}"
    starts = cluster.starts()
    assert {f"task-{k}" for k in range(number)} <= set(starts)
    if once:
        assert set(starts.values()) == {1}, {name: times for name, times in starts.items() if times > 1}


def _status(port: int, page: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("heartbeat", "seconds"), [("15s", 20.0), ("1s", 12.0)], ids=["20s", "longer than the heartbeat timeout"]
)
@pytest.mark.timeout(240)
def test_the_database_is_away(
    heartbeat: str,
    seconds: float,
    own_postgresql: PostgreSQL,
    rabbitmq: RabbitMQ,
    queue_name: str,
    tmp_path: Path,
    publishing: list[Publisher],
) -> None:
    """Killed under load: nothing is lost, no live pod is fenced, no job runs again for a result that was held."""
    source = QUEUE.format(name=queue_name)
    with Cluster(
        tmp_path, store=own_postgresql.url, broker=rabbitmq.url, source=source, heartbeat=heartbeat
    ) as cluster:
        port = free_port()
        with (tmp_path / "bridge.yaml").open("a") as file:
            file.write(f"http: {{port: {port}}}\n")
        cluster._pod("--processes", "3")
        assert wait_until(lambda: len(cluster.storage.servers()) == 3, 30), cluster.log()
        before = {row.id for row in cluster.storage.servers()}
        assert wait_until(lambda: _status(port, "readyz") == 200, 20)
        publishing.append(publisher := Publisher(cluster))
        publisher.start()
        assert wait_until(lambda: len(cluster.starts()) > 100, 30), cluster.log()
        own_postgresql.kill()
        assert wait_until(lambda: _status(port, "readyz") == 503, seconds - 2)
        assert _status(port, "livez") == 200
        time.sleep(seconds)
        own_postgresql.start()
        assert wait_until(lambda: _status(port, "readyz") == 200, 30), cluster.log()
        after = len(cluster.starts())
        assert wait_until(lambda: len(cluster.starts()) > after + 50, 30), cluster.log()
        _assert_all_done(cluster, publisher.stop(), once=True)
        assert {row.id for row in cluster.storage.servers()} == before
        assert "held this one for dead" not in cluster.log(100_000)


@pytest.mark.timeout(240)
def test_rabbitmq_is_away(
    own_rabbitmq: RabbitMQ,
    postgresql_url: str,
    queue_name: str,
    tmp_path: Path,
    publishing: list[Publisher],
) -> None:
    """The broker is killed for 20 s under load: the pods attach again, nothing is lost, each job runs once."""
    source = QUEUE.format(name=queue_name)
    with Cluster(tmp_path, store=postgresql_url, broker=own_rabbitmq.url, source=source) as cluster:
        _outage_of_the_broker(cluster, own_rabbitmq, publishing)
        assert wait_until(lambda: own_rabbitmq.queues()[queue_name] == QueueDepth(0, 0), 20, 0.5)


@pytest.mark.timeout(240)
def test_kafka_is_away(
    own_kafka: Kafka, postgresql_url: str, topic_name: str, tmp_path: Path, publishing: list[Publisher]
) -> None:
    """The same for Kafka."""
    source = TOPIC.format(name=topic_name)
    with Cluster(tmp_path, store=postgresql_url, broker=own_kafka.url, source=source) as cluster:
        _outage_of_the_broker(cluster, own_kafka, publishing)
        assert wait_until(lambda: lag(own_kafka, topic_name, topic_name) == 0, 20, 0.5)


def _outage_of_the_broker(cluster: Cluster, server: Server, publishing: list[Publisher]) -> None:
    # Declared first, and then restarted: a broker that is killed in its queue's first seconds may forget the queue, or
    # leave it without a leader.
    cluster.publish([])
    server.restart()
    cluster.start(3)
    publishing.append(publisher := Publisher(cluster))
    publisher.start()
    assert wait_until(lambda: len(cluster.starts()) > 100, 60), cluster.log()
    _away(server, 20.0)
    after = len(cluster.starts())
    assert wait_until(lambda: len(cluster.starts()) > after + 50, 60), cluster.log()
    _assert_all_done(cluster, publisher.stop(), once=True)


def test_all_is_away_at_the_start(
    own_postgresql: PostgreSQL, own_rabbitmq: RabbitMQ, queue_name: str, tmp_path: Path
) -> None:
    """A pod that starts before its database and its broker waits for them, says so, and begins by itself."""
    own_postgresql.stop()
    own_rabbitmq.stop()
    port = free_port()
    (tmp_path / "bridge.yaml").write_text(
        f"""\
store: {own_postgresql.url}
brokers: {{bus: "{own_rabbitmq.url}"}}
sources: {{tasks: {QUEUE.format(name=queue_name)}}}
routes: [{{name: tasks, from: tasks, handler: "tests.acceptance.handlers:work"}}]
pod: {{heartbeat: 1s}}
http: {{port: {port}}}
"""
    )
    cluster = Cluster.over(tmp_path)
    with cluster:
        pod = cluster._pod()
        assert wait_until(lambda: _answers(port), 20), cluster.log()
        assert (_status(port, "livez"), _status(port, "readyz")) == (200, 503)
        own_postgresql.start()
        assert wait_until(lambda: "the store answers again" in cluster.log(), 30), cluster.log()
        assert _status(port, "readyz") == 503
        own_rabbitmq.start()
        assert wait_until(lambda: _status(port, "readyz") == 200, 40), cluster.log()
        cluster.publish(tasks(10))
        cluster.wait_done(10)
        assert cluster.terminate(pod) == 0


def _answers(port: int) -> bool:
    try:
        return _status(port, "livez") > 0
    except OSError:
        return False
