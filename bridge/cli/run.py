"""`jobbridge run`: a pod."""

from pathlib import Path

import click

from bridge.cli.exits import Mistaken
from bridge.cli.options import config_option, importable


@click.command()
@config_option
@click.option("--processes", type=click.IntRange(1, 256), metavar="N", help="So many pods on this machine.")
@click.option("--log-format", type=click.Choice(("text", "json")), help="Text on a terminal, else JSON.")
@click.option("-v", "--verbose", count=True, help="Log each job too.")
@click.option("-q", "--quiet", count=True, help="Log warnings and errors alone; twice: errors alone.")
@click.pass_context
def run(
    context: click.Context,
    config: Path | None,
    processes: int | None,
    log_format: str | None,
    verbose: int,
    quiet: int,
) -> None:
    """Receive messages and run jobs until SIGTERM or SIGINT. The current folder is importable.

    Ends with 0 after a clean drain, with 1 if jobs were cut off.
    """
    from bridge import logs
    from bridge.config.load import examine

    importable()
    examined = examine(config, import_handlers=True)
    if examined.configuration is None:
        raise Mistaken(examined.mistakes)
    for warning in examined.mistakes:
        click.echo(str(warning), err=True)
    logs.configure(log_format, verbosity=verbose - quiet)
    from bridge.pod import run_pod, run_processes

    configuration = examined.configuration
    context.exit(run_pod(configuration) if processes is None else run_processes(configuration, processes))
