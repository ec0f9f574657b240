"""The command `jobbridge`: a group of verbs, one file for each noun."""

import click

from bridge.cli.check import check
from bridge.cli.config import config
from bridge.cli.dead_letters import dead_letters
from bridge.cli.health import health
from bridge.cli.jobs import jobs
from bridge.cli.pauses import routes, sources
from bridge.cli.publish import publish
from bridge.cli.recurring import recurring
from bridge.cli.run import run
from bridge.cli.servers import servers, status
from bridge.cli.store import migrate
from bridge.cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Turns messages into deduplicated jobs in a shared database, and runs each of them once.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 mistakes in the configuration,
    4 store or broker not reachable, 5 not found.
    """


_VERBS = (
    *(run, check, publish, status, servers, sources, routes, jobs, dead_letters, recurring),
    *(health, migrate, config, version),
)
for _verb in _VERBS:
    cli.add_command(_verb)


def main() -> None:
    """What the console script calls."""
    cli()


if __name__ == "__main__":
    main()
