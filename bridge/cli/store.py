"""`jobbridge migrate`."""

from pathlib import Path

import click

from bridge.cli.options import config_option, configured, opened


@click.command()
@config_option
def migrate(config: Path | None) -> None:
    """Bring the store's tables to this version.

    What running pods of the version before need stays as it is.
    """
    configuration = configured(config)
    automatic = configuration.store.model_copy(update={"migrate": "auto"})
    with opened(configuration.model_copy(update={"store": automatic}), may_migrate=True):
        click.echo("the store's tables fit this version", err=True)
