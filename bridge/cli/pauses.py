"""`jobbridge sources|routes list|pause|resume`. All pods obey within two heartbeats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from bridge.cli.options import common_options, configured, each, opened
from bridge.cli.output import print_records

Kind = Literal["source", "route"]

_SOURCE_COLUMNS = (
    *("name", "kind", "broker", "delivery", "attached", "paused_by", "paused_at"),
    *("lag", "last_receive_ago", "oldest_unacked"),
)
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
    from bridge.shown import sources_shown

    configuration = configured(config)
    with opened(configuration) as storage:
        rows = sources_shown(configuration, storage)
    print_records(rows, _SOURCE_COLUMNS, output)


@routes.command("list")
@common_options
def list_routes(config: Path | None, output: str | None) -> None:
    """List the routes, in their order, and who has paused them."""
    from bridge.shown import routes_shown

    configuration = configured(config)
    with opened(configuration) as storage:
        rows = routes_shown(configuration, storage)
    print_records(rows, _ROUTE_COLUMNS, output)


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
