"""`jobbridge stats` and `jobbridge top`: what the pods have counted, and how they stand."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.options import common_options, config_option, configured, opened
from bridge.cli.output import Record, chosen, print_records, table
from bridge.cli.wait import length

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bridge.config.model import Configuration
    from scheduler.storage import Storage

_COUNTED = ("source", "route", "outcome", "n", "per_second")
_SERVERS = ("number", "host", "master", "busy", "workers", "mib", "draining", "beat_ago")
_SOURCES = ("name", "attached", "lag", "last_receive_ago", "oldest_unacked", "paused_by")
_ROUTES = ("route", "waiting", "oldest", "created", "duplicate", "rejected", "succeeded", "failed")
_RECENT = 5 * 60.0


@click.command()
@common_options
@click.option("--window", default="1h", show_default=True, callback=length, help="So far back from now; at most 7d.")
def stats(config: Path | None, output: str | None, window: float) -> None:
    """Show what all pods counted: messages by what became of them, runs by how they ended."""
    with opened(configured(config)) as storage:
        print_records(counted(storage, window), _COUNTED, output)


def counted(storage: Storage, window: float) -> list[Record]:
    """The sums of a window, in seconds, which begins with a whole minute."""
    from scheduler.storage.counters import KEPT_MINUTES

    minutes = min(max(1, round(window / 60)), KEPT_MINUTES)
    sums: Counter[tuple[str, str, str]] = Counter()
    for point in storage.series(minutes, max(1, minutes // 60)):
        sums[point.source, point.route, point.outcome] += point.n
    return [
        {**dict(zip(_COUNTED, key, strict=False)), "n": number, "per_second": float(f"{number / minutes / 60:.3g}")}
        for key, number in sorted(sums.items())
    ]


@click.command()
@config_option
@click.option("--interval", default="2s", show_default=True, callback=length, help="Between two looks.")
def top(config: Path | None, interval: float) -> None:
    """Watch pods, sources and routes on a terminal, until Ctrl-C. Rates are a second's, over five minutes."""
    if chosen(None) != "table":
        raise click.UsageError("top needs a terminal: in a pipe use stats, servers and sources list")
    configuration = configured(config)
    with opened(configuration) as storage:
        from rich.live import Live

        from scheduler.storage import StoreUnavailable

        with suppress(KeyboardInterrupt), Live(screen=True, auto_refresh=False) as live:
            while True:
                try:
                    page = _page(configuration, storage)
                except StoreUnavailable as why:
                    page = f"the store does not answer: {why}"
                live.update(page, refresh=True)
                time.sleep(interval)


def _page(configuration: Configuration, storage: Storage) -> RenderableType:
    from rich.console import Group

    from bridge.shown import sources_shown

    servers = []
    for row, is_master in storage.live_servers():
        told = json.loads(row.status)
        mib = (told.get("memory") or 0) // 2**20
        servers.append({**row._asdict(), **told, "master": is_master, "mib": mib, "beat_ago": row.age_us / 1e6})
    routes: dict[str, dict[str, object]] = defaultdict(dict, {route.name: {} for route in configuration.routes})
    for name, waiting, oldest in storage.backlog_by_route():
        routes[name] |= {"waiting": waiting, "oldest": round(oldest, 1)}
    for count in counted(storage, _RECENT):
        routes[str(count["route"])][str(count["outcome"])] = count["per_second"]
    shown = [{**route, "route": name or "(none)"} for name, route in routes.items()]
    sources = sources_shown(configuration, storage)
    return Group(table(servers, _SERVERS), "", table(sources, _SOURCES), "", table(shown, _ROUTES))
