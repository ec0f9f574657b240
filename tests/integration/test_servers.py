"""The servers that the tests start: each answers, keeps its data over a restart and a crash, and can be frozen."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pika
import psycopg
import pymysql
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.servers.databases import fresh_database
from tests.servers.kafka import Kafka
from tests.servers.mariadb import PASSWORD, USER, MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import processes_in, wait_until
from tests.servers.rabbitmq import QueueDepth, RabbitMQ
from tests.servers.server import Server, accepts_connections


def rows(url: str) -> list[int]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT n FROM kept")))


@pytest.mark.parametrize("fixture", ["own_postgresql", "own_mariadb"])
def test_a_database_keeps_its_data_over_restart_and_crash(request: pytest.FixtureRequest, fixture: str) -> None:
    server: Server = request.getfixturevalue(fixture)
    port = server.port
    with create_engine(server.url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE kept (n integer)"))
        connection.execute(text("INSERT INTO kept VALUES (7)"))
    server.restart()
    assert rows(server.url) == [7]
    server.kill()
    assert not server.is_running
    server.start()
    assert rows(server.url) == [7]
    assert server.port == port


def test_postgresql_syncs_unless_told_otherwise(own_postgresql: PostgreSQL) -> None:
    with psycopg.connect(own_postgresql.url.replace("+psycopg", "")) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_a_frozen_database_answers_nobody_until_it_thaws(own_postgresql: PostgreSQL) -> None:
    own_postgresql.freeze()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgresql.url.replace("+psycopg", ""), connect_timeout=2)
    own_postgresql.thaw()
    own_postgresql.wait_ready()


def test_mariadb_has_its_default_packet_size(mariadb: MariaDB) -> None:
    url = make_url(mariadb.url)
    assert url.port is not None
    connection = pymysql.connect(host="127.0.0.1", port=url.port, user=USER, password=PASSWORD)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        assert cursor.fetchone() == (16 * 1024 * 1024,)


@pytest.mark.parametrize("round", [1, 2])
def test_each_test_has_an_empty_database(store_url: str, round: int) -> None:
    engine = create_engine(store_url, poolclass=NullPool)
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (n integer)"))


def test_a_database_is_dropped_though_a_transaction_is_open(postgresql: PostgreSQL, mariadb: MariaDB) -> None:
    for server in (postgresql, mariadb):
        with fresh_database(server.url) as url:
            connection = create_engine(url, poolclass=NullPool).connect()
            connection.execute(text("CREATE TABLE busy (n integer)"))
            connection.execute(text("INSERT INTO busy VALUES (1)"))
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
        connection.invalidate()
        connection.close()


def test_rabbitmq_keeps_persistent_messages_over_restart_and_crash(own_rabbitmq: RabbitMQ, queue_name: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(own_rabbitmq.url))
    channel = connection.channel()
    channel.queue_declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    channel.basic_publish("", queue_name, b"kept", pika.BasicProperties(delivery_mode=2), mandatory=True)
    connection.close()
    own_rabbitmq.restart()
    epmd = int(own_rabbitmq.environment()["ERL_EPMD_PORT"])
    assert accepts_connections(epmd)
    own_rabbitmq.kill()
    assert not accepts_connections(epmd)
    own_rabbitmq.start()
    assert wait_until(lambda: own_rabbitmq.queues() == {queue_name: QueueDepth(ready=1, unacked=0)}, seconds=20)


def test_rabbitmq_blocks_publishers_below_the_watermark(own_rabbitmq: RabbitMQ) -> None:
    own_rabbitmq.set_memory_watermark(0.0000001)
    assert "memory" in own_rabbitmq.control("eval", "rabbit_alarm:get_alarms().")
    own_rabbitmq.set_memory_watermark(0.4)
    assert wait_until(lambda: "memory" not in own_rabbitmq.control("eval", "rabbit_alarm:get_alarms()."), seconds=20)


def test_kafka_keeps_records_over_restart_and_crash(own_kafka: Kafka, topic_name: str) -> None:
    if not own_kafka.is_real:
        pytest.skip("the stand-in for Kafka keeps its data in memory")
    with_admin = KafkaAdminClient(bootstrap_servers=own_kafka.bootstrap)
    with_admin.create_topics([NewTopic(topic_name, num_partitions=1, replication_factor=1)])
    with_admin.close()
    producer = KafkaProducer(bootstrap_servers=own_kafka.bootstrap)
    producer.send(topic_name, b"kept").get(timeout=20)
    producer.close()
    own_kafka.restart()
    own_kafka.kill()
    own_kafka.start()
    consumer = KafkaConsumer(bootstrap_servers=own_kafka.bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic_name, 0)])
    found: list[bytes] = []

    def read() -> bool:
        for records in consumer.poll(timeout_ms=200).values():
            found.extend(record.value for record in records)
        return bool(found)

    assert wait_until(read, seconds=20)
    consumer.close()
    assert found == [b"kept"]


def test_kafka_answers(kafka: Kafka) -> None:
    client = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    assert isinstance(client.list_topics(), list)
    client.close()


_PROGRAM = """
import signal, sys, time
from tests.servers.postgresql import PostgreSQL
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in a shell's background inherits its being ignored
server = PostgreSQL().start()
print(server.directory, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_was_killed(postgresql: PostgreSQL, number: signal.Signals) -> None:
    if postgresql.is_external:
        pytest.skip("PostgreSQL may not be installed here")
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], cwd=root, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        directory = Path(program.stdout.readline().strip())
        assert processes_in(directory)
        os.kill(program.pid, number)
        program.wait()
    assert wait_until(lambda: not processes_in(directory) and not directory.parent.exists(), seconds=20)
