"""How new jobs enter the store from this process, and the first of them its own workers.

Promises: a job that is inserted as claimed stands in the in-flight map before its INSERT is sent, and in every later
try of it; only as many as there is room for, in order of arrival, and only while this process's last claim came back
short, so that no older job is passed over for long.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.counts import Counts
from scheduler.inflight import MAX_PREFETCH, Phase, Registration, Run, claimed_job
from scheduler.job import Job, NewJob
from scheduler.storage.records import DeadLetter, Inserted, Outcome
from scheduler.worker import Worker


class Offer:
    """A batch on its way into the store, the same through all its tries.

    :param jobs: in order of arrival, with ids that differ.
    :param bodies: for each job the parsed body, which a run that starts here at once is given.
    """

    def __init__(self, jobs: Sequence[NewJob], bodies: Sequence[object], token: int) -> None:
        self.jobs = jobs
        self.bodies = bodies
        self.token = token
        self.claimed = 0
        self.registration: Registration | None = None
        self.runs: dict[bytes, Run] = {}

    def split(self) -> tuple[Offer, Offer]:
        """Two halves, under the same token."""
        middle = len(self.jobs) // 2
        halves = []
        for part, claimed in (
            (slice(0, middle), min(self.claimed, middle)),
            (slice(middle, None), max(0, self.claimed - middle)),
        ):
            half = Offer(self.jobs[part], self.bodies[part], self.token)
            half.claimed, half.registration = claimed, self.registration
            half.runs = {job.id: self.runs[job.id] for job in half.jobs if job.id in self.runs}
            halves.append(half)
        return halves[0], halves[1]


class Offers:
    """Makes offers and puts them in; for any number of ingest threads."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def counts(self) -> Counts:
        """What this process counts."""
        return self._worker.counts

    def welcome(self, number: int) -> bool:
        """Whether to go ahead with so many jobs. False: the workers are so quick that they would take them all within
        `PREFETCH_SECONDS`: waiting that long at most saves a claim, a third of a job's cost."""
        inflight = self._worker.inflight
        if inflight.quick < number:
            return True
        return self._worker.hungry and inflight.room() >= min(number, MAX_PREFETCH)

    def make(self, jobs: Sequence[NewJob], bodies: Sequence[object]) -> Offer:
        """Prepare a batch, with room reserved for those of its jobs that start here at once."""
        worker = self._worker
        offer = Offer(jobs, bodies, worker.random.getrandbits(63))
        registration = worker.membership.registration()
        if registration is not None and worker.hungry and not worker.draining and not worker.holding:
            # What is behind a job that must wait, or whose route is paused, is left behind it.
            paused = worker.paused_routes
            ready = jobs[: worker.inflight.room()]
            waits = (place for place, job in enumerate(ready) if not job.at_once or job.route in paused)
            offer.claimed = next(waits, len(ready))
            offer.registration = registration
            offer.runs = worker.inflight.enter((job.id for job in jobs[: offer.claimed]), registration)
        return offer

    def insert(self, offer: Offer, *, look_first: bool = False, rejected: Sequence[DeadLetter] = ()) -> list[Inserted]:
        """Put it in, and start what is to start here.

        :raises StoreUnavailable: its fate is unknown: insert the same offer again.
        """
        worker = self._worker
        registration = offer.registration
        if worker.filters.wants("creating"):
            for job in offer.jobs:
                worker.filters.tell("creating", job)
        # Under a registration that ended meanwhile nothing may be inserted as claimed; what an earlier try did
        # insert so is rescued like any claim.
        claimed = offer.claimed if registration is not None and registration.current else 0
        answers = worker.storage.insert_if_absent(
            offer.jobs,
            token=offer.token,
            owner=registration.id if registration is not None else None,
            claimed=claimed,
            look_first=look_first,
            rejected=rejected,
        )
        if worker.filters.wants("created"):
            for job, answer in zip(offer.jobs, answers, strict=True):
                worker.filters.tell("created", job, answer.outcome)
        enqueued = False
        starting: list[tuple[Run, Job, object]] = []
        leaving: list[Run] = []
        runs, offer.runs = offer.runs, {}
        for job, body, answer in zip(offer.jobs, offer.bodies, answers, strict=True):
            run = runs.get(job.id)
            if run is not None and registration is not None and answer.claimed:
                starting.append((run, claimed_job(job, registration.id), body))
                continue
            enqueued = enqueued or answer.outcome is Outcome.NEW
            if run is not None:
                leaving.append(run)
        worker.inflight.leave(leaving)
        worker.submit(starting)
        if enqueued:
            worker.hungry = False
            worker.claiming.set()
        return answers

    def abandon(self, offer: Offer) -> None:
        """Give up an offer whose fate may be unknown: what it did insert is found by reconcile."""
        self._worker.inflight.leave([run for run in offer.runs.values() if run.phase is Phase.PENDING])
        offer.runs.clear()
