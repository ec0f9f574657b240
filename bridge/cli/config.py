"""`jobbridge config show|schema`."""

import sys
from pathlib import Path

import click

from bridge.cli.options import config_option, configured, output_option
from bridge.cli.output import FORMATS, print_record


@click.group()
def config() -> None:
    """Show the configuration, or its JSON Schema."""


@config.command()
@config_option
@click.option("-o", "--output", type=click.Choice(("yaml", *FORMATS)), default="yaml", show_default=True)
def show(config: Path | None, output: str) -> None:
    """Print the configuration as it is understood: references resolved, defaults filled in, secrets masked.

    Its digest, on stderr, is the same for all pods that run the same configuration.
    """
    configuration = configured(config)
    click.echo(f"digest {configuration.digest()}", err=True)
    if output != "yaml":
        print_record(configuration.shown(), output)
        return
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 10_000
    yaml.dump(configuration.shown(), sys.stdout)


@config.command()
@output_option
def schema(output: str | None) -> None:
    """Print the JSON Schema of bridge.yaml, for editors."""
    from bridge.config.schema import json_schema

    print_record(json_schema(), "ndjson" if output == "ndjson" else "json")
