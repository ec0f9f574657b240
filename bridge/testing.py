"""For the tests of your own routes and handlers: the pod of your configuration, without a broker, threads or waiting.

Installed with jobbridge, pytest has the fixture `jobbridge` (see `bridge/pytest_plugin.py` for where it finds the
configuration). In a test it is a `Bridge`:

    def test_order(jobbridge):
        with jobbridge.recording() as seen:
            jobbridge.publish("orders", {"id": 7}, correlation_id="order-7", type="order.placed", times=2)
        assert (seen.created, seen.duplicates) == (1, 1)
        done = jobbridge.run_until_idle()            # raises what a handler raised; `raises=False` to look at it
        assert done.succeeded == 1
        jobbridge.assert_job(route="order-placed", state="SUCCEEDED", body={"id": 7})   # says what came nearest

    def test_a_bad_order_is_a_dead_letter(jobbridge):
        jobbridge.publish("orders", "no JSON", correlation_id="order-8", type="order.placed")
        jobbridge.run_until_idle()
        assert [letter["reason"] for letter in jobbridge.dead_letters] == ["invalid-json"]

    def test_an_order_is_booked_once(jobbridge):     # is your handler idempotent?
        jobbridge.publish("orders", {"id": 7}, correlation_id="order-7", type="order.placed")
        jobbridge.kill_pod()                         # it has booked, then its pod dies: the job is run again
        jobbridge.lose_commit_reply()                # and the database has done what it never answered
        jobbridge.run_until_idle()
        assert bookings() == 1

`jobbridge.advance("1h")` lets retries, schedules, recurring jobs and expiries become due, for the next
`run_until_idle`. `jobbridge.call(handler, body, attempt=2, cancelled=True)` calls a handler without a store.

Promises: decoding, routing, validation, deduplication and the store are the product's own, on a real database; what
`scheduler.testing` promises of the clocks holds here. A message is handed over as its source's broker would do.
Does not promise what a broker decides by itself: to which queues an exchange routes, redelivery, partitions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from bridge.backpressure import Backpressure
from bridge.config.model import Configuration
from bridge.dead_letters import envelope
from bridge.ingest import Ingest
from bridge.message import written
from bridge.pod import Pod
from bridge.sources.source import Source
from bridge.sources.stand_in import StandIn, queue_of
from scheduler.bodies import encoded
from scheduler.loops import Loop, LoopThread
from scheduler.server import Server
from scheduler.storage import Storage
from scheduler.storage.operators import Record
from scheduler.testing import Engine
from scheduler.testing.faults import MOMENT, Steady


@dataclass
class Recorded:
    """What became of messages."""

    created: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    ignored: int = 0


class Bridge(Engine):
    """A pod of this configuration, with local queues for its sources.

    :param store: the URL of a store that is empty, in the place of the configured one.
    """

    def __init__(self, configuration: Configuration, store: str) -> None:
        self._sections = configuration.sources
        queues = {name: queue_of(name, section) for name, section in configuration.sources.items()}
        self._configuration = configuration.model_copy(update={"sources": queues})
        self._ingests: list[Ingest] = []
        self._intake: list[Loop] = []
        self._counted: Counter[str] = Counter()
        super().__init__(store)

    def publish(
        self,
        source: str,
        body: object,
        *,
        correlation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: str | None = None,
        routing_key: str | None = None,
        topic: str | None = None,
        key: str | None = None,
        message_id: str | None = None,
        times: int = 1,
    ) -> None:
        """A message arrives at a source; `run_until_idle`, or the end of `recording`, ingests it.

        :param body: bytes and text as they are; anything else as JSON, a pydantic model as it dumps itself.
        :param routing_key: of an AMQP source; by default its queue's name.
        :param topic: of a Kafka source; by default its first one.
        """
        section = self._sections.get(source)
        if section is None:
            raise ValueError(f"no source is called {source!r}: configured are {', '.join(sorted(self._sections))}")
        message = written(
            encoded(body),
            (headers or {}).items(),
            correlation_id=correlation_id,
            message_id=message_id,
            key=key,
            routing_key=routing_key,
            topic=topic,
            type=type,
        )
        self.storage.publish(source, [(envelope(message), message.body)] * times)

    @contextmanager
    def recording(self) -> Iterator[Recorded]:
        """Count what is ingested in this block, at whose end all messages that wait are."""
        before, seen = self._total(), Recorded()
        yield seen
        standing: object = None
        while (now := self._standing()) != standing:
            standing = now
            self._clock.passed += MOMENT
            for loop in self._intake:
                self._step(loop)
        counts = self._total() - before
        seen.created, seen.duplicates, seen.conflicts = counts["created"], counts["duplicate"], counts["conflict"]
        seen.rejected, seen.ignored = counts["rejected"], counts["ignored"]

    @property
    def dead_letters(self) -> list[Record]:
        """The rows of the messages that could not become jobs, whole, the oldest first."""
        keys = [UUID(str(one["id"])).bytes for one in self.storage.list_dead_letters(limit=10_000)]
        return [row for key in reversed(keys) if (row := self.storage.dead_letter(key)) is not None]

    def _total(self) -> Counter[str]:
        return sum((ingest.counts for ingest in self._ingests), self._counted.copy())

    def _standing(self) -> tuple[object, ...]:
        busy = any(ingest.busy for ingest in self._ingests)
        return *super()._standing(), self._clock.passed if busy else None

    def _destinations(self) -> Mapping[str, str]:
        return {name: name for name in self._sections}

    def _pod(self) -> tuple[Server, Sequence[LoopThread]]:
        self._counted = self._total()
        pod = Pod(
            self._configuration,
            open_store=lambda _configuration, _size: self.storage,
            open_sources=self._sources,
            random=Steady(),
            monotonic=self._clock.monotonic,
        )
        loops = pod.loops()
        self._ingests = [thread.loop for thread in loops if isinstance(thread.loop, Ingest)]
        self._intake = [thread.loop for thread in loops if isinstance(thread.loop, Backpressure)]
        self._intake += self._ingests
        return pod.server, loops

    def _sources(self, _configuration: Configuration, storage: Storage) -> Sequence[Source]:
        return [StandIn(name, one, storage, self._clock.monotonic) for name, one in self._sections.items()]
