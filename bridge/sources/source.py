"""What every source of messages is: four verbs, the same for each broker.

Promises: `receive` hands out each message at least once until it is acked; `ack` is given only after the
database's COMMIT is known, and never acknowledges a message outside its batch that was not acked before it
(I1). A lost connection, a missing queue or topic and a broker that is down are waited for, never raised.
Does not promise order across partitions, or that a message comes once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from bridge.message import Message


class Batch(NamedTuple):
    """Messages that arrived together, in order, and what the source needs to ack them."""

    messages: Sequence[Message]
    receipt: object


class SourceStatus(NamedTuple):
    """What health and `status` say about a source."""

    attached: bool
    """Connected and consuming (or paused on purpose)."""
    detail: str = ""
    """Why it is not attached, in one line, without secrets."""
    paused: str | None = None
    """Why it is paused, or None."""
    lag: int | None = None
    """Messages that the broker holds and has not handed out, as of the last heartbeat; of Kafka those of the partitions
    that are read here. None: not known."""


class Source(ABC):
    """A queue, topic or local queue. `run` belongs to the source's I/O thread, `receive` and `ack` to its ingest
    thread, the rest to any."""

    name: str
    reconnects = 0
    """Sessions that ended though nobody asked for it."""
    acks_dropped = 0
    """Acks that came when their session was over."""

    @abstractmethod
    def run(self) -> None:
        """The I/O loop: connects, receives, sends acks, reconnects with backoff and jitter; returns after `close`.

        A source without I/O of its own returns at once.
        """

    @abstractmethod
    def receive(self, timeout: float) -> Batch | None:
        """All that has arrived, up to the batch's bounds; waits at most `timeout` seconds for the first message.

        None: nothing came.
        """

    @abstractmethod
    def ack(self, batch: Batch) -> None:
        """The batch is committed. Ignored where the batch's session is over: the broker sends it again."""

    @abstractmethod
    def pause(self, reason: str) -> None:
        """Stop the flow. What has arrived is still handed out; nothing is returned to the broker."""

    @abstractmethod
    def resume(self) -> None:
        """Let it flow again."""

    @abstractmethod
    def drained(self) -> bool:
        """Nothing that arrived waits to be handed out, and every ack given has been sent (or its session is over)."""

    @abstractmethod
    def close(self) -> None:
        """End the session: what is not acked goes back to the broker. `run` returns soon after."""

    @abstractmethod
    def status(self) -> SourceStatus: ...

    def beat(self) -> None:  # noqa: B027
        """Called once each heartbeat of the pod, for upkeep that needs no message to come by."""
