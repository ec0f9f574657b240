"""The command `jobbridge`: a group of verbs, one file for each noun."""

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from bridge.cli.check import check
from bridge.cli.config import config
from bridge.cli.dead_letters import dead_letters
from bridge.cli.health import health
from bridge.cli.help import completion, help_
from bridge.cli.init import init
from bridge.cli.jobs import jobs
from bridge.cli.pauses import routes, sources
from bridge.cli.publish import publish
from bridge.cli.recurring import recurring
from bridge.cli.report import report
from bridge.cli.route import route
from bridge.cli.run import run
from bridge.cli.servers import servers, status
from bridge.cli.stats import stats, top
from bridge.cli.store import migrate
from bridge.cli.test import test
from bridge.cli.trace import trace
from bridge.cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Turns messages into deduplicated jobs in a shared database, and runs each of them once.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 mistakes in the configuration,
    4 store or broker not reachable, 5 not found.
    """


_VERBS = (
    *(init, run, check, test, route, publish, status, servers, stats, top, sources, routes, jobs, trace),
    *(dead_letters, recurring, health, migrate, config, report, help_, completion, version),
)
for _verb in _VERBS:
    cli.add_command(_verb)


def main() -> None:
    """What the console script calls."""
    if clash := foreign_scheduler():
        click.echo(f"jobbridge: {clash}", err=True)
        sys.exit(1)
    cli(prog_name="jobbridge")


def foreign_scheduler() -> str | None:
    """Why the package `scheduler` can't be used, if another distribution has put its own over it."""
    found = find_spec("scheduler")
    origin = None if found is None else found.origin
    try:
        if origin is not None and b"jobbridge" in Path(origin).read_bytes():
            return None
    except OSError:  # it is in an archive
        return None
    return (
        f"the package `scheduler` that Python finds ({origin or 'a folder without __init__.py'}) is not the one of "
        "jobbridge: another distribution, such as PyPI's `scheduler`, installs or installed one of that name too. Use "
        "an environment without it, or: pip uninstall scheduler; pip install --force-reinstall --no-deps jobbridge"
    )


if __name__ == "__main__":
    main()
