"""The overview: what there is to do, how it went lately, and what is wrong. Nothing of it reads a finished job, but for
counts of failed ones that end early."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bridge.config.model import Configuration
from bridge.config.units import duration_text
from bridge.shown import sources_shown
from scheduler.counts import Key
from scheduler.job import JobState
from scheduler.storage import Storage
from scheduler.storage.counters import MINUTE_US, Point
from scheduler.storage.records import ServerRow

Facts = dict[str, object]

WINDOWS = {"1h": (60, 1), "6h": (360, 5), "24h": (1440, 15), "7d": (10_080, 60)}
"""Each with its minutes, and the minutes of a step."""
COUNTED = 10_000
"""How far jobs and dead letters are counted."""
OLD_SECONDS = 60.0
"""A job that has waited so long, or a recurring one that is so late, is a problem."""
SHORTEST_STEP = 15.0
"""Seconds; what counts of the step that has just begun."""

MESSAGES = ("created", "duplicate", "conflict", "rejected", "ignored")
"""Outcomes of messages, where others are those of runs."""
SERIES = {
    "created": ("created",),
    "duplicate": ("duplicate",),
    "rejected": ("rejected", "conflict"),
    "succeeded": ("succeeded",),
    "retried": ("retried", "timeout"),
    "failed": ("failed",),
}
"""What charts show, and the outcomes that it is the sum of."""


class Told(NamedTuple):
    """A live pod, and what it told at its last heartbeat."""

    row: ServerRow
    master: bool
    status: dict[str, object]

    @property
    def sources(self) -> dict[str, dict[str, object]]:
        found = self.status.get("sources", {})
        assert isinstance(found, dict)
        return found

    @property
    def late(self) -> bool:
        """Whether its heartbeat is."""
        return self.row.age_us > 2 * self.row.interval_us


def told(storage: Storage) -> list[Told]:
    """All live pods, the longest running first."""
    return [Told(row, is_master, json.loads(row.status)) for row, is_master in storage.live_servers()]


def odd_ones(pods: Sequence[Told]) -> set[bytes]:
    """The ids of those that do not run the configuration that most of them run."""
    digests = Counter(pod.status.get("configuration") for pod in pods)
    usual = max(digests, key=lambda one: digests[one], default=None)
    return {pod.row.id for pod in pods if pod.status.get("configuration") != usual}


def overview(configuration: Configuration, storage: Storage, window: str) -> Facts:
    """The facts of a window of time."""
    minutes, step = WINDOWS[window]
    now = storage.clock()
    points = storage.series(minutes, step)
    pods = told(storage)
    totals = storage.totals(minutes)
    sums = Counter[str]()
    for key, number in totals.items():
        sums[key.outcome] += number
    backlog = storage.backlog_by_route()
    oldest = max((route.oldest_seconds for route in backlog), default=0.0)
    messages = sums["created"] + sums["duplicate"]
    tiles: Facts = {
        "waiting": sum(route.waiting for route in backlog),
        "oldest_seconds": oldest,
        "running": storage.count_some(JobState.PROCESSING, COUNTED),
        "scheduled": storage.count_some(JobState.SCHEDULED, COUNTED),
        "failed": storage.count_some(JobState.FAILED, COUNTED),
        "dead_letters": storage.count_some_dead_letters(COUNTED),
        "duplicates": sums["duplicate"],
        "duplicates_part": sums["duplicate"] / messages if messages else 0.0,
        "conflicts": sums["conflict"],
        "pods": len(pods),
        "master": next((pod.row.host for pod in pods if pod.master), None),
    }
    return {
        "window": window,
        "at": now,
        "tiles": tiles,
        "series": _series(points, now, minutes, step),
        "sources": _sources(configuration, storage, totals),
        "problems": [
            *_of_pods(configuration, pods),
            *_of_pauses(storage),
            *_of_recurring(storage, now),
            *_of_work(configuration, tiles, sums, window),
        ],
    }


def _series(points: Sequence[Point], now: int, minutes: int, step: int) -> list[Facts]:
    """Each step with its rates a second, the newest first."""
    of_step: dict[int, Counter[str]] = defaultdict(Counter)
    for point in points:
        of_step[point.at][point.outcome] += point.n
    length = step * MINUTE_US
    newest = now - now % length
    rows: list[Facts] = []
    for at in range(newest, newest - minutes * MINUTE_US, -length):
        seconds = max((now - at) / 1e6, SHORTEST_STEP) if at == newest else step * 60.0
        rates = {name: sum(of_step[at][one] for one in of) / seconds for name, of in SERIES.items()}
        rows.append({"at": at, **rates})
    return rows


def _sources(configuration: Configuration, storage: Storage, totals: Mapping[Key, int]) -> list[Facts]:
    messages = Counter[str]()
    for key, number in totals.items():
        if key.outcome in MESSAGES:
            messages[key.source] += number
    rows = sources_shown(configuration, storage)
    return [row | {"messages": messages[str(row["name"])]} for row in rows]


def _problem(text: str, page: str, severity: str = "warning") -> Facts:
    return {"severity": severity, "text": text, "page": page}


def _of_pods(configuration: Configuration, pods: Sequence[Told]) -> list[Facts]:
    if not pods:
        return [_problem("No pod is alive: no message is received and no job runs.", "/servers", "error")]
    found = [_problem(f"The heartbeat of {pod.row.host} is late.", "/servers", "error") for pod in pods if pod.late]
    odd = odd_ones(pods)
    found += [
        _problem(f"{pod.row.host} runs another configuration than most pods.", "/servers")
        for pod in pods
        if pod.row.id in odd
    ]
    for name in configuration.sources:
        of_source = {pod.row.host: pod.sources[name] for pod in pods if name in pod.sources}
        if not of_source:
            found.append(_problem(f"No pod reads the source {name}.", "/sources", "error"))
        for host, status in of_source.items():
            if not status.get("attached") and not status.get("paused"):
                why = status.get("detail") or "not attached"
                found.append(_problem(f"The source {name} is down in {host}: {why}", "/sources", "error"))
    return found


def _of_pauses(storage: Storage) -> list[Facts]:
    return [_problem(f"The {one.kind} {one.name} is paused by {one.by}.", "/sources") for one in storage.pauses()]


def _of_recurring(storage: Storage, now: int) -> list[Facts]:
    found: list[Facts] = []
    for row in storage.list_recurring():
        next_at = row["next_at"]
        if row["paused_at"] is not None:
            found.append(_problem(f"The recurring job {row['name']} is paused.", "/recurring"))
        elif isinstance(next_at, int) and now - next_at > OLD_SECONDS * 1e6:
            late = duration_text((now - next_at) // 1_000_000)
            found.append(_problem(f"The recurring job {row['name']} is late by {late}.", "/recurring", "error"))
    return found


def _of_work(configuration: Configuration, tiles: Facts, sums: Mapping[str, int], window: str) -> list[Facts]:
    found: list[Facts] = []
    waiting, oldest = tiles["waiting"], tiles["oldest_seconds"]
    assert isinstance(waiting, int) and isinstance(oldest, float | int)
    if waiting >= configuration.store.max_backlog:
        text = (
            f"More than store.max_backlog = {configuration.store.max_backlog:,} jobs wait: messages stay in the broker."
        )
        found.append(_problem(text, "/jobs?state=ENQUEUED"))
    elif oldest > OLD_SECONDS:
        text = f"Jobs wait for a worker, the first since {duration_text(int(oldest))}."
        found.append(_problem(text, "/jobs?state=ENQUEUED"))
    for outcome, text, page in (
        ("failed", "Jobs failed for good", "/jobs?state=FAILED"),
        ("rejected", "Messages could not become jobs", "/dead-letters"),
        ("conflict", "Messages had another body under the ID of a job (jobbridge jobs list --conflicts)", "/jobs"),
        ("rescued", "Jobs were taken from pods that died", "/servers"),
    ):
        if sums.get(outcome):
            found.append(_problem(f"{text}: {sums[outcome]:,} within {window}.", page))
    return found
