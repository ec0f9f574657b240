"""Handlers' own writes and messages, in the commit of their jobs' success, while pods are killed."""

import time
from pathlib import Path

from sqlalchemy import create_engine, text

from scheduler.storage import open_storage
from tests.acceptance.cluster import Cluster, tasks
from tests.acceptance.test_terms import Killer
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

BOTH = """\
store: "{store}"
brokers: {{bus: "{broker}"}}
sources:
  tasks: {{broker: bus, queue: {name}}}
  answers: {{broker: bus, queue: {name}.answers}}
routes:
  - {{name: tasks, from: tasks, handler: "tests.acceptance.handlers:forward", retries: 0}}
  - {{name: answers, from: answers, handler: "tests.acceptance.handlers:work"}}
pod: {{heartbeat: 1s, workers: 8, name: "${{POD_NAME:-pod}}"}}
"""


def test_rows_of_a_handler_are_written_once(
    rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """A thousand jobs that each add a row, pods killed at random: a thousand rows, and none of a failure."""
    source = f"{{broker: bus, queue: {queue_name}}}"
    engine = create_engine(open_storage(postgresql_url).engine.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ledger (task BIGINT NOT NULL)"))
    with Cluster(
        tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source, heartbeat="1s", route=", retries: 0"
    ) as cluster:
        configuration = tmp_path / "bridge.yaml"
        configuration.write_text(configuration.read_text().replace("handlers:work", "handlers:book"))
        cluster.start(3)
        cluster.publish(tasks(1000, sleep=0.02))
        cluster.publish([(f"bad-{k}", {"id": 5000 + k, "act": "raise"}) for k in range(10)])
        killer = Killer(cluster, 3)
        for _ in range(3):
            time.sleep(0.8)
            killer.kill_one()
        cluster.wait_for({"SUCCEEDED": 1000, "FAILED": 10}, 90)
    with engine.connect() as connection:
        rows = sorted(connection.execute(text("SELECT task FROM ledger")).scalars())
    engine.dispose()
    assert rows == list(range(1000))


def test_messages_of_handlers_leave_with_their_success(
    own_rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """A thousand jobs that each send one on, pods killed at random, and the broker: each message arrives, and none of
    a job that failed."""
    (tmp_path / "bridge.yaml").write_text(BOTH.format(store=postgresql_url, broker=own_rabbitmq.url, name=queue_name))
    opened = open_storage(postgresql_url)
    opened.migrate()
    with Cluster.over(tmp_path) as cluster:
        cluster.start(3)
        cluster.publish(tasks(1000, sleep=0.02))
        cluster.publish([(f"bad-{k}", {"id": 5000 + k, "act": "raise"}) for k in range(10)])
        killer = Killer(cluster, 4)
        for turn in range(3):
            time.sleep(0.8)
            killer.kill_one()
            if turn == 1:
                own_rabbitmq.kill()
                own_rabbitmq.start()
        cluster.wait_for({"SUCCEEDED": 2000, "FAILED": 10}, 90)
        jobs = opened.list_jobs(limit=3000)
        sent = {str(job["id"]) for job in jobs if job["route"] == "tasks" and job["state"] == "SUCCEEDED"}
        arrived = [job["correlation_id"] for job in jobs if job["route"] == "answers"]
        assert sorted(map(str, arrived)) == sorted(sent)
        # What a killed pod had taken is sent once more when its time is over.
        assert wait_until(lambda: opened.depth("outbox/answers") == 0, 60, 0.2)
        one = next(job for job in jobs if job["route"] == "tasks" and job["state"] == "SUCCEEDED")
        assert "LOG" in [event["kind"] for event in opened.job_events(one["id"].bytes)]  # type: ignore[attr-defined]
    opened.close()
