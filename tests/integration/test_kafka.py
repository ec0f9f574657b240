"""Kafka beyond the conformance suite: records that cannot be read, rebalances, every-pod delivery, topics, offsets."""

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import CommitFailedError, KafkaTimeoutError, RebalanceInProgressError
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import OffsetAndMetadata, TopicPartition

from bridge.config.model import Broker, KafkaSourceSection
from bridge.message import Message
from bridge.probe import probe_kafka
from bridge.publish import BrokerUnreachable, PublishError, publish_kafka
from bridge.sources import kafka_session
from bridge.sources.kafka import KafkaSource
from tests.conformance.desks import PATIENCE, bodies, finish, numbered, receive
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until


def section_of(topic: str | list[str], **keys: object) -> KafkaSourceSection:
    return KafkaSourceSection.model_validate({"broker": "events", "topic": topic, "group": str(topic), **keys})


@contextlib.contextmanager
def running(
    broker: Broker, section: KafkaSourceSection, *, attached: bool = True, session_timeout: float = 6
) -> Iterator[KafkaSource]:
    source = KafkaSource("payments", broker, section, pod_name="pod", random=Random(1), session_timeout=session_timeout)
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        if attached:
            assert wait_until(lambda: source.status().attached, PATIENCE), source.status()
        yield source
    finally:
        source.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close waits for the end of an idle poll."""
    monkeypatch.setattr(kafka_session, "IDLE_POLL_MS", 100)


@pytest.fixture
def broker(kafka: Kafka) -> Broker:
    return Broker(url=kafka.url)


@pytest.fixture
def real(kafka: Kafka) -> None:
    """For what only Apache Kafka does right, and not its stand-in."""
    if not kafka.is_real:
        pytest.skip("the stand-in for Kafka gets this wrong")


@pytest.fixture
def admin(kafka: Kafka) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    yield client
    client.close()


@pytest.fixture
def producer(kafka: Kafka) -> Iterator[KafkaProducer]:
    client = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=0, max_block_ms=10_000)
    yield client
    client.close(timeout=5)


def committed(admin: KafkaAdminClient, group: str) -> dict[int, int]:
    """By partition, where the group has committed anything."""
    offsets = admin.list_group_offsets(group)[group]
    return {partition.partition: place.offset for partition, place in offsets.items() if place.offset >= 0}


class RawName(str):
    """A header's name that the producer encodes to bytes that are no UTF-8."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


def test_a_record_that_cannot_be_read_is_handed_over_and_passed(
    broker: Broker, admin: KafkaAdminClient, producer: KafkaProducer, topic_name: str
) -> None:
    section = section_of(topic_name, partitions=2)
    publish_kafka(broker, section, [])
    for number in range(40):
        poison = number in (0, 7, 8, 39)
        headers = [(RawName("x"), b"1")] if poison else [("correlation_id", b"%d" % number)]
        producer.send(topic_name, b"%d" % number, headers=headers, partition=number % 2)
    producer.flush()
    with running(broker, section) as source:
        received = receive(source, 40)
        finish(source)
        bad = [message for message in received if message.undecodable]
        places = ((0, 0), (0, 4), (1, 3), (1, 19))
        assert {message.coordinates for message in bad} == {f"{topic_name}/{part}/{offset}" for part, offset in places}
        assert sorted(int(message.body) for message in bad) == [0, 7, 8, 39]
        good = {int(message.body) for message in received if not message.undecodable}
        assert good == set(range(40)) - {0, 7, 8, 39}
    assert committed(admin, section.group) == {0: 20, 1: 20}
    with running(broker, section) as source:
        assert source.receive(0.5) is None


def test_poison_behind_a_full_batch_is_found_after_the_pause(
    broker: Broker, producer: KafkaProducer, topic_name: str
) -> None:
    """A pause between the good records and the error once hid the error, and then the poll spun for ever."""
    section = section_of(topic_name, partitions=1, batch={"max": 5})
    publish_kafka(broker, section, [])
    for number in range(30):
        headers = [(RawName("x"), b"1")] if number % 10 == 9 else []
        producer.send(topic_name, b"%d" % number, headers=headers)
    producer.flush()
    received: list[Message] = []
    with running(broker, section) as source:
        while len(received) < 30:
            batch = source.receive(PATIENCE)
            assert batch is not None, len(received)
            source.pause("now and then")
            source.ack(batch)
            received += batch.messages
            source.resume()
        finish(source)
    assert bodies(received) == [b"%d" % number for number in range(30)]
    assert [int(message.body) for message in received if message.undecodable] == [9, 19, 29]


def test_a_corrupt_batch_is_told_by_its_offsets_and_passed(
    broker: Broker, admin: KafkaAdminClient, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum fails, as after a disk's fault: no record of the batch can be trusted."""
    section = section_of(topic_name, partitions=1)
    for first in (0, 5, 10):
        publish_kafka(broker, section, numbered(5, first=first))
    valid = DefaultRecordBatch.validate_crc

    def validate_crc(batch: DefaultRecordBatch) -> bool:
        return bool(valid(batch)) and not 5 <= batch.base_offset < 10

    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", validate_crc)
    with running(broker, section) as source:
        received = receive(source, 15)
        finish(source)
    assert [message.coordinates for message in received] == [f"{topic_name}/0/{offset}" for offset in range(15)]
    assert [message.undecodable is not None for message in received] == [False] * 5 + [True] * 5 + [False] * 5
    assert committed(admin, section.group) == {0: 15}


def test_tombstones_keys_and_headers_arrive(broker: Broker, producer: KafkaProducer, topic_name: str) -> None:
    section = section_of(topic_name, partitions=1)
    publish_kafka(broker, section, [])
    headers = [
        ("ce_correlationid", b"last"),
        ("correlation-id", b"second"),
        ("content_type", b"text/plain"),
        ("content-encoding", b"gzip"),
        ("type", b"\xff"),
    ]
    producer.send(topic_name, None, key=b"k\x00", headers=headers)
    producer.send(topic_name, b"body")
    producer.flush()
    with running(broker, section) as source:
        first, second = receive(source, 2)
    assert first == Message(
        b"",
        tuple(headers),
        correlation=b"second",
        key=b"k\x00",
        topic=topic_name,
        type="\\xff",
        content_type="text/plain",
        content_encoding="gzip",
        coordinates=f"{topic_name}/0/0",
    )
    assert second == Message(b"body", topic=topic_name, coordinates=f"{topic_name}/0/1")


def test_each_message_is_sent_with_its_own_key(broker: Broker, topic_name: str) -> None:
    keys = [b"customer-1", b"\xff", None]
    section = section_of(topic_name, partitions=1)
    publish_kafka(broker, section, [one._replace(key=key) for one, key in zip(numbered(3), keys, strict=True)])
    with running(broker, section) as source:
        assert [message.key for message in receive(source, 3)] == keys


def test_a_killed_member_loses_nothing(broker: Broker, admin: KafkaAdminClient, kafka: Kafka, topic_name: str) -> None:
    section = section_of(topic_name, partitions=4, batch={"max": 20})
    publish_kafka(broker, section, numbered(200))
    received: set[bytes] = set()
    with running(broker, section, session_timeout=3) as source:
        received |= set(bodies(receive(source, 40)))
        command = [sys.executable, "-m", "tests.integration.kafka_member", kafka.url, topic_name, section.group]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as member:
            assert member.stdout is not None
            stopping = threading.Event()

            def take() -> None:
                while not stopping.is_set():
                    received.update(bodies(receive(source, 1, seconds=0.2)))

            taker = threading.Thread(target=take)
            taker.start()
            for round_number in range(1, 50):
                publish_kafka(broker, section, numbered(40, first=round_number * 1000))
                if wait_until(lambda: member.poll() is not None, 0.1):
                    break
                if round_number == 15:
                    assert member.stdout.readline().strip(), "the member got nothing"
                    member.kill()
            last = round_number
            expected = {*bodies(numbered(200))}
            for number in range(1, last + 1):
                expected |= set(bodies(numbered(40, first=number * 1000)))
            complete = wait_until(lambda: received >= expected, 30)
            stopping.set()
            taker.join()
            assert complete, len(expected - received)
        finish(source)
    assert sum(committed(admin, section.group).values()) == 200 + 40 * last


def test_an_ack_for_a_partition_that_moved_is_not_committed(
    broker: Broker, admin: KafkaAdminClient, topic_name: str
) -> None:
    section = section_of(topic_name, partitions=2)
    publish_kafka(broker, section, numbered(100))
    with running(broker, section, session_timeout=3) as old:
        batches = [old.receive(PATIENCE)]
        while sum(len(batch.messages) for batch in batches if batch) < 100:
            batches.append(old.receive(PATIENCE))
        with running(broker, section, session_timeout=3) as new:
            moved = receive(new, 1, ack=False)
            moved += receive(new, 100, ack=False, seconds=0.5)
            partitions = {message.coordinates.split("/")[1] for message in moved}
            assert len(partitions) == 1
            for batch in batches:
                assert batch is not None
                old.ack(batch)
            finish(old)
            kept = 1 - int(next(iter(partitions)))
            assert set(committed(admin, section.group)) == {kept}
            assert len(moved) + committed(admin, section.group)[kept] == 100


@pytest.mark.parametrize("poll_ms", [1, 5])
def test_a_join_that_outlasts_a_poll_is_ended_by_the_next(
    broker: Broker, topic_name: str, monkeypatch: pytest.MonkeyPatch, poll_ms: int
) -> None:
    """The first assignment knows no partitions yet; of the second, polls so short never saw the end."""
    monkeypatch.setattr(kafka_session, "IDLE_POLL_MS", poll_ms)
    section = section_of(topic_name, partitions=2)
    publish_kafka(broker, section, numbered(20))
    with running(broker, section) as source:
        assert len(receive(source, 20)) == 20


def test_a_commit_that_a_rebalance_refuses_is_made_later(
    broker: Broker, admin: KafkaAdminClient, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nothing more arrives: dropped, it would be lag on an idle topic for ever."""
    section = section_of(topic_name, partitions=1)
    publish_kafka(broker, section, numbered(10))
    refusals = [RebalanceInProgressError(), CommitFailedError(), KafkaTimeoutError()]
    commit = KafkaConsumer.commit

    def refusing(consumer: KafkaConsumer, *arguments: object, **keywords: object) -> None:
        if refusals:
            raise refusals.pop()
        commit(consumer, *arguments, **keywords)

    monkeypatch.setattr(KafkaConsumer, "commit", refusing)
    with running(broker, section) as source:
        receive(source, 10)
        finish(source)
        assert committed(admin, section.group) == {0: 10}


def test_finds_topics_by_their_pattern_also_later(
    broker: Broker, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_session, "METADATA_AGE_MS", 500)
    section = section_of(f"pattern:^{topic_name}\\.")
    with running(broker, section, attached=False, session_timeout=3) as source:
        assert wait_until(lambda: "no topic matches" in source.status().detail, PATIENCE)
        for number, name in enumerate(("a", "b")):
            publish_kafka(broker, section_of(f"{topic_name}.{name}", partitions=1), numbered(3, first=number * 10))
            received = receive(source, 3)
            assert {message.topic for message in received} == {f"{topic_name}.{name}"}
            assert bodies(received) == bodies(numbered(3, first=number * 10))


def test_a_missing_topic_is_waited_for_and_not_made(broker: Broker, admin: KafkaAdminClient, topic_name: str) -> None:
    section = section_of(topic_name)
    with running(broker, section, attached=False) as source:
        assert wait_until(lambda: f"the topic '{topic_name}' does not exist" in source.status().detail, PATIENCE)
        assert probe_kafka(broker, section) == [
            f"the topic '{topic_name}' does not exist, and it is not created: it is waited for"
        ]
        assert topic_name not in admin.list_topics()
        with pytest.raises(PublishError, match="does not exist"):
            publish_kafka(broker, section, numbered(1))
        admin.create_topics({topic_name: {"num_partitions": 3}})
        assert wait_until(lambda: source.status().attached, PATIENCE)
    (warning,) = probe_kafka(broker, section_of(topic_name, partitions=4))
    assert "has 3 partitions, not 4" in warning


def test_a_broker_that_makes_topics_by_itself_is_not_asked_to(topic_name: str) -> None:
    with Kafka(settings={"auto.create.topics.enable": "true"}) as server:
        section = section_of(topic_name)
        broker = Broker(url=server.url)
        with running(broker, section, attached=False) as source:
            assert wait_until(lambda: "does not exist" in source.status().detail, PATIENCE)
            with pytest.raises(PublishError, match="does not exist"):
                publish_kafka(broker, section, numbered(1))
            client = KafkaAdminClient(bootstrap_servers=server.bootstrap)
            topics = client.list_topics()
            client.close()
        assert topic_name not in topics


def test_every_pod_reads_all_under_one_group(broker: Broker, admin: KafkaAdminClient, topic_name: str) -> None:
    section = section_of(topic_name, partitions=3, delivery="every-pod")
    publish_kafka(broker, section, numbered(300))
    with running(broker, section) as one, running(broker, section) as other:
        for source in (one, other):
            assert sorted(bodies(receive(source, 300))) == sorted(bodies(numbered(300)))
            finish(source)
        assert sum(committed(admin, section.group).values()) == 300
    with running(broker, section) as late:
        assert late.receive(0.5) is None, "it starts where the group is"


@pytest.mark.usefixtures("real")
def test_a_beat_repairs_an_offset_that_went_backwards_and_finds_new_partitions(
    broker: Broker, admin: KafkaAdminClient, kafka: Kafka, producer: KafkaProducer, topic_name: str
) -> None:
    section = section_of(topic_name, partitions=1, delivery="every-pod")
    publish_kafka(broker, section, numbered(50))
    with running(broker, section) as source:
        receive(source, 50)
        finish(source)
        assert committed(admin, section.group) == {0: 50}
        slow_pod = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=section.group, enable_auto_commit=False)
        slow_pod.assign([TopicPartition(topic_name, 0)])
        slow_pod.commit({TopicPartition(topic_name, 0): OffsetAndMetadata(7, "", -1)})
        slow_pod.close()
        assert committed(admin, section.group) == {0: 7}
        source.beat()
        assert wait_until(lambda: committed(admin, section.group) == {0: 50}, PATIENCE)
        admin.create_partitions({topic_name: 2})
        assert wait_until(lambda: len(admin.describe_topics([topic_name])[0]["partitions"]) == 2, PATIENCE)

        def delivered() -> bool:
            source.beat()
            return bool(received.extend(receive(source, 1, seconds=0.5)) or received)

        received: list[Message] = []
        producer.send(topic_name, b"in the new one", partition=1).get(10)
        assert wait_until(delivered, PATIENCE)
        assert bodies(received) == [b"in the new one"], "the old partition goes on where it was"


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(("reset", "expected"), [("earliest", 20), ("latest", 0)])
def test_offsets_out_of_range_and_no_offsets_start_where_the_section_says(
    broker: Broker, kafka: Kafka, topic_name: str, reset: str, expected: int
) -> None:
    section = section_of(topic_name, partitions=1, auto_offset_reset=reset)
    publish_kafka(broker, section, numbered(20))
    partition = TopicPartition(topic_name, 0)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=section.group, enable_auto_commit=False)
    assert consumer.end_offsets([partition]) == {partition: 20}
    consumer.assign([partition])
    consumer.commit({partition: OffsetAndMetadata(1_000_000, "", -1)})
    consumer.close()
    with running(broker, section) as source:
        assert len(receive(source, 20, seconds=2 if expected == 0 else PATIENCE)) == expected
        publish_kafka(broker, section, numbered(1, first=20))
        assert bodies(receive(source, 1)) == [b'{"id": 20}']


@pytest.mark.usefixtures("real")
def test_an_idle_source_is_woken_by_a_message(broker: Broker, producer: KafkaProducer, topic_name: str) -> None:
    section = section_of(topic_name, partitions=1)
    publish_kafka(broker, section, numbered(1))
    waits: list[float] = []
    with running(broker, section) as source:
        receive(source, 1)
        for _ in range(20):
            finish(source)
            sent = time.monotonic()
            producer.send(topic_name, b"x")
            assert receive(source, 1)
            waits.append(time.monotonic() - sent)
    assert statistics.median(waits) < 0.1


def test_publishing_tells_what_is_wrong(broker: Broker, topic_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section = section_of(topic_name, partitions=1)
    with pytest.raises(PublishError, match=r"1048576|MessageSizeTooLarge"):
        publish_kafka(broker, section, [numbered(1)[0]._replace(body=b"x" * 2_000_000)])
    with pytest.raises(PublishError, match="pattern"):
        publish_kafka(broker, section_of("pattern:x"), numbered(1))
    monkeypatch.setattr("bridge.sources.connect.CONNECT_TIMEOUT", 0.5)
    nowhere = Broker(url="kafka://127.0.0.1:9")
    with pytest.raises(BrokerUnreachable):
        publish_kafka(nowhere, section, numbered(1))
    with pytest.raises(BrokerUnreachable):
        probe_kafka(nowhere, section)
