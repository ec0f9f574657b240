"""What people are shown of the store's rows, by the command and by the dashboard alike."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo

from bridge.config.model import Configuration
from bridge.config.units import duration_text
from bridge.labels import labels_of, title_of
from scheduler.instants import instant_of, rfc3339
from scheduler.recurring import PREFIX, Recurring
from scheduler.storage import Storage
from scheduler.storage.acts import VERBS, Doing
from scheduler.storage.pauses import Kind
from scheduler.storage.records import ServerRow

Record = Mapping[str, object]

_MOMENTS = ("at", "last_heartbeat")
_JSON_TEXT = ("headers", "envelope")
_EVENT = ("at", "kind", "version", "detail", "owner", "times")
_OF_SOURCES = ("lag", "last_receive_ago", "oldest_unacked")
"""Messages that wait in the broker; seconds since the last came, and since the oldest that is not acked did."""
_RUNS: Record = {"paused_by": None, "paused_at": None}


def moment(microseconds: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC."""
    return instant_of(microseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def presentable(record: Record) -> dict[str, object]:
    """A row as JSON shows it: times in RFC 3339, ids as UUIDs, bytes in hex, a body as the text that it is.

    A body that is not UTF-8 is `body_hex`, and `body` is null.
    """
    shown: dict[str, object] = {}
    for name, value in record.items():
        if isinstance(value, int) and (name.endswith("_at") or name in _MOMENTS):
            shown[name] = moment(value)
        elif name in _JSON_TEXT and isinstance(value, str):
            shown[name] = json.loads(value)
        elif name == "body" and isinstance(value, bytes):
            try:
                shown[name] = value.decode()
            except UnicodeDecodeError:
                shown |= {name: None, "body_hex": value.hex()}
        elif isinstance(value, bytes):
            shown[name] = value.hex()
        else:
            shown[name] = str(value) if isinstance(value, UUID) else value
    return shown


def namespaces(configuration: Configuration) -> list[str]:
    """Where correlation IDs count, as far as the configuration knows."""
    jobs = (PREFIX + name for name in configuration.recurring.jobs())
    return sorted({*(route.namespace for route in configuration.routes), *jobs, *configuration.handlers})


def labelled(configuration: Configuration, jobs: Sequence[Record]) -> list[Record]:
    """The jobs with what their routes say of them to people."""
    routes = {route.name: (route.title, route.labels) for route in configuration.routes}
    shown: list[Record] = []
    for job in jobs:
        title, labels = routes.get(str(job["route"]), (None, {}))
        shown.append({**job, "title": title_of(title, job), "labels": labels_of(labels, job)})
    return shown


def progress(storage: Storage, job: Record) -> object:
    """How far a running job said it is, as of its pod's last heartbeat."""
    if job["state"] != "PROCESSING":
        return None
    statuses = (json.loads(row.status) for row in storage.servers())
    return next((found for status in statuses if (found := status.get("progress", {}).get(str(job["id"])))), None)


def history(storage: Storage, job: Record) -> list[dict[str, object]]:
    """The normal path, which the columns tell, and the recorded events, in the order of time."""
    key = job["id"]
    assert isinstance(key, UUID)
    path = (("created_at", "CREATED"), ("started_at", "STARTED"), ("finished_at", str(job["state"])))
    lines: list[dict[str, object]] = [
        {"at": job[column], "kind": kind, "version": None, "detail": ""}
        for column, kind in path
        if job[column] is not None
    ]
    lines += [{name: event[name] for name in _EVENT} for event in storage.job_events(key.bytes)]
    ordered = sorted(lines, key=lambda line: int(str(line["at"])))
    return [presentable(line) for line in ordered]


def doing(configuration: Configuration, verb: str, by: str) -> Doing:
    """An act, with how long each route remembers the IDs of what it ends."""
    windows = {route.name: int(route.dedupe.window * 1_000_000) for route in configuration.routes}
    return Doing(VERBS[verb], by, windows_us=windows)


def why_not(result: str, state: object) -> str:
    """Why an act on a job was not done."""
    return {
        "NOT_FOUND": "it is gone meanwhile",
        "WRONG_STATE": f"not possible while it is {state}",
        "BODY_DROPPED": "its body was dropped when it succeeded",
        "LOST_RACE": "it moved on meanwhile: look again",
    }.get(result, "")


def servers_shown(storage: Storage) -> list[dict[str, object]]:
    """The live servers, the longest running first."""
    return [server_shown(row, is_master) for row, is_master in storage.live_servers()]


def server_shown(row: ServerRow, is_master: bool) -> dict[str, object]:
    """One of them."""
    return {
        "id": UUID(bytes=row.id),
        "number": row.number,
        "host": row.host,
        "pid": row.pid,
        "started_at": row.started_at,
        "last_heartbeat": row.last_heartbeat,
        "master": is_master,
    }


def sources_shown(configuration: Configuration, storage: Storage) -> list[dict[str, object]]:
    """The sources, who has paused them, and how they stand in the live pods, as of their last heartbeats."""
    paused, pods = _paused(storage, "source"), _pods(storage)
    rows: list[dict[str, object]] = []
    for name, section in configuration.sources.items():
        kind = "local" if section.broker is None else configuration.brokers[section.broker].scheme
        of_source = pods.get(name, [])
        attached = f"{sum(pod['attached'] is True for pod in of_source)}/{len(of_source)}"
        shown: dict[str, object] = {"name": name, "kind": kind, "broker": section.broker, "delivery": section.delivery}
        # Pods see one queue, but each its own partitions of a topic.
        lag = sum if kind == "kafka" and section.delivery == "shared" else max
        for fact, over in zip(_OF_SOURCES, (lag, min, max), strict=True):
            told = [value for pod in of_source if isinstance(value := pod.get(fact), int | float)]
            shown[fact] = over(told) if told else None
        rows.append({**shown, "attached": attached, **paused.get(name, _RUNS), "pods": of_source})
    return rows


def routes_shown(configuration: Configuration, storage: Storage) -> list[dict[str, object]]:
    """The routes, in their order, and who has paused them."""
    paused = _paused(storage, "route")
    return [
        {"name": one.name, "source": one.source, "handler": one.handler, **paused.get(one.name, _RUNS)}
        for one in configuration.routes
    ]


def _paused(storage: Storage, kind: Kind) -> dict[str, Record]:
    return {one.name: {"paused_by": one.by, "paused_at": one.at} for one in storage.pauses() if one.kind == kind}


def _pods(storage: Storage) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row, _ in storage.live_servers():
        told: dict[str, dict[str, object]] = json.loads(row.status).get("sources", {})
        for name, status in told.items():
            found.setdefault(name, []).append({"server": row.number, "host": row.host, **status})
    return found


def recurring_shown(row: Record) -> dict[str, object]:
    """A recurring job, with its schedule in words."""
    shown = {name: value for name, value in row.items() if name != "spec"} | {"paused": row["paused_at"] is not None}
    try:
        found = Recurring.loads(str(row["spec"]))
    except ValueError:
        return shown | {"schedule": "made by another version", "timezone": None, "handler": None}
    schedule = found.cron or f"every {duration_text(found.every or 0)}"
    return shown | {"schedule": schedule, "timezone": found.timezone, "handler": found.handler}


def next_ticks(found: Recurring, after: datetime, number: int) -> list[dict[str, object]]:
    """When it runs next, in UTC and by the clock on the wall."""
    zone = ZoneInfo(found.timezone)
    ticks = islice(_ticks(found, after), number)
    return [{"tick": rfc3339(tick), "local": tick.astimezone(zone).isoformat()} for tick in ticks]


def _ticks(found: Recurring, after: datetime) -> Iterator[datetime]:
    tick = found.after(after)
    while tick is not None:
        yield tick
        tick = found.after(tick)
