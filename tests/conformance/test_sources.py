"""What `bridge/sources/source.py` promises, the same tests for each kind of source (I1)."""

import contextlib
import threading
import time
from collections.abc import Callable

import pytest

from bridge.config.model import BatchBounds
from bridge.message import Message
from bridge.sources import connect, kafka_session
from bridge.sources.source import Batch, Source
from tests.conformance.desks import PATIENCE, AmqpDesk, Desk, KafkaDesk, LocalDesk, bodies, finish, numbered, receive
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

DESKS: dict[str, Callable[[pytest.FixtureRequest, str], Desk]] = {
    "amqp-classic": lambda request, name: AmqpDesk(request.getfixturevalue("rabbitmq").url, name, "classic"),
    "amqp-quorum": lambda request, name: AmqpDesk(request.getfixturevalue("rabbitmq").url, name, "quorum"),
    "kafka": lambda request, name: KafkaDesk(request.getfixturevalue("kafka").url, name),
    "local": lambda request, name: LocalDesk(request.getfixturevalue("sqlite_url"), name),
}
REPEAT_HEADERS = ("kafka", "local")
"""Where one message can carry a header's name twice; AMQP's headers are a table."""


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close waits for the end of an idle poll."""
    monkeypatch.setattr(kafka_session, "IDLE_POLL_MS", 100)


@pytest.fixture(params=DESKS)
def desk(request: pytest.FixtureRequest, topic_name: str) -> Desk:
    return DESKS[request.param](request, topic_name)


def test_hands_over_every_message_as_it_was_published(desk: Desk) -> None:
    published = numbered(700)
    desk.publish(published)
    with desk.running() as source:
        received = receive(source, 700)
        finish(source)
    assert sorted(bodies(received)) == sorted(bodies(published))
    by_body = {message.body: message for message in received}
    for message in published:
        got = by_body[message.body]
        assert got.correlation == message.correlation
        assert set(message.headers) <= set(got.headers)
        assert got.type == "order.placed"
        assert got.undecodable is None


def test_nothing_comes_of_an_empty_queue(desk: Desk) -> None:
    with desk.running() as source:
        assert source.receive(0.05) is None
        assert source.drained()


def test_a_beat_tells_how_much_the_broker_still_holds(desk: Desk) -> None:
    """While the source is paused it grows; once all is received there is none."""

    def lag(source: Source, expected: int) -> bool:
        source.beat()
        return wait_until(lambda: source.status().lag == expected, 2)

    with desk.running() as source:
        source.pause("the test says so")
        assert wait_until(source.drained, PATIENCE)
        desk.publish(numbered(30))
        assert wait_until(lambda: lag(source, 30), PATIENCE), source.status()
        source.resume()
        assert len(receive(source, 30)) == 30
        finish(source)
        assert wait_until(lambda: lag(source, 0), PATIENCE), source.status()


def test_what_is_not_acked_comes_again(desk: Desk) -> None:
    desk.publish(numbered(50))
    with desk.running() as source:
        assert len(receive(source, 50, ack=False)) == 50
    with desk.running() as source:
        assert sorted(bodies(receive(source, 50))) == sorted(bodies(numbered(50)))


def test_what_is_acked_does_not_come_again(desk: Desk) -> None:
    desk.publish(numbered(50))
    with desk.running() as source:
        assert len(receive(source, 50)) == 50
        finish(source)
    desk.publish(numbered(1, first=1000))
    with desk.running() as source:
        assert bodies(receive(source, 1)) == [b'{"id": 1000}']
        assert source.receive(0.2) is None


def _two_batches(source: Source) -> tuple[Batch, Batch]:
    """Of ten messages each; so many any source hands out before the first is acked."""
    first, second = source.receive(PATIENCE), source.receive(PATIENCE)
    assert first is not None and len(first.messages) == 10
    assert second is not None and len(second.messages) == 10
    return first, second


def test_an_ack_covers_its_batch_and_no_later_one(desk: Desk) -> None:
    desk.publish(numbered(20))
    with desk.running(BatchBounds(max=10, linger="500ms")) as source:
        first, second = _two_batches(source)
        source.ack(first)
        finish(source)
    with desk.running() as source:
        assert sorted(bodies(receive(source, 10))) == sorted(bodies(list(second.messages)))


def test_an_ack_covers_no_earlier_batch(desk: Desk) -> None:
    desk.publish(numbered(20))
    with desk.running(BatchBounds(max=10, linger="500ms")) as source:
        first, second = _two_batches(source)
        source.ack(second)
        source.ack(second)
        finish(source)
    expected = [first] if desk.acks_in_any_order else [first, second]
    with desk.running() as source:
        again = bodies(receive(source, 10 * len(expected)))
        assert source.receive(0.2) is None
    assert sorted(again) == sorted(body for batch in expected for body in bodies(list(batch.messages)))


def test_acks_in_any_order_add_up(desk: Desk) -> None:
    desk.publish(numbered(20))
    with desk.running(BatchBounds(max=10, linger="500ms")) as source:
        for batch in reversed(_two_batches(source)):
            source.ack(batch)
        finish(source)
    desk.publish(numbered(1, first=1000))
    with desk.running() as source:
        assert bodies(receive(source, 1)) == [b'{"id": 1000}']
        assert source.receive(0.2) is None


def test_a_batch_keeps_within_its_count(desk: Desk) -> None:
    desk.publish(numbered(40))
    with desk.running(BatchBounds(max=7)) as source:
        seen = 0
        while seen < 40:
            batch = source.receive(PATIENCE)
            assert batch is not None and 1 <= len(batch.messages) <= 7
            seen += len(batch.messages)
            source.ack(batch)


def test_a_batch_keeps_within_its_bytes_and_a_larger_message_comes_alone(desk: Desk) -> None:
    sizes = [400] * 10 + [5000] + [400] * 4
    desk.publish([Message(b"x" * size, correlation=b"%d" % number) for number, size in enumerate(sizes)])
    seen: list[int] = []
    with desk.running(BatchBounds(max=100, max_bytes=1000, linger="200ms")) as source:
        while len(seen) < len(sizes):
            batch = source.receive(PATIENCE)
            assert batch is not None
            lengths = [len(message.body) for message in batch.messages]
            assert sum(lengths) <= 1000 or len(lengths) == 1
            seen += lengths
            source.ack(batch)
    assert sorted(seen) == sorted(sizes)


def test_lingers_for_a_fuller_batch(desk: Desk) -> None:
    def publish() -> None:
        for number in range(3):
            desk.publish(numbered(1, first=number))
            time.sleep(0.2)

    with desk.running(BatchBounds(max=3, linger="20s")) as source:
        publisher = threading.Thread(target=publish)
        publisher.start()
        batch = source.receive(PATIENCE)
        publisher.join()
    assert batch is not None
    assert len(batch.messages) == 3


def test_pauses_and_resumes(desk: Desk) -> None:
    with desk.running() as source:
        source.pause("the store is full")
        finish(source)
        assert source.status().paused == "the store is full"
        assert source.status().attached
        desk.publish(numbered(20))
        assert source.receive(0.7) is None
        source.resume()
        assert len(receive(source, 20)) == 20
        assert source.status().paused is None
        finish(source)


def test_what_arrived_before_a_pause_is_handed_out_and_acked(desk: Desk) -> None:
    desk.publish(numbered(100))
    with desk.running(BatchBounds(max=10)) as source:
        first = source.receive(PATIENCE)
        assert first is not None
        source.pause("stopping")
        source.ack(first)
        taken = list(first.messages)

        def take() -> bool:
            batch = source.receive(0)
            if batch is not None:
                taken.extend(batch.messages)
                source.ack(batch)
            return batch is None and source.drained()

        assert wait_until(take, PATIENCE)
    with desk.running() as source:
        rest = receive(source, 100 - len(taken)) if len(taken) < 100 else []
        assert source.receive(0.3) is None
    assert sorted(bodies([*taken, *rest])) == sorted(bodies(numbered(100)))


def test_paused_before_it_runs_it_takes_nothing(desk: Desk) -> None:
    desk.publish(numbered(5))
    source = desk.open()
    source.pause("not yet")
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        assert wait_until(lambda: source.status().attached, PATIENCE)
        assert source.receive(0.5) is None
        source.resume()
        assert len(receive(source, 5)) == 5
    finally:
        source.close()
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "correlation",
    [None, b"", b"\x00", b"a\x00b", b"\xff\xfe", b"x" * 255, "bücher".encode()],
    ids=["none", "empty", "nul", "nul-inside", "not-utf-8", "255-bytes", "utf-8"],
)
def test_ids_arrive_as_they_are(desk: Desk, correlation: bytes | None) -> None:
    desk.publish([Message(b"1", correlation=correlation, message_id=correlation)])
    with desk.running() as source:
        (message,) = receive(source, 1)
    assert message.correlation == correlation
    assert message.message_id == correlation


def test_headers_of_any_bytes_arrive(desk: Desk) -> None:
    headers = (("", b"no name"), ("blob", b"\xff\x00\xfe"), ("größe", "10 €".encode()), ("empty", b""))
    desk.publish([Message(b"1", headers, b"1")])
    with desk.running() as source:
        (message,) = receive(source, 1)
    assert set(headers) <= set(message.headers)
    assert message.undecodable is None


@pytest.mark.parametrize("desk", REPEAT_HEADERS, indirect=True)
def test_repeated_headers_arrive_in_their_order(desk: Desk) -> None:
    headers = (("tag", b"b"), ("tag", b"a"), ("tag", b"b"))
    desk.publish([Message(b"1", headers, b"1")])
    with desk.running() as source:
        (message,) = receive(source, 1)
    assert tuple(header for header in message.headers if header[0] == "tag") == headers


def test_closing_in_full_flow_loses_and_repeats_nothing(desk: Desk) -> None:
    desk.publish(numbered(2000))
    acked: list[bytes] = []
    with desk.running(BatchBounds(max=50)) as source:
        while len(acked) < 600:
            batch = source.receive(PATIENCE)
            assert batch is not None
            source.ack(batch)
            acked += bodies(list(batch.messages))
        source.pause("stopping")
        while not source.drained():
            batch = source.receive(0.01)
            if batch is not None:
                source.ack(batch)
                acked += bodies(list(batch.messages))
    with desk.running() as source:
        remaining = bodies(receive(source, 2000 - len(acked)))
        assert source.receive(0.3) is None
    assert sorted([*acked, *remaining]) == sorted(bodies(numbered(2000)))


def test_run_returns_when_closed_before_or_while_connecting(desk: Desk) -> None:
    early = desk.open()
    early.close()
    early.run()
    late = desk.open()
    thread = threading.Thread(target=late.run)
    thread.start()
    late.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not late.status().attached
    assert late.receive(0) is None


OWN_DESKS: dict[str, Callable[[RabbitMQ | Kafka, str], Desk]] = {
    "own_rabbitmq": lambda server, name: AmqpDesk(server.url, name, "classic"),
    "own_kafka": lambda server, name: KafkaDesk(server.url, name),
}


@pytest.mark.parametrize("server_name", OWN_DESKS)
def test_a_crashed_and_a_frozen_broker_cost_nothing(
    request: pytest.FixtureRequest, server_name: str, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in mid-stream, then frozen: the source says so, comes back by itself, and each message is received."""
    monkeypatch.setattr(connect, "HEARTBEAT", 1)
    server = request.getfixturevalue(server_name)
    if server.name == "Tansu":
        pytest.skip("the stand-in for Kafka loses its data when it stops")
    desk = OWN_DESKS[server_name](server, topic_name)
    # Declared first, and then restarted: a broker that is killed in its queue's first seconds may forget the queue.
    desk.publish([])
    server.restart()
    received: set[bytes] = set()
    with desk.running(BatchBounds(max=50)) as source:

        def take(count: int) -> bool:
            with contextlib.suppress(AssertionError):
                received.update(bodies(receive(source, count, seconds=1)))
            return len(received) >= count

        desk.publish(numbered(1000))
        assert take(300)
        server.kill()
        assert wait_until(lambda: not source.status().attached, PATIENCE)
        assert "guest:" not in source.status().detail
        assert source.status().detail
        server.start()
        assert wait_until(lambda: source.status().attached, PATIENCE), source.status()
        desk.publish(numbered(1000, first=1000))
        assert wait_until(lambda: take(2000), PATIENCE), len(received)
        server.freeze()
        assert wait_until(lambda: not source.status().attached, PATIENCE)
        server.thaw()
        assert wait_until(lambda: source.status().attached, PATIENCE), source.status()
        desk.publish(numbered(100, first=2000))
        assert wait_until(lambda: take(2100), PATIENCE), len(received)
    assert received == set(bodies(numbered(2100)))
