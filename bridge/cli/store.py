"""`jobbridge migrate`."""

from pathlib import Path

import click

from bridge.cli.options import config_option, configured, drivers_errors, opened


@click.command()
@config_option
@click.option(
    "--sql", is_flag=True, help="Change nothing: print the statements that it would run, for psql, mysql or sqlite3."
)
def migrate(config: Path | None, sql: bool) -> None:
    """Bring the store's tables to this version.

    What running pods of the version before need stays as it is.
    """
    with opened(configured(config), any_schema=True) as storage, drivers_errors():
        statements = storage.migration_sql() if sql else ""
        click.echo(statements, nl=False)
        changed = bool(statements) if sql else storage.migrate()
    if not changed:
        click.echo("nothing to do: the store's tables fit this version", err=True)
    elif not sql:
        click.echo("the store's tables fit this version now", err=True)
