"""`jobbridge report`: what somebody else needs to know to find out what is wrong, and nothing that is secret.

Promises: no body, no header, no correlation ID and no text of an error is in it, and no password. Names of hosts,
queues, routes and handlers are.
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from bridge.cli.exits import Unreachable
from bridge.cli.options import config_option, configured, opened
from bridge.cli.output import print_json
from bridge.cli.stats import counted
from bridge.cli.version import versions

if TYPE_CHECKING:
    from scheduler.storage import Storage


@click.command()
@config_option
def report(config: Path | None) -> None:
    """Print one JSON for a bug report: versions, configuration, servers, counters, last problems.

    Without bodies, headers, correlation IDs, texts of errors and passwords. Read it before you send it.
    """
    configuration = configured(config)
    shown = configuration.model_dump(mode="json", exclude_none=True, exclude={"tests": True, "http": {"auth"}})
    for job in configuration.recurring.jobs():
        del shown["recurring"][job]["body"]
    from importlib.metadata import distributions, requires

    needed = (one for one in requires("jobbridge") or () if not re.search("extra == .dev", one))
    names = sorted({re.split(r"[^\w.-]", one)[0] for one in needed})
    packages = {name: next((one.version for one in distributions(name=name)), None) for name in names}
    whole: dict[str, object] = {
        "versions": versions() | packages,
        "platform": platform.platform(),
        "configuration": shown,
        "digest": configuration.digest(),
    }
    try:
        with opened(configuration) as storage:
            whole |= _facts(storage)
    except Unreachable as error:
        whole["store"] = error.message
    print_json(whole)


_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def _facts(storage: Storage) -> dict[str, object]:
    from bridge.shown import presentable
    from scheduler.job import JobState

    servers = []
    for row, is_master in storage.live_servers():
        status = {name: value for name, value in json.loads(row.status).items() if name != "progress"}
        servers.append(presentable({**row._asdict(), "id": UUID(bytes=row.id), "master": is_master, "status": status}))
    failures: Counter[tuple[str, str, str]] = Counter()
    for job in storage.list_jobs(state=JobState.FAILED, limit=50):
        assert isinstance(job["id"], UUID)
        lines = [str(event["detail"]) for event in storage.job_events(job["id"].bytes) if event["kind"] == "FAILED"]
        failures[str(job["route"]), str(job["handler"]), _error(lines[-1]) if lines else ""] += 1
    letters = Counter((str(one["source"]), str(one["reason"])) for one in storage.list_dead_letters(limit=1000))
    return {
        "store": storage.schema_version(),
        "servers": servers,
        "counted": counted(storage, 86_400.0),
        "backlog": [one._asdict() for one in storage.backlog_by_route()],
        "failed": [{"route": r, "handler": h, "error": e, "n": n} for (r, h, e), n in failures.most_common()],
        "dead_letters": [{"source": s, "reason": r, "n": n} for (s, r), n in letters.most_common()],
    }


def _error(trace: str) -> str:
    """The type of the error whose stack trace this is."""
    found = _ERROR.search(trace.rpartition('\n  File "')[2])
    return found[1] if found else ""
