"""From a source into the store, and the only place that decides an ack.

Promises: a message is acked only after a COMMIT that is known, of its job or its dead letter (I1); a message that
can't become a job becomes a dead letter and never blocks those behind it (I5); a batch that the store refuses while
it answers otherwise is cut in halves down to the one message that it refuses.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from logging import getLogger
from typing import NamedTuple

from bridge.dead_letters import CONFLICT, WITHOUT_HEADERS, dead_letter
from bridge.decode import Decoder, Ignored, Rejection, Request
from bridge.sources.source import Batch, Source
from scheduler.counts import Key
from scheduler.inflight import PREFETCH_SECONDS
from scheduler.offers import Offer, Offers
from scheduler.storage import Storage, StoreUnavailable
from scheduler.storage.records import DeadLetter, Inserted, Outcome
from scheduler.tracing import received

log = getLogger("jobbridge.ingest")

RECEIVE_SECONDS = 0.5
PATIENCE = 0.002
"""Seconds between looks whether the workers have room."""
REFUSALS = 2
"""Tries of the same batch that fail while the store takes writes, before it is cut in halves."""
LAST_REFUSALS = 3
"""The same for a single message, before it becomes a dead letter."""
LOST_REFUSALS = 8
"""Where the failures read as lost connections: a message that is too large looks so, and a bad network too."""
AHEAD_FROM = 100
"""Messages of a batch from which the next one is decoded while this one is inserted. Smaller ones grow by waiting."""
FOUND_OR_MADE = {Outcome.NEW, Outcome.DUPLICATE}


class Part:
    """A part of a batch on its way into the store, and how often the store refused it."""

    def __init__(self, requests: Sequence[Request], rejected: Sequence[DeadLetter], offer: Offer | None = None) -> None:
        self.requests = requests
        self.rejected = rejected
        self.offer = offer
        """None: not made yet, since it reserves room among the workers."""
        self.refusals = 0


class Received(NamedTuple):
    """A batch, decoded; what of it needs no insert is counted already."""

    batch: Batch
    parts: list[Part]
    counts: Counter[Key]
    at: float
    """When it had arrived, by the monotonic clock."""


def _patience(part: Part, error: Exception) -> int:
    """How often a part may be refused before it is cut."""
    if len(part.requests) > 1:
        return REFUSALS
    return LOST_REFUSALS if isinstance(error, StoreUnavailable) else LAST_REFUSALS


class Ingest:
    """One source's ingest thread: a loop of receive, decode, insert, ack."""

    def __init__(
        self,
        source: Source,
        decoder: Decoder,
        offers: Offers,
        storage: Storage,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"ingest {source.name}"
        self.wake = threading.Event()
        self.counts: Counter[str] = Counter()
        """Messages by outcome: created, duplicate, conflict, rejected, ignored."""
        self._source = source
        self._decoder = decoder
        self._offers = offers
        self._storage = storage
        self.helper: Executor | None = None
        """Receives and decodes a batch while the one before is inserted; None: nobody does."""
        self._ahead: Future[Received | None] | None = None
        self._batch: Batch | None = None
        self._parts: list[Part] = []
        self._look_first = False
        self._monotonic = monotonic
        self._patient_until = 0.0
        self._received_at: float | None = None
        self.rejections: Counter[str] = Counter()
        """Messages that became dead letters, by the reason."""
        self.measure: Callable[[int, float, float], None] | None = None
        """Told of each batch that is stored: its messages, seconds since it had arrived, seconds of its insert."""

    @property
    def busy(self) -> bool:
        """Whether a batch is between its receive and its ack."""
        return self._batch is not None or self._ahead is not None

    def progress(self) -> tuple[float | None, float]:
        """Seconds since the last batch arrived (None: there was none), and the age of the batch in hand."""
        received_at = self._received_at
        ago = None if received_at is None else round(self._monotonic() - received_at, 3)
        return ago, 0.0 if self._batch is None or ago is None else ago

    def status(self) -> dict[str, object]:
        """What the servers table shows of it."""
        ago, unacked = self.progress()
        return {"counts": dict(self.counts), "last_receive_ago": ago, "oldest_unacked": unacked}

    def step(self) -> float:
        """One round. A batch whose insert failed is kept, and goes on in the next.

        :raises StoreUnavailable: the store is away; nothing was acked.
        """
        if self._batch is None:
            try:
                received = self._receive(RECEIVE_SECONDS) if self._ahead is None else self._ahead.result()
            finally:
                self._ahead = None
            if received is None:
                return 0.0
            self._batch, self._parts = received.batch, received.parts
            self._tell(received.counts)
            self._received_at = received.at
            self._patient_until = self._monotonic() + PREFETCH_SECONDS
            if self.helper is not None and len(self._batch.messages) >= AHEAD_FROM:
                self._ahead = self.helper.submit(self._receive, 0.0)
        if self._may_wait():
            return PATIENCE
        began = self._monotonic()
        while self._parts:
            self._insert(self._parts[0])
        self._source.ack(self._batch)
        self._measured(self._batch, began)
        self._batch = None
        return 0.0

    def _measured(self, batch: Batch, began: float) -> None:
        """It is stored, and its insert began then."""
        now = self._monotonic()
        seconds = now - (began if self._received_at is None else self._received_at)
        if self.measure is not None:
            self.measure(len(batch.messages), seconds, now - began)
        received(self._source.name, len(batch.messages), seconds, (message.headers for message in batch.messages))

    def _receive(self, timeout: float) -> Received | None:
        batch = self._source.receive(timeout)
        return None if batch is None else self._decode(batch)

    def _may_wait(self) -> bool:
        part = self._parts[0] if self._parts else None
        if part is None or part.offer is not None or self._monotonic() >= self._patient_until:
            return False
        return not self._offers.welcome(len(part.requests))

    def abandon(self) -> None:
        """Let go of what was not acked: its source's broker sends it again."""
        for part in self._parts:
            if part.offer is not None:
                self._offers.abandon(part.offer)
        self._parts, self._batch, self._ahead = [], None, None

    def _decode(self, batch: Batch) -> Received:
        at = self._monotonic()
        counts: Counter[Key] = Counter()
        first: dict[bytes, Request] = {}
        again: list[Request] = []
        rejected: list[DeadLetter] = []
        for message in batch.messages:
            decoded = self._decoder.decode(message)
            if isinstance(decoded, Request):
                earlier = first.setdefault(decoded.job.id, decoded)
                if earlier is decoded:
                    continue
                if earlier.job.digest == decoded.job.digest:
                    counts[Key(self._source.name, decoded.route.name, "duplicate")] += 1
                else:
                    again.append(decoded)  # a conflict within the batch: offered once the first one stands
            elif isinstance(decoded, Rejection):
                counts[Key(self._source.name, "", "rejected")] += 1
                rejected.append(dead_letter(self._source.name, message, decoded.reason, decoded.detail))
            else:
                assert isinstance(decoded, Ignored)
                counts[Key(self._source.name, "", "ignored")] += 1
        parts = [Part(list(first.values()), rejected), *(Part([request], ()) for request in again)]
        self._tell_reasons(rejected)
        return Received(batch, parts, counts, at)

    def _insert(self, part: Part) -> None:
        """Insert the first part; it is taken from the list when its fate is known."""
        if part.offer is None:
            part.offer = self._offers.make([one.job for one in part.requests], [one.body for one in part.requests])
        try:
            answers = self._offers.insert(part.offer, look_first=self._look_first, rejected=part.rejected)
            self._keep_losers(part, answers)
        except Exception as error:
            if not self._storage.answers():
                part.refusals = 0
                raise
            part.refusals += 1
            if part.refusals < _patience(part, error):
                raise
            log.warning("the store refuses a batch of %d, which is cut: %s", len(part.requests), type(error).__name__)
            self._cut(part, part.offer, error)
            return
        self._parts.remove(part)
        self._count(part, answers)

    def _keep_losers(self, part: Part, answers: Sequence[Inserted]) -> None:
        """Dead letters for what found another's row in its place."""
        lost: list[DeadLetter] = []
        if {answer.outcome for answer in answers} <= FOUND_OR_MADE:
            return
        for request, answer in zip(part.requests, answers, strict=True):
            if answer.outcome is Outcome.COLLISION:
                reason, detail = "digest-collision", "another correlation ID has the same digest"
            elif answer.outcome is Outcome.CONFLICT and request.route.dedupe.on_conflict == "dead-letter":
                reason, detail = "conflict", CONFLICT
            else:
                continue
            lost.append(dead_letter(self._source.name, request.message, reason, detail))
        if lost:
            self._storage.insert_dead_letters(lost)
            self._tell_reasons(lost)

    def _count(self, part: Part, answers: Sequence[Inserted]) -> None:
        names = {Outcome.NEW: "created", Outcome.DUPLICATE: "duplicate"}
        outcomes = [names.get(answer.outcome, "conflict") for answer in answers]
        routes = (request.route.name for request in part.requests)
        # Plain pairs are counted in a third of the time that keys take.
        pairs = Counter(zip(routes, outcomes, strict=True))
        self._tell({Key(self._source.name, *pair): number for pair, number in pairs.items()})
        # A replay, or delivery to every pod: reading first is then cheaper. The unique key decides all the same.
        self._look_first = outcomes.count("duplicate") * 2 > len(answers)

    def _tell(self, counted: Mapping[Key, int]) -> None:
        self._offers.counts.add(counted)
        for key, number in counted.items():
            self.counts[key.outcome] += number

    def _tell_reasons(self, letters: Iterable[DeadLetter]) -> None:
        self.rejections.update(letter.reason for letter in letters)

    def _cut(self, part: Part, offer: Offer, error: Exception) -> None:
        place = self._parts.index(part)
        if part.rejected:
            self._insert_letters(part.rejected)
            smaller = [Part(part.requests, (), offer)] if part.requests else []
        elif len(part.requests) > 1:
            left, right = offer.split()
            middle = len(left.jobs)
            smaller = [Part(part.requests[:middle], (), left), Part(part.requests[middle:], (), right)]
        else:
            request = part.requests[0]
            detail = f"the store refuses it: {type(error).__name__}: {error}"
            refused = [dead_letter(self._source.name, request.message, "store-refused", detail)]
            self._insert_letters(refused)
            self._tell_reasons(refused)
            self._tell({Key(self._source.name, request.route.name, "rejected"): 1})
            self._offers.abandon(offer)
            smaller = []
        self._parts[place : place + 1] = smaller

    def _insert_letters(self, letters: Sequence[DeadLetter]) -> None:
        """One by one; of one that the store refuses whole, the head, and at last that without its headers.

        :raises StoreUnavailable: where it takes not even that: then nothing is wrong with the message.
        """
        for letter in letters:
            head = letter._replace(body=letter.body[:1024])
            for smaller in (letter, head):
                with contextlib.suppress(Exception):
                    self._storage.insert_dead_letters([smaller])
                    break
            else:
                self._storage.insert_dead_letters([head._replace(envelope=WITHOUT_HEADERS)])
