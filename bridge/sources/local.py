"""The local queue as a source: a table in the store, for machines without a broker.

Received messages are invisible to others for a while, under a token; an ack deletes them by it. A pod that dies
leaves its messages to become visible again.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from random import Random

from bridge.config.model import LocalSourceSection
from bridge.dead_letters import envelope, message_of
from bridge.message import Message
from bridge.sources.source import Batch, Source, SourceStatus
from scheduler.storage import Storage, StoreUnavailable
from scheduler.storage.records import LocalMessage

VISIBILITY = 30.0
BUSY_POLL = 0.02
IDLE_POLL = 0.25


class LocalSource(Source):
    def __init__(
        self,
        name: str,
        section: LocalSourceSection,
        storage: Storage,
        *,
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._section = section
        self._storage = storage
        self._random = random or Random(os.urandom(16))
        self._monotonic = monotonic
        self._closing = threading.Event()
        self._paused: str | None = None
        self._pause = BUSY_POLL
        self._unacked: set[int] = set()
        self._lag: int | None = None

    def run(self) -> None:
        return

    def receive(self, timeout: float) -> Batch | None:
        deadline = self._monotonic() + timeout
        while not self._closing.is_set() and self._paused is None:
            token = self._random.getrandbits(63)
            taken = self._take(token, 0, 0)
            if taken:
                self._pause = BUSY_POLL
                self._unacked.add(token)
                self._linger(token, taken)
                messages = [
                    message_of(one.envelope, one.body)._replace(coordinates=f"{self._section.queue}/{one.seq}")
                    for one in taken
                ]
                return Batch(messages, token)
            left = deadline - self._monotonic()
            if left <= 0:
                return None
            self._closing.wait(min(self._pause, left))
            self._pause = min(IDLE_POLL, self._pause * 2)
        self._closing.wait(max(0.0, min(deadline - self._monotonic(), IDLE_POLL)))
        return None

    def _take(self, token: int, count: int, size: int) -> list[LocalMessage]:
        """What there is, for a batch that has so many messages and bytes already."""
        bounds = self._section.batch
        return self._storage.receive(
            self._section.queue,
            token=token,
            limit=bounds.max - count,
            max_bytes=bounds.max_bytes - size,
            visibility_us=int(VISIBILITY * 1e6),
            at_least=0 if count else 1,  # of one that is larger than the bound, a batch of its own
        )

    def _linger(self, token: int, taken: list[LocalMessage]) -> None:
        """Add what comes meanwhile, under the same token."""
        bounds = self._section.batch
        until = self._monotonic() + bounds.linger
        while len(taken) < bounds.max and (size := sum(len(one.body) for one in taken)) < bounds.max_bytes:
            left = until - self._monotonic()
            if left <= 0 or self._closing.wait(min(BUSY_POLL, left)):
                return
            taken += self._take(token, len(taken), size)

    def ack(self, batch: Batch) -> None:
        if not isinstance(batch.receipt, int):
            raise TypeError("a batch of another source")
        self._storage.acknowledge(batch.receipt)
        self._unacked.discard(batch.receipt)

    def pause(self, reason: str) -> None:
        self._paused = reason

    def resume(self) -> None:
        self._paused = None

    def drained(self) -> bool:
        return True  # nothing is fetched ahead, and an ack is sent when it is given

    def close(self) -> None:
        self._closing.set()
        while self._unacked:
            try:
                self._storage.give_back(self._unacked.pop())
            except StoreUnavailable:
                return  # they become visible by themselves

    def status(self) -> SourceStatus:
        return SourceStatus(not self._closing.is_set(), paused=self._paused, lag=self._lag)

    def beat(self) -> None:
        self._lag = self._storage.depth(self._section.queue)


def publish_local(storage: Storage, section: LocalSourceSection, messages: Iterable[Message]) -> int:
    """Publish to the local queue; how many. Those of one call are committed in batches of 500.

    :raises StoreUnavailable: publish them again; under the same correlation IDs nothing is doubled.
    """
    count = 0
    remaining = iter(messages)
    while batch := list(itertools.islice(remaining, 500)):
        storage.publish(section.queue, [(envelope(one), one.body) for one in batch])
        count += len(batch)
    return count
