"""`jobbridge version`."""

import click

from bridge.cli.options import output_option
from bridge.cli.output import print_record


@click.command()
@output_option
def version(output: str | None) -> None:
    """Say which version this is, and where it runs from."""
    print_record(versions(), output)


def versions() -> dict[str, object]:
    """What runs, and from where: other distributions install a package called `scheduler` too."""
    import platform
    from importlib.metadata import packages_distributions
    from importlib.metadata import version as version_of

    import scheduler

    return {
        "jobbridge": version_of("jobbridge"),
        "python": platform.python_version(),
        "scheduler": str(scheduler.__file__),
        "scheduler_of": ", ".join(sorted({*packages_distributions().get("scheduler", ()), "jobbridge"})),
    }
