"""`jobbridge config show|schema`."""

from __future__ import annotations

import io
from pathlib import Path

import click

from bridge.cli.options import config_option, configured
from bridge.cli.output import print_json


@click.group()
def config() -> None:
    """Show the configuration, or its JSON Schema."""


@config.command()
@config_option
@click.option("-o", "--output", type=click.Choice(("yaml", "json")), default="yaml", show_default=True)
def show(config: Path | None, output: str) -> None:
    """Print the configuration as it is understood: references resolved, defaults filled in, secrets masked.

    Its digest, on stderr, is the same for all pods that run the same configuration.
    """
    configuration = configured(config)
    click.echo(f"digest {configuration.digest()}", err=True)
    if output == "json":
        print_json(configuration.shown())
        return
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.width = 10_000
    yaml.dump(configuration.shown(), text)
    click.echo(text.getvalue(), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of bridge.yaml, for editors."""
    from bridge.config.schema import json_schema

    print_json(json_schema())
