"""The main job, with pods as processes: N pods, messages with duplicates, each job executed once."""

from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster, lag, tasks
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

SHARED = "{{broker: bus, queue: {name}}}"
EVERY_POD = "{{broker: bus, queue: {name}, exchange: {name}, exchange_type: fanout, delivery: every-pod}}"
TOPIC = "{{broker: bus, topic: {name}, group: {name}, partitions: 4, delivery: {delivery}}}"

MESSAGES, DUPLICATES = 2000, 1000


def _check(cluster: Cluster) -> None:
    cluster.start(3)
    assert cluster.publish(tasks(MESSAGES, DUPLICATES)) == MESSAGES + DUPLICATES
    cluster.wait_done(MESSAGES)
    starts = cluster.starts()
    assert len(starts) == MESSAGES
    assert set(starts.values()) == {1}
    assert cluster.storage.count_dead_letters() == 0


def _assert_drained(rabbitmq: RabbitMQ, name: str, pods: int) -> None:
    def drained() -> bool:
        ours = [depth for queue, depth in rabbitmq.queues().items() if queue.startswith(name)]
        return len(ours) == pods and not any(depth.ready or depth.unacked for depth in ours)

    assert wait_until(drained, 10, 0.5), rabbitmq.queues()


@pytest.mark.parametrize("database", ["postgresql_url", "mariadb_url"])
def test_shared_queue(
    database: str, rabbitmq: RabbitMQ, queue_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """3,000 messages of 2,000 jobs on a quorum queue: 2,000 are executed, once each, and the queue is empty."""
    url = request.getfixturevalue(database)
    with Cluster(tmp_path, store=url, broker=rabbitmq.url, source=SHARED.format(name=queue_name)) as cluster:
        _check(cluster)
        _assert_drained(rabbitmq, queue_name, 1)


def test_queue_of_every_pod(rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path) -> None:
    """Each pod gets each message, and the jobs are the same."""
    source = EVERY_POD.format(name=queue_name)
    with Cluster(tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source) as cluster:
        cluster.start(3)
        assert wait_until(lambda: sum(name.startswith(queue_name) for name in rabbitmq.queues()) == 3, 20, 0.5)
        assert cluster.publish(tasks(MESSAGES, DUPLICATES)) == MESSAGES + DUPLICATES
        cluster.wait_done(MESSAGES)
        assert set(cluster.starts().values()) == {1}
        _assert_drained(rabbitmq, queue_name, 3)


@pytest.mark.parametrize("delivery", ["shared", "every-pod"])
def test_topic(delivery: str, kafka: Kafka, postgresql_url: str, topic_name: str, tmp_path: Path) -> None:
    """The same from a topic of four partitions, and the group's lag is 0 afterwards."""
    source = TOPIC.format(name=topic_name, delivery=delivery)
    with Cluster(tmp_path, store=postgresql_url, broker=kafka.url, source=source) as cluster:
        _check(cluster)
        assert wait_until(lambda: lag(kafka, topic_name, topic_name) == 0, 20, 0.5)


def test_local_queue_on_sqlite(sqlite_url: str, tmp_path: Path) -> None:
    """The embedded default: one file, no broker."""
    with Cluster(tmp_path, store=sqlite_url) as cluster:
        _check(cluster)
        assert wait_until(lambda: cluster.storage.depth("tasks") == 0, 10)  # the last duplicates may come behind
