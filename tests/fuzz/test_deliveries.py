"""Deliveries that are handed over without pika's frames arrive as pika hands them over, wherever the stream is cut."""

from collections.abc import Callable
from itertools import pairwise

import pika
import pika.channel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import InvalidFrameError

from bridge.sources import pika_patch

Feed = Callable[[SelectConnection, bytes], None]
FRAME_MAX = 128 * 1024
SIZES = (0, 1, 300, pika_patch.LARGEST, pika_patch.LARGEST + 1, FRAME_MAX + 5)


class Beats:
    """Stands in the place of pika's heartbeat checker."""

    def __init__(self) -> None:
        self.count = 0

    def received(self) -> None:
        self.count += 1


def connection_to(consumers: tuple[str, ...], seen: list[tuple[object, ...]]) -> SelectConnection:
    """A connection that reads what it is fed, with a channel that consumes."""

    def on_message(_: object, method: spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        seen.append((vars(method), vars(properties), body))

    connection = SelectConnection.__new__(SelectConnection)
    connection._frame_buffer, connection.bytes_received, connection.frames_received = b"", 0, 0
    connection.callbacks = pika.callback.CallbackManager()
    connection._heartbeat_checker = Beats()
    channel = pika.channel.Channel(connection, 1, lambda _channel: None)
    channel._consumers = dict.fromkeys(consumers, on_message)
    connection._channels = {1: channel}
    return connection


def delivery(number: int, size: int, consumer: str = "c", frame_max: int = FRAME_MAX) -> bytes:
    properties = pika.BasicProperties(
        correlation_id=f"id-{number}", headers={"n": number, "t": {"deep": "x"}} if number % 2 else None, priority=3
    )
    body = bytes([number % 256]) * size
    most = frame_max - 8
    frames = [
        frame.Method(1, spec.Basic.Deliver(consumer, number, number % 3 == 0, "exchange", "key")),
        frame.Header(1, size, properties),
        *(frame.Body(1, body[place : place + most]) for place in range(0, size, most)),
    ]
    return b"".join(one.marshal() for one in frames)


def fed(feed: Feed, chunks: list[bytes]) -> tuple[object, ...]:
    seen: list[tuple[object, ...]] = []
    connection = connection_to(("c",), seen)
    for chunk in chunks:
        feed(connection, chunk)
    assert connection._heartbeat_checker is not None
    return seen, connection._heartbeat_checker.count, connection.bytes_received, connection._frame_buffer


items = st.one_of(
    st.sampled_from(SIZES).map(lambda size: ("c", size, FRAME_MAX)),
    st.just(("c", 9_000, 4_096)),
    st.just(("cancelled", 10, FRAME_MAX)),
    st.none(),
)


@given(st.lists(items, max_size=12), st.lists(st.integers(0, 2**31), max_size=8), st.integers(0, 40))
@example([("c", 10, FRAME_MAX), None], [], 0)
@example([None, ("c", 0, FRAME_MAX)], [], 3)
def test_deliveries_arrive_as_pika_hands_them_over(
    sent: list[tuple[str, int, int] | None], cuts: list[int], missing: int
) -> None:
    """None is a heartbeat; the last bytes are still on their way."""
    stream = b"".join(
        frame.Heartbeat().marshal() if one is None else delivery(number, one[1], one[0], one[2])
        for number, one in enumerate(sent, 1)
    )
    stream = stream[: max(0, len(stream) - missing)]
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    chunks = [stream[begin:end] for begin, end in pairwise(places)]
    ours = fed(pika_patch.on_data_available, chunks)
    pikas = fed(pika_patch._on_data_available, chunks)
    assert ours[:2] == pikas[:2]
    if not ours[3]:
        assert ours[2] == pikas[2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_frame_without_its_end_is_refused_as_pika_refuses_it(place: int) -> None:
    method = frame.Method(1, spec.Basic.Deliver("c", 1, False, "exchange", "key")).marshal()
    ends = [len(method), len(delivery(1, 0)), len(delivery(1, 5))]
    broken = bytearray(delivery(1, 5))
    broken[ends[place] - 1] ^= 0xFF
    for feed in (pika_patch.on_data_available, pika_patch._on_data_available):
        with pytest.raises(InvalidFrameError):
            fed(feed, [bytes(broken)])


def test_the_patch_is_in_force() -> None:
    assert SelectConnection._on_data_available is pika_patch.on_data_available
