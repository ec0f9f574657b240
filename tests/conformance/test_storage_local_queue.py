"""The local queue: each message to one receiver at a time, until it is acknowledged."""

from collections import Counter
from functools import partial

from scheduler.storage import Storage, open_storage
from tests.conformance.stores import HOUR, RACERS, Racers, at_once, standing_still

SECOND = 1_000_000
NOON = 1_700_000_000_000_000


def receive(storage: Storage, token: int, limit: int = 10, max_bytes: int = 1000, queue: str = "q") -> list[bytes]:
    found = storage.receive(queue, token=token, limit=limit, max_bytes=max_bytes, visibility_us=30 * SECOND)
    return [one.body for one in found]


def at(storage: Storage, time: int) -> Storage:
    """The same store at another time."""
    return open_storage(storage.engine.url.render_as_string(hide_password=False), options=standing_still(time))


def test_messages_are_received_whole_in_order_and_from_their_queue_alone(storage: Storage) -> None:
    """What was published comes back, the oldest first; another queue's messages don't."""
    storage.publish("q", [("{}", b"one"), ('{"a": "\\u0000"}', b"\0\xff")])
    storage.publish("Q", [("{}", b"other")])
    storage.publish("q", [("{}", b"")])
    found = storage.receive("q", token=1, limit=10, max_bytes=100, visibility_us=SECOND)
    assert [(one.envelope, one.body) for one in found] == [
        ("{}", b"one"),
        ('{"a": "\\u0000"}', b"\0\xff"),
        ("{}", b""),
    ]
    assert [one.seq for one in found] == sorted(one.seq for one in found)
    assert receive(storage, 2, queue="none") == []
    assert (storage.depth("q"), storage.depth("Q"), storage.depth("none")) == (3, 1, 0)


def test_what_is_taken_is_seen_by_nobody_else_until_it_is_given_back(storage: Storage) -> None:
    """An acknowledgement deletes what its token took, and only that; a give-back makes the rest visible at once."""
    storage.publish("q", [("{}", bytes([k])) for k in range(6)])
    assert receive(storage, 1, 2) == [b"\0", b"\1"]
    assert receive(storage, 2, 2) == [b"\2", b"\3"]
    assert storage.acknowledge(1) == 2
    assert storage.acknowledge(1) == storage.acknowledge(9) == 0
    storage.give_back(2)
    assert storage.acknowledge(2) == 0
    assert receive(storage, 3) == [b"\2", b"\3", b"\4", b"\5"]
    assert receive(storage, 4) == []
    assert (storage.acknowledge(3), storage.depth("q")) == (4, 0)


def test_both_bounds_are_kept_but_one_message_always_comes(storage: Storage) -> None:
    """By number and by the sum of the bodies; one that is too large by itself comes alone."""
    storage.publish("q", [("{}", b"x" * size) for size in (4, 4, 4, 50, 1)])
    assert [len(body) for body in receive(storage, 1, 10, 9)] == [4, 4]
    assert [len(body) for body in receive(storage, 2, 1, 9)] == [4]
    assert [len(body) for body in receive(storage, 3, 10, 9)] == [50]
    assert [len(body) for body in receive(storage, 4, 10, 0)] == [1]


def test_what_is_not_acknowledged_in_time_is_seen_again(storage: Storage) -> None:
    """To the microsecond; the late receipt then deletes nothing of another's."""
    noon, almost, later = at(storage, NOON), at(storage, NOON + 30 * SECOND - 1), at(storage, NOON + 30 * SECOND)
    noon.publish("q", [("{}", b"one"), ("{}", b"two")])
    assert receive(noon, 1, 1) == [b"one"]
    assert receive(almost, 2, 1) == [b"two"]
    assert receive(almost, 3) == []
    assert receive(later, 4) == [b"one"]
    assert storage.acknowledge(1) == 0
    assert (storage.acknowledge(2), storage.acknowledge(4), storage.depth("q")) == (1, 1, 0)
    for one in (noon, almost, later):
        one.close()


def test_a_receipt_that_expired_still_counts_while_nobody_else_took_it(storage: Storage) -> None:
    """The jobs are committed: deleting the messages is right."""
    noon = at(storage, NOON - HOUR)
    noon.publish("q", [("{}", b"one")])
    assert receive(noon, 1) == [b"one"]
    assert (storage.acknowledge(1), storage.depth("q")) == (1, 0)
    noon.close()


def drain(storage: Storage, place: int) -> list[bytes]:
    """Receive and acknowledge until the queue is empty, giving every third batch back first."""
    taken: list[bytes] = []
    token = place * 1000
    while storage.depth("q"):
        token += 1
        batch = receive(storage, token, 7)
        if token % 3 == 0:
            storage.give_back(token)
        elif batch:
            assert storage.acknowledge(token) == len(batch)
            taken += batch
    return taken


def test_racing_receivers_share_no_message(storage: Storage, racers: Racers) -> None:
    """Six processes, then six threads: each of 200 messages is acknowledged once."""
    for race in (
        lambda: racers.race(drain, storage.engine.url.render_as_string(hide_password=False), range(RACERS)),
        lambda: at_once([partial(drain, storage, place) for place in range(6)]),
    ):
        storage.publish("q", [("{}", str(k).encode()) for k in range(200)])
        assert Counter(body for taken in race() for body in taken) == Counter(str(k).encode() for k in range(200))


def test_racing_publishers_lose_nothing(storage: Storage) -> None:
    """Six threads, ten batches each."""

    def publish(place: int) -> None:
        for turn in range(10):
            storage.publish("q", [("{}", f"{place}-{turn}-{k}".encode()) for k in range(3)])

    at_once([partial(publish, place) for place in range(6)])
    assert len(set(receive(storage, 1, 1000, 10_000))) == storage.depth("q") == 180
