"""Messages that can't become jobs, and handlers that misbehave: each gets its reason, and the next one goes on."""

import json
from pathlib import Path

import pika
import pytest
from kafka import KafkaProducer

from bridge.message import Message
from bridge.publish import publish_amqp, publish_kafka
from tests.acceptance.cluster import Cluster
from tests.integration.amqp_wire import POISON, publish_raw
from tests.integration.test_kafka import RawName
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

GOOD = b'{"id": 1}'
BAD = {
    "missing-correlation-id": Message(GOOD),
    "invalid-json": Message(b'{"id": ', correlation=b"a"),
    "nan": Message(b'{"id": 1, "sleep": NaN}', correlation=b"b"),
    "duplicate-name": Message(b'{"id": 1, "id": 2}', correlation=b"c"),
    "brackets": Message(b"[" * 100_000, correlation=b"d"),
    "digits": Message(b'{"id": ' + b"9" * 5000 + b"}", correlation=b"e"),
    "invalid-body": Message(b'{"id": "x"}', correlation=b"f"),
    "not-utf-8": Message(b'{"id": "\xff"}', correlation=b"g"),
    "too-large": Message(b'{"id": 1, "act": "' + b"x" * 140_000 + b'"}', correlation=b"h"),
}
REASONS = sorted(["missing-correlation-id", "invalid-body", "too-large", *["invalid-json"] * 6])


def _assert_rejected(cluster: Cluster, reasons: list[str]) -> None:
    cluster.wait_done(2)
    assert wait_until(lambda: cluster.storage.count_dead_letters() == len(reasons), 20), cluster.log()
    letters = cluster.storage.list_dead_letters(limit=100)
    assert sorted(str(letter["reason"]) for letter in letters) == reasons
    details = {str(letter["correlation_id"]): str(letter["detail"]) for letter in letters}
    assert "id" in details["f"]
    assert "'id' appears twice" in details["c"]
    bodies = {str(letter["correlation_id"]): cluster.storage.dead_letter(letter["id"].bytes) for letter in letters}
    for message in BAD.values():
        letter = bodies[(message.correlation or b"").decode()]
        assert letter is not None
        assert letter["body"] == message.body


def test_on_rabbitmq(rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path) -> None:
    """All kinds between two good messages, and header tables that pika can't read."""
    source = f"{{broker: bus, queue: {queue_name}, max_message_bytes: 128KiB}}"
    with Cluster(tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source) as cluster:
        section, broker = cluster.configuration.sources["tasks"], cluster.configuration.brokers["bus"]
        publish_amqp(broker, section, [Message(GOOD, correlation=b"first"), *BAD.values()])
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for name, table in POISON.items():
                publish_raw(channel, queue_name, GOOD, table, f"poison-{name}")
        publish_amqp(broker, section, [Message(GOOD, correlation=b"last")])
        cluster.start(2)
        _assert_rejected(cluster, sorted([*REASONS, *["undecodable"] * len(POISON)]))
        depth = rabbitmq.queues()[queue_name]
        assert wait_until(lambda: (depth.ready, depth.unacked) == (0, 0), 10)


def test_on_kafka(kafka: Kafka, postgresql_url: str, topic_name: str, tmp_path: Path) -> None:
    """The same, and a header name that is not UTF-8: that record is told by its coordinates."""
    source = f"{{broker: bus, topic: {topic_name}, group: {topic_name}, partitions: 1, max_message_bytes: 128KiB}}"
    with Cluster(tmp_path, store=postgresql_url, broker=kafka.url, source=source) as cluster:
        section, broker = cluster.configuration.sources["tasks"], cluster.configuration.brokers["bus"]
        publish_kafka(broker, section, [Message(GOOD, correlation=b"first"), *BAD.values()])
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=0)
        producer.send(topic_name, GOOD, headers=[(RawName("x"), b"1")]).get(20)
        producer.close()
        publish_kafka(broker, section, [Message(GOOD, correlation=b"last")])
        cluster.start(2)
        _assert_rejected(cluster, sorted([*REASONS, "undecodable"]))
        (letter,) = cluster.storage.list_dead_letters(reason="undecodable")
        assert letter["coordinates"] == f"{topic_name}/0/{1 + len(BAD)}"


ROUTES = """
routes:
  - {name: fails, from: tasks, when: {type: fails}, handler: "misbehaving:fails", retries: 1, backoff: {base: 10ms}}
  - {name: exits, from: tasks, when: {type: exits}, handler: "misbehaving:exits", retries: 0}
  - {name: recurs, from: tasks, when: {type: recurs}, handler: "misbehaving:recurs", retries: 0}
  - {name: hangs, from: tasks, when: {type: hangs}, handler: "misbehaving:hangs", retries: 0, timeout: 300ms}
  - {name: sleeps, from: tasks, when: {type: sleeps}, handler: "misbehaving:sleeps", retries: 0, timeout: 300ms}
  - {name: coroutine, from: tasks, when: {type: coroutine}, handler: "misbehaving:coroutine", retries: 0}
  - {name: exits-async, from: tasks, when: {type: exits-async}, handler: "misbehaving:exits_async", retries: 0}
  - {name: good, from: tasks, handler: "misbehaving:good"}
"""
MISBEHAVING = """
import asyncio, sys, threading

def fails(): raise ValueError("out of \\x00 paper \\ud800")
def exits(): sys.exit(3)
def recurs(): recurs()
def hangs(): threading.Event().wait(30)
async def sleeps(): await asyncio.sleep(30)
def coroutine(): return asyncio.sleep(0)
async def exits_async(): sys.exit(3)
def good(): pass
"""
ENDS = {
    "fails": ("ValueError: out of", 2),
    "exits": ("SystemExit: 3", 1),
    "recurs": ("RecursionError", 1),
    "hangs": ("HandlerTimeout: ran longer than its timeout of 0.3 s", 1),
    "sleeps": ("HandlerTimeout: ran longer than its timeout of 0.3 s", 1),
    "coroutine": ("TypeError: misbehaving:coroutine returned a coroutine", 1),
    "exits-async": ("SystemExit: 3", 1),
}


@pytest.mark.parametrize("database", ["sqlite_url", "postgresql_url", "mariadb_url"])
def test_handlers_that_misbehave(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each job fails with its stack trace, also one that databases don't like; the pod lives and goes on."""
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    (tmp_path / "bridge.yaml").write_text(
        f"store: {json.dumps(request.getfixturevalue(database))}\nsources: {{tasks: {{queue: tasks}}}}\n{ROUTES}"
        "pod: {heartbeat: 2s, workers: 8}\n"
    )
    with Cluster.over(tmp_path) as cluster:
        cluster.storage.migrate()
        (pod,) = cluster.start(1)
        cluster.publish_raw([Message(b"{}", correlation=kind.encode(), type=kind) for kind in ENDS])
        cluster.wait_for({"FAILED": len(ENDS)}, 30)
        for kind, (ends, failures) in ENDS.items():
            (job,) = cluster.storage.find_jobs(kind, [kind])
            events = cluster.storage.job_events(job["id"].bytes)
            assert [event["kind"] for event in events] == ["FAILED"] * failures, kind
            assert ends in str(events[-1]["detail"]), events[-1]["detail"]
            assert job["attempts"] == failures
        cluster.publish_raw([Message(b"{}", correlation=b"after")])
        cluster.wait_for({"FAILED": len(ENDS), "SUCCEEDED": 1}, 20)
        assert pod.poll() is None


def test_a_pod_whose_workers_all_hang_ends(sqlite_url: str, tmp_path: Path) -> None:
    """When half of the workers are written off the pod drains and ends with 1, so that it can be replaced."""
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    (tmp_path / "bridge.yaml").write_text(
        f"store: {json.dumps(sqlite_url)}\nsources: {{tasks: {{queue: tasks}}}}\n{ROUTES}"
        "pod: {heartbeat: 2s, workers: 4, grace: 1s}\n"
    )
    with Cluster.over(tmp_path) as cluster:
        cluster.storage.migrate()
        (pod,) = cluster.start(1)
        cluster.publish_raw([Message(b"{}", correlation=b"hang-%d" % k, type="hangs") for k in range(2)])
        assert pod.wait(30) == 1
        assert cluster.counts() == {"FAILED": 2}
        assert cluster.storage.servers() == []
