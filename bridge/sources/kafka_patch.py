"""All of kafka-python's inside that we touch, in one place; importing this module applies it.

Promises: a record that kafka-python cannot unpack makes `poll` raise `Undecodable`, and raise it again until someone
seeks past the record. Unpatched, the poll after the error spins at full load and never returns, and a pause in
between hides the error altogether (`tests/unit/test_client_patches.py`). Its loggers, which repeat a lost broker
six times a second, are silent: a source tells its own state, once for each change. A client that cannot be built
leaves no thread behind, a failed connect no socket.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

from kafka.consumer.fetcher import Fetcher
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.selector import NetworkSelector
from kafka.structs import TopicPartition

Client = TypeVar("Client")

_take = Fetcher.PartitionRecords.take


class Undecodable(Exception):
    """A record, or a batch of them, that kafka-python cannot unpack."""

    def __init__(self, partition: TopicPartition, offset: int, reason: BaseException) -> None:
        super().__init__(f"{type(reason).__name__}: {reason}")
        self.partition = partition
        self.offset = offset


def sticky_take(records: Fetcher.PartitionRecords, count: int | None = None) -> list[object]:
    """`PartitionRecords.take`, whose error stays with the records instead of being told once."""
    failed: Undecodable | None = getattr(records, "undecodable", None)
    if failed is None:
        try:
            taken: list[object] = _take(records, count)
        except Exception as reason:
            failed = Undecodable(records.topic_partition, records.next_fetch_offset, reason)
            records.undecodable = failed
        else:
            return taken
    raise failed


def build(kind: Callable[..., Client], settings: Mapping[str, object]) -> Client:
    """A consumer or admin client. Where its constructor fails, as it does while the broker is away, kafka-python
    leaves its I/O thread and six descriptors behind: they are ended here."""
    begun: list[KafkaNetClient] = []

    def net_client(**configs: object) -> KafkaNetClient:
        begun.append(KafkaNetClient(**configs))
        return begun[-1]

    try:
        return kind(**settings, kafka_client=net_client)
    except BaseException:
        for client in begun:
            client.close()
        raise


_sock_connect = KafkaNetSocket.sock_connect


async def closing_sock_connect(
    factory: KafkaNetSocket,
    net: NetworkSelector,
    sock: socket.socket,
    address: tuple[object, ...],
    timeout_at: float | None = None,
) -> socket.socket:
    """kafka-python's, which leaves the sockets of failed connects to the garbage collector: at a try every two
    seconds, descriptors pile up while the broker is away."""
    try:
        connected: socket.socket = await _sock_connect(factory, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise
    return connected


Fetcher.PartitionRecords.take = sticky_take
KafkaNetSocket.sock_connect = closing_sock_connect
logging.getLogger("kafka").setLevel(logging.CRITICAL)
