"""`jobbridge version`."""

import click

from bridge.cli.options import output_option
from bridge.cli.output import print_record


@click.command()
@output_option
def version(output: str | None) -> None:
    """Say which version this is, and where it runs from."""
    import platform
    from importlib.metadata import version as version_of

    import scheduler

    # Another distribution installs a package called `scheduler` too: the file tells which one is found.
    found = {
        "jobbridge": version_of("jobbridge"),
        "python": platform.python_version(),
        "scheduler": str(scheduler.__file__),
    }
    print_record(found, output)
