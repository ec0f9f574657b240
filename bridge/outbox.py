"""Relays what handlers published: rows that were written with their jobs' success, through the source's broker.

Promises: a row is deleted only after the broker confirmed its message; a pod that dies in between leaves it to be sent
again, under the same message ID. Does not promise that messages of different jobs arrive in the order of these jobs.
"""

import os
from collections.abc import Sequence
from logging import getLogger
from random import Random

from bridge.config.model import AmqpSourceSection, Configuration, KafkaSourceSection
from bridge.dead_letters import message_of
from bridge.message import Message
from scheduler.outbox import PREFIX
from scheduler.server import Server
from scheduler.storage import Storage

log = getLogger("jobbridge.outbox")

BATCH = 500
MAX_BYTES = 4 * 1024**2
VISIBILITY = 30.0
"""Seconds after which another pod sends what this one has taken and not deleted."""
LOOK = 5.0
"""Seconds between the master's looks for what a pod that died has left."""


class Relay:
    """A pod's loop: woken by its own jobs; the master's also looks by itself."""

    name = "outbox"

    def __init__(self, configuration: Configuration, storage: Storage, server: Server) -> None:
        self.wake = server.worker.leaving
        self._configuration = configuration
        self._storage = storage
        self._worker = server.worker
        self._random = Random(os.urandom(16))
        self._waiting: set[str] = set()
        """The sources whose broker did not take a message at the last try."""

    def step(self) -> float:
        """One round over all sources for which messages wait; seconds until the next."""
        if not (self._worker.has_left or self._waiting or self._worker.membership.is_master):
            return LOOK
        self._worker.has_left = False
        names = [name.removeprefix(PREFIX) for name in self._storage.queues(PREFIX)]
        more = [self._relay(name) for name in names if name in self._configuration.sources]
        if any(more):
            return 0.0
        return 1.0 if self._waiting else LOOK

    def _relay(self, source: str) -> bool:
        """Send a batch to a source; whether more may wait."""
        token = self._random.getrandbits(63)
        taken = self._storage.receive(
            PREFIX + source, token=token, limit=BATCH, max_bytes=MAX_BYTES, visibility_us=int(VISIBILITY * 1e6)
        )
        if not taken:
            return False
        try:
            self._publish(source, [message_of(one.envelope, one.body) for one in taken])
        except Exception as error:
            if source not in self._waiting:
                log.error("source %s does not take the messages of jobs, they wait: %s", source, error)
            self._waiting.add(source)
            self._storage.give_back(token)
            return False
        self._storage.acknowledge(token)
        self._waiting.discard(source)
        return True

    def _publish(self, source: str, messages: Sequence[Message]) -> None:
        # A pod whose handlers publish nothing loads no producer.
        from bridge.publish import publish_amqp, publish_kafka

        section = self._configuration.sources[source]
        if isinstance(section, AmqpSourceSection):
            publish_amqp(self._configuration.brokers[section.broker], section, messages)
        elif isinstance(section, KafkaSourceSection):
            publish_kafka(self._configuration.brokers[section.broker], section, messages)
