"""`jobbridge check`: every mistake of the configuration at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Unreachable
from bridge.cli.options import config_option, opened
from bridge.cli.output import print_json
from bridge.config.mistakes import Mistake, count_line, path_text

if TYPE_CHECKING:
    from bridge.config.load import Examined
    from bridge.config.mistakes import Path as TreePath


@click.command()
@config_option
@click.option("--connect", is_flag=True, help="Also ask the store and the brokers: do they answer, do they fit?")
@click.option("--strict", is_flag=True, help="Warnings are mistakes too.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("text", "table", "tsv", "json", "ndjson", "github")),
    default="text",
    help="How to print; github: as annotations of a workflow.",
)
@click.pass_context
def check(context: click.Context, config: Path | None, connect: bool, strict: bool, output: str) -> None:
    """Show all mistakes of the configuration.

    Handlers are imported, nothing is run.
    """
    from bridge.config.load import examine

    sys.path.insert(0, "")
    examined = examine(config, import_handlers=True)
    mistakes = list(examined.mistakes)
    reachable = True
    if connect and examined.configuration is not None:
        found = _connect(examined)
        mistakes += found
        reachable = all(mistake.severity == "warning" for mistake in found)
    _print(mistakes, output)
    wrong = examined.configuration is None or (strict and bool(mistakes))
    context.exit(4 if not reachable else 3 if wrong else 0)


def _print(mistakes: list[Mistake], output: str) -> None:
    if output == "json":
        print_json([mistake.as_json() for mistake in mistakes])
        return
    for mistake in mistakes:
        if output == "ndjson":
            click.echo(json.dumps(mistake.as_json()))
        elif output == "tsv":
            click.echo("\t".join(str(value) for value in mistake.as_json().values()))
        else:
            click.echo(mistake.as_github() if output == "github" else str(mistake))
    click.echo(count_line(mistakes), err=output in ("ndjson", "tsv", "github"))


def _connect(examined: Examined) -> list[Mistake]:
    """What the store and the brokers say."""
    from bridge.config.model import AmqpSourceSection, KafkaSourceSection
    from bridge.probe import probe_amqp, probe_kafka
    from bridge.publish import BrokerUnreachable, PublishError

    configuration, document = examined.configuration, examined.document
    assert configuration is not None and document is not None
    found: list[Mistake] = []

    def say(code: str, path: TreePath, message: str, severity: str) -> None:
        found.append(Mistake(code, document.place(path), path_text(path), message, severity))

    try:
        with opened(configuration):
            pass
    except Unreachable as error:
        say("store", ("store",), error.message, "error")
    for name, source in configuration.sources.items():
        path = ("sources", name)
        broker = configuration.brokers[source.broker] if source.broker is not None else None
        try:
            warnings: list[str] = []
            if broker is not None and isinstance(source, AmqpSourceSection):
                warnings = probe_amqp(broker, source, configuration.pod.name)
            elif broker is not None and isinstance(source, KafkaSourceSection):
                warnings = probe_kafka(broker, source)
        except BrokerUnreachable as error:
            say("unreachable", path, str(error), "error")
        except PublishError as error:
            say("broker", path, str(error), "warning")
        else:
            for warning in warnings:
                say("broker", path, warning, "warning")
    return found
