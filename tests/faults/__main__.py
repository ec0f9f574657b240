"""`make faults`: one fault run. Exit code 0: it passed; 1: a promise was broken; 3: it proves nothing."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.field import SOURCES
from tests.faults.nemesis import KINDS
from tests.faults.run import VERDICTS, Plan, Result, report, run, write
from tests.servers.watchdog import RunDirectory

KEPT = Path(tempfile.gettempdir()) / "jobbridge-fault-runs"


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """What a run of either kind can be told."""
    options = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--broker", choices=sorted(SOURCES), default="rabbitmq")
    options.add_argument("--store", choices=["postgres", "mariadb", "sqlite"], default="postgres")
    options.add_argument("--rate", type=float, default=100.0, help="messages a second")
    options.add_argument("--output", type=Path, default=KEPT, help="a .json file, or a directory for it")
    options.add_argument("--kept", type=Path, default=KEPT, help="where histories and logs go if it did not pass")
    return options


def told(result: Result, output: Path) -> int:
    """Write a result and say where; the exit code."""
    print(f"the result is in {write(result, output)}")
    return next(code for code, verdict in VERDICTS.items() if verdict == result["verdict"])


def main() -> int:
    """Run once."""
    options = parser("tests.faults", __doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--delivery", choices=["shared", "every-pod"], default="shared")
    options.add_argument("--pods", type=int, default=3)
    options.add_argument("--only", default="", help="comma-separated faults: " + ", ".join(KINDS))
    options.add_argument("--every", type=float, help="seconds from the end of a fault to the next")
    options.add_argument("--pretenders", type=int, default=0, help="so many pods believe that they lead, always")
    given = options.parse_args()
    plan = Plan(
        minutes=given.minutes,
        seed=given.seed,
        broker=given.broker,
        store=given.store,
        delivery=given.delivery,
        pods=given.pods,
        rate=given.rate,
        only=tuple(filter(None, given.only.split(","))),
        pretenders=given.pretenders,
        gap=(given.every, given.every) if given.every else Plan.gap,
    )
    directory = RunDirectory()
    try:
        result = run(plan, directory.path, given.kept)
    finally:
        directory.close()
    print(report(result))
    return told(result, given.output)


if __name__ == "__main__":
    sys.exit(main())
