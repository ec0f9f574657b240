"""The page `/metrics`, in the form that Prometheus reads. Loaded only where `http` is on.

Promises: base units; no id, host, correlation ID or error text is a label. What this pod knows is read when the page
is; messages and jobs are counted a batch at a time. What is of the whole store comes from the master alone, by one
query a heartbeat and none a page: rules take its `max`, never a sum.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import accumulate
from typing import NamedTuple, ParamSpec, TypeVar

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bridge.ingest import Ingest
from bridge.sources.source import Source
from scheduler.inflight import Phase, Run
from scheduler.server import Server
from scheduler.storage import SchemaOutdated, Storage, StoreUnavailable
from scheduler.storage.counters import Surveyed

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=tuple[str, ...])

JOB_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
BATCH_MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
TIMED_VERBS = (
    *("insert_if_absent", "insert_dead_letters", "peek", "claim", "claim_limited", "finish", "promote", "standing"),
    *("rescue", "purge", "fire", "pass_on", "beat", "servers", "receive", "acknowledge", "backlog", "record", "survey"),
)


class Watched(NamedTuple):
    """What the metrics of a pod are read from."""

    server: Server
    storages: Sequence[Storage]
    ingests: Sequence[tuple[Source, Ingest]]
    by_operators: Callable[[], Mapping[str, str]]
    """The sources that are paused by an operator."""
    versions: Mapping[str, str]
    digest: str
    """Of the configuration."""


class Survey:
    """The master's duty that asks for the state of the whole store, once a heartbeat."""

    def __init__(self, storage: Storage, interval: float) -> None:
        self._storage = storage
        self._interval = interval
        self._found: Sequence[Surveyed] = ()
        self._at = float("-inf")

    def step(self) -> float:
        """One look; seconds until the next."""
        self._found, self._at = self._storage.survey(), time.monotonic()
        return self._interval

    def found(self) -> Sequence[Surveyed] | None:
        """What it found; None: that was too long ago."""
        return self._found if time.monotonic() - self._at < 3 * self._interval else None


class Durations:
    """A histogram of one route's jobs: the library's own costs five times as much for each."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(JOB_SECONDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(JOB_SECONDS, seconds)] += 1
        self._sum += seconds

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Each bound with how many are within it, and the sum of all."""
        bounds = [*map(floatToGoString, JOB_SECONDS), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Metrics(Collector):
    """All metrics of one pod, which is not started yet."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        server = watched.server
        self._survey = Survey(server.worker.storage, server.membership.interval)
        server.duties.add(self._survey)
        duties = self._histogram("duties_seconds", "How long a round of a master's duty took.", BATCH_SECONDS, "duty")
        server.duties.measure = lambda duty, seconds: duties.labels(duty.lower()).observe(seconds)
        self._lock = threading.Lock()
        self._durations: defaultdict[tuple[str, str], tuple[Durations, Durations, Durations]] = defaultdict(
            lambda: (Durations(), Durations(), Durations())
        )
        self._ended: Counter[tuple[str, str, str]] = Counter()
        server.worker.measure = self._jobs_ended
        self._measure_ingests()
        self._measure_stores()
        self._registry.register(self)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"jobbridge_{name}", what, labels, buckets=buckets, registry=self._registry)

    def _total(self, name: str, what: str, *labels: str) -> Total:
        return Total(f"jobbridge_{name}", what, labels, registry=self._registry)

    def _jobs_ended(self, outcomes: Sequence[tuple[Run, str]]) -> None:
        with self._lock:
            for run, _ in outcomes:
                if run.ended:  # else it was cut off
                    job = run.job
                    running, waiting, whole = self._durations[job.route, job.handler]
                    running.add(run.ended - run.started)
                    waiting.add(job.waited_us / 1e6 + run.started - run.taken)
                    whole.add(job.age_us / 1e6 + run.ended - run.taken)
            self._ended.update([(run.job.route, run.job.handler, outcome) for run, outcome in outcomes])

    def _measure_ingests(self) -> None:
        sizes = self._histogram("ingest_batch_messages", "Messages of a batch.", BATCH_MESSAGES, "source")
        whole = self._histogram("ingest_seconds", "From a batch's arrival to its ack.", BATCH_SECONDS, "source")
        commit = self._histogram("ingest_commit_seconds", "How long its insert took.", BATCH_SECONDS, "source")
        for source, ingest in self._watched.ingests:
            of_source = sizes.labels(source.name), whole.labels(source.name), commit.labels(source.name)

            def measure(*observed: float, of_source: tuple[Histogram, ...] = of_source) -> None:
                for histogram, value in zip(of_source, observed, strict=True):
                    histogram.observe(value)

            ingest.measure = measure

    def _measure_stores(self) -> None:
        seconds = self._histogram("store_seconds", "How long a verb of the store took.", BATCH_SECONDS, "verb")
        errors = self._total("store_errors", "Verbs that failed.", "kind")
        for storage in self._watched.storages:
            for name in TIMED_VERBS:
                setattr(storage, name, _timed(getattr(storage, name), seconds.labels(name), errors))

    def collect(self) -> Iterable[Metric]:
        """What is read when the page is."""
        server, outage = self._watched.server, self._watched.server.outage
        inflight, membership = server.worker.inflight, server.membership
        for name, what, value in (
            ("workers", "Jobs that may run at once.", inflight.workers),
            ("workers_busy", "Jobs that run.", inflight.number(Phase.RUNNING)),
            ("results_held", "Results that wait to be written.", inflight.number(Phase.ENDED)),
            ("heartbeat_timestamp_seconds", "When this pod last beat, by the store.", membership.database_time / 1e6),
            ("store_up", "Whether the store answers.", outage.since is None),
            ("master", "Whether this pod is the master.", membership.is_master),
        ):
            yield GaugeMetricFamily(f"jobbridge_{name}", what, float(value))
        rescued = {"dead-server": "rescued", "too-many-rescues": "failed"}
        taken = {(reason,): server.rescue.taken[outcome] for reason, outcome in rescued.items()}
        yield _counter("jobs_rescued", "Jobs taken from servers that died; by the master.", ("reason",), taken)
        versions = self._watched.versions
        build = {(versions["jobbridge"], versions["python"], server.worker.storage.engine.dialect.name): 1.0}
        yield _gauge("build_info", "1.", ("version", "python", "store"), build)
        yield _gauge("config_info", "1.", ("digest",), {(self._watched.digest,): 1.0})
        yield from self._jobs()
        yield from self._sources()
        found = self._survey.found() if membership.is_master else None
        if found is not None:
            yield from self._cluster(found)

    def _jobs(self) -> Iterable[Metric]:
        with self._lock:
            ended = dict(self._ended)
            told = {key: [one.told() for one in three] for key, three in self._durations.items()}
        labels = ("route", "handler")
        yield _counter("jobs_finished", "Runs, by what their results were.", (*labels, "outcome"), ended)
        for place, (name, what) in enumerate(
            (
                ("job_run_seconds", "How long handlers ran."),
                ("job_wait_seconds", "From when a job was due to its start."),
                ("job_end_to_end_seconds", "From a job's insertion to the end of a run."),
            )
        ):
            family = HistogramMetricFamily(f"jobbridge_{name}", what, labels=labels)
            for key, three in told.items():
                family.add_metric(key, *three[place])
            yield family

    def _sources(self) -> Iterable[Metric]:
        ingests, operators, now = self._watched.ingests, self._watched.by_operators(), time.time()
        statuses = {(source.name,): source.status() for source, _ in ingests}
        progress = {(source.name,): ingest.progress() for source, ingest in ingests}
        paused = {
            (*name, "operator" if name[0] in operators else "backlog"): 1.0
            for name, status in statuses.items()
            if status.paused is not None
        }
        lag = {name: status.lag for name, status in statuses.items() if status.lag is not None}
        received = {name: now - ago for name, (ago, _) in progress.items() if ago is not None}
        unacked = {name: oldest for name, (_, oldest) in progress.items()}
        own = ("source",)
        yield _gauge("source_up", "Whether it is attached.", own, {k: one.attached for k, one in statuses.items()})
        yield _gauge("source_paused", "1 where it is paused.", ("source", "reason"), paused)
        yield _gauge("source_lag_messages", "Messages that the broker holds, as of the last heartbeat.", own, lag)
        yield _gauge("source_unacked_oldest_seconds", "Age of the batch in hand.", own, unacked)
        yield _gauge("source_last_message_timestamp_seconds", "When the last batch arrived.", own, received)
        reconnects = {(source.name,): source.reconnects for source, _ in ingests}
        dropped = {(source.name,): source.acks_dropped for source, _ in ingests}
        yield _counter("source_reconnects", "Sessions with the broker that were lost.", own, reconnects)
        yield _counter("acks_dropped", "Acks that came after their session.", own, dropped)
        outcomes = {(source.name, how): n for source, ingest in ingests for how, n in dict(ingest.counts).items()}
        reasons = {(source.name, why): n for source, ingest in ingests for why, n in dict(ingest.rejections).items()}
        yield _counter("messages", "Messages, by what became of them.", ("source", "outcome"), outcomes)
        yield _counter("messages_rejected", "Messages that became dead letters.", ("source", "reason"), reasons)

    def _cluster(self, found: Sequence[Surveyed]) -> Iterable[Metric]:
        def of(kind: str, seconds: bool = False) -> dict[tuple[str, ...], float]:
            return {(row.name,): row.seconds if seconds else row.number for row in found if row.kind == kind}

        membership = self._watched.server.membership
        silent = len(membership.silent)
        servers = {("live",): membership.registered_servers - silent, ("silent",): silent}
        yield _gauge("backlog_jobs", "Jobs that a free worker would take now.", ("route",), of("backlog"))
        yield _gauge("backlog_oldest_seconds", "For how long the first is due.", ("route",), of("backlog", True))
        yield _gauge("jobs", "Jobs that have not ended.", ("state",), of("jobs"))
        yield _gauge("dead_letters", "Messages that could not become jobs.", ("source",), of("dead_letters"))
        yield _gauge("servers", "Registered servers.", ("state",), servers)
        fired = of("recurring", True)
        yield _gauge("recurring_last_fire_timestamp_seconds", "When it last made a job.", ("id",), fired)


def _gauge(name: str, what: str, labels: Sequence[str], values: Mapping[K, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"jobbridge_{name}", what, labels=labels), values)


def _counter(name: str, what: str, labels: Sequence[str], values: Mapping[K, float]) -> Metric:
    return _filled(CounterMetricFamily(f"jobbridge_{name}", what, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[K, float]) -> Metric:
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def _timed(verb: Callable[P, R], seconds: Histogram, errors: Total) -> Callable[P, R]:
    @wraps(verb)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.perf_counter()
        try:
            return verb(*args, **kwargs)
        except Exception as error:
            kinds = {StoreUnavailable: "unavailable", SchemaOutdated: "schema"}
            errors.labels(kinds.get(type(error), "other")).inc()
            raise
        finally:
            seconds.observe(time.perf_counter() - began)

    return timed
