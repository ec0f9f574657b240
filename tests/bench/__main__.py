"""`make bench`: one pod from a broker to PostgreSQL, against the floor, in one run; the figures as a Markdown table.

The messages wait in the broker before either starts; the rate is their number by the time from the first row's
`created_at` to the last row's `finished_at`, by the database's clock, for both alike.
"""

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bridge.config.model import AmqpSourceSection, Broker, KafkaSourceSection
from bridge.message import Message
from bridge.publish import publish_amqp, publish_kafka
from tests.bench import floor
from tests.servers.databases import fresh_database
from tests.servers.kafka import Kafka
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ

CONFIGURATION = """\
store: {store}
brokers: {{bus: {broker}}}
sources:
  bench: {source}
routes:
  - {{name: bench, from: bench, handler: "tests.bench.handlers:touch"}}
pod: {{heartbeat: 2s}}
"""
DEADLINE = 300.0


def _messages(number: int) -> Iterator[Message]:
    filling = "x" * 250
    for k in range(number):
        yield Message(f'{{"id": {k}, "filling": "{filling}"}}'.encode(), correlation=f"bench-{k}".encode())


def _query(url: str, statement: str) -> tuple[object, ...]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row


def _rate(url: str, table: str, number: int) -> float:
    done, microseconds = _query(
        url, f"SELECT count(*), max(finished_at) - min(created_at) FROM {table} WHERE state = 'SUCCEEDED'"
    )
    assert done == number, f"{done} of {number} in {table}"
    assert isinstance(microseconds, int)
    return number / (microseconds / 1e6)


def _pod(url: str, broker: str, source: str, number: int, folder: Path) -> float:
    (folder / "bridge.yaml").write_text(CONFIGURATION.format(store=url, broker=broker, source=source))
    repository = str(Path(__file__).parents[2])
    with (folder / "pod.log").open("wb") as log:
        pod = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli.main", "run", "-q"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": repository},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + DEADLINE
        done = 0
        while done < number:
            time.sleep(1.0)  # each look counts all rows: seldom, since the floor is not looked at at all
            if pod.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{done} of {number} done:\n{(folder / 'pod.log').read_text()[-4000:]}")
            (there,) = _query(url, "SELECT to_regclass('jobbridge_jobs') IS NOT NULL")
            if there:
                (done,) = _query(url, "SELECT count(*) FROM jobbridge_jobs WHERE state = 'SUCCEEDED'")
        return _rate(url, "jobbridge_jobs", number)
    finally:
        pod.send_signal(signal.SIGTERM)
        pod.wait(30)


def _on_rabbitmq(server: RabbitMQ, postgresql: PostgreSQL, number: int, folder: Path) -> tuple[float, float]:
    broker = Broker.model_validate(server.url)
    rates = []
    for run in ("floor", "pod"):
        name = f"bench-{uuid.uuid4().hex[:8]}"
        section = AmqpSourceSection(broker="bus", queue=name)
        publish_amqp(broker, section, _messages(number))
        with fresh_database(postgresql.url) as url:
            if run == "floor":
                floor.rabbitmq(server.url, name, url, number)
                rates.append(_rate(url, "floor", number))
            else:
                rates.append(_pod(url, server.url, f"{{broker: bus, queue: {name}}}", number, folder))
    return rates[0], rates[1]


def _on_kafka(server: Kafka, postgresql: PostgreSQL, number: int, folder: Path) -> tuple[float, float]:
    broker = Broker.model_validate(server.url)
    rates = []
    for run in ("floor", "pod"):
        name = f"bench-{uuid.uuid4().hex[:8]}"
        section = KafkaSourceSection(broker="bus", topic=(name,), partitions=4)
        publish_kafka(broker, section, _messages(number))
        with fresh_database(postgresql.url) as url:
            if run == "floor":
                floor.kafka(server.bootstrap, name, url, number)
                rates.append(_rate(url, "floor", number))
            else:
                rates.append(_pod(url, server.url, f"{{broker: bus, topic: {name}}}", number, folder))
    return rates[0], rates[1]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--messages", type=int, default=120_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=("rabbitmq", "kafka", "both"), default="both")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{arguments.messages} messages of 270 bytes a run; broker, database and pod on this machine\n")
    print(
        "| from | floor, jobs/s | pod, jobs/s | ratio | ratios of all rounds |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder, PostgreSQL() as postgresql:
        kinds = {"rabbitmq": (RabbitMQ, _on_rabbitmq), "kafka": (Kafka, _on_kafka)}
        for name, (kind, measure) in kinds.items():
            if arguments.broker not in (name, "both"):
                continue
            with kind() as server:
                rounds = [
                    measure(server, postgresql, arguments.messages, Path(folder)) for _ in range(arguments.rounds)
                ]
            floors, pods = (statistics.median(values) for values in zip(*rounds, strict=True))
            ratios = ", ".join(f"{pod / bound:.2f}" for bound, pod in rounds)
            print(f"| {name} | {floors:,.0f} | {pods:,.0f} | {pods / floors:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
