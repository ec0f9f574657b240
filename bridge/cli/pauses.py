"""`jobbridge sources|routes list|pause|resume`. All pods obey within two heartbeats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bridge.cli.options import common_options, configured, each, opened
from bridge.cli.output import print_records

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage

Kind = Literal["source", "route"]

_FACTS = ("lag", "last_receive_ago", "oldest_unacked")
"""Messages that wait in the broker; seconds since the last came, and since the oldest that is not acked did."""
_SOURCE_COLUMNS = ("name", "kind", "broker", "delivery", "attached", "paused_by", "paused_at", *_FACTS)
_ROUTE_COLUMNS = ("name", "source", "handler", "paused_by", "paused_at")


@click.group()
def sources() -> None:
    """List sources; pause and resume them in all pods."""


@click.group()
def routes() -> None:
    """List routes; pause and resume the jobs of routes in all pods."""


@sources.command("list")
@common_options
def list_sources(config: Path | None, output: str | None) -> None:
    """List the sources: who has paused them, how many live pods are attached to each, and how far behind they are."""
    configuration = configured(config)
    with opened(configuration) as storage:
        print_records(source_rows(configuration, storage), _SOURCE_COLUMNS, output)


def source_rows(configuration: Configuration, storage: Storage) -> list[dict[str, object]]:
    """How the sources stand, as of the pods' last heartbeats."""
    paused, pods = _paused(storage, "source"), _pods(storage)
    rows: list[dict[str, object]] = []
    for name, section in configuration.sources.items():
        kind = "local" if section.broker is None else configuration.brokers[section.broker].scheme
        of_source = pods.get(name, [])
        attached = f"{sum(pod['attached'] is True for pod in of_source)}/{len(of_source)}"
        shown: dict[str, object] = {"name": name, "kind": kind, "broker": section.broker, "delivery": section.delivery}
        # Pods see one queue, but each its own partitions of a topic.
        lag = sum if kind == "kafka" and section.delivery == "shared" else max
        for fact, over in zip(_FACTS, (lag, min, max), strict=True):
            told = [value for pod in of_source if isinstance(value := pod.get(fact), int | float)]
            shown[fact] = over(told) if told else None
        rows.append({**shown, "attached": attached, **paused.get(name, _RUNS), "pods": of_source})
    return rows


@routes.command("list")
@common_options
def list_routes(config: Path | None, output: str | None) -> None:
    """List the routes, in their order, and who has paused them."""
    configuration = configured(config)
    with opened(configuration) as storage:
        paused = _paused(storage, "route")
    rows = [
        {"name": one.name, "source": one.source, "handler": one.handler, **paused.get(one.name, _RUNS)}
        for one in configuration.routes
    ]
    print_records(rows, _ROUTE_COLUMNS, output)


_RUNS: Mapping[str, object] = {"paused_by": None, "paused_at": None}


def _paused(storage: Storage, kind: Kind) -> dict[str, Mapping[str, object]]:
    return {one.name: {"paused_by": one.by, "paused_at": one.at} for one in storage.pauses() if one.kind == kind}


def _pods(storage: Storage) -> dict[str, list[dict[str, object]]]:
    """By source, what the live pods say of it, as of their last heartbeats."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row, _ in storage.live_servers():
        told: dict[str, dict[str, Any]] = json.loads(row.status).get("sources", {})
        for name, status in told.items():
            found.setdefault(name, []).append({"server": row.number, "host": row.host, **status})
    return found


def _switch(kind: Kind, verb: Literal["pause", "resume"], text: str) -> click.Command:
    @click.command(verb, help=text)
    @common_options
    @click.argument("names", metavar="NAME...", nargs=-1, required=True)
    @click.pass_context
    def switch(context: click.Context, config: Path | None, output: str | None, names: tuple[str, ...]) -> None:
        from scheduler.who import who

        configuration = configured(config)
        known = set(configuration.sources) if kind == "source" else {route.name for route in configuration.routes}
        with opened(configuration) as storage:

            def one(name: str) -> tuple[str, str]:
                if name not in known:
                    return "NOT_FOUND", f"no {kind} is called so"
                if verb == "pause":
                    storage.pause(kind, name, who())
                else:
                    storage.resume(kind, name)
                return "DONE", ""

            context.exit(each(names, one, output, done=("DONE",)))

    return switch


sources.add_command(_switch("source", "pause", "Receive no more from sources: their messages wait in the broker."))
sources.add_command(_switch("source", "resume", "Receive from sources again."))
routes.add_command(_switch("route", "pause", "Start no more jobs of routes. Messages still become jobs, which wait."))
routes.add_command(_switch("route", "resume", "Start jobs of routes again."))
