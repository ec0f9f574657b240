"""`make soak`: 100 messages a second for hours, a fault every 30 seconds, and nothing that grows.

Faults end and freeze all pods but the first; that one's memory, threads, file descriptors and connections are
sampled through the whole of its life, and those of each other pod through its own. The same checker judges the end.
Exit code 0 passed, 1 a promise was broken or something grew, 3 it proves nothing.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.faults.__main__ import parser, told
from tests.faults.field import Field
from tests.faults.pods import rss_and_more
from tests.faults.run import Plan, Result, report, run
from tests.faults.slopes import Sample, Slope, slopes
from tests.servers.watchdog import RunDirectory

EVERY = 30.0
"""Seconds from the beginning of one fault to that of the next, about."""
PROTECTED = "pod-0"


class Sampler:
    """Samples all pods, at most once in so many seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = 0.0
        self.samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)

    def __call__(self, field: Field) -> None:
        at = time.monotonic()
        if at < self._next:
            return
        self._next = at + self._interval
        for slot in field.slots:
            if (pid := slot.pid) and (used := rss_and_more(pid)) is not None:
                self.samples[slot.name, pid].append((at, used))


def judge(result: Result, samples: dict[tuple[str, int], list[Sample]]) -> None:
    """Add what was sampled to the result, and let it decide too."""
    lives = {key: slopes(of) for key, of in samples.items()}
    protected = [found for (name, _), found in lives.items() if name == PROTECTED and found]
    grown = [one for found in lives.values() for one in found if not one.is_flat]
    longest = max(protected, key=len, default=[])
    result["kind"] = "soak"
    result["hours"] = round(float(str(result["minutes"])) / 60, 3)
    result["processes_measured"] = sum(bool(found) for found in lives.values())
    result["slopes"] = [_shown(one) for one in longest]
    result["grew"] = [_shown(one) for one in grown]
    if grown and result["verdict"] != "violated":
        result["verdict"] = "violated"
    elif not longest and result["verdict"] == "passed":
        result["verdict"] = "invalid"
        result["invalid"] = [*result["invalid"], "no pod lived long enough to be measured"]  # type: ignore[misc]


def _shown(one: Slope) -> dict[str, object]:
    numbers = {"median": one.median, "per_hour": one.per_hour, "rise": one.rise, "allowed": one.allowed}
    return {"name": one.name, "flat": one.is_flat, **{name: round(number, 2) for name, number in numbers.items()}}


def soak(plan: Plan, directory: Path, kept: Path, interval: float) -> Result:
    """One soak run."""
    sampler = Sampler(interval)
    meanwhile: Callable[[Field], None] = sampler
    result = run(plan, directory, kept, meanwhile)
    judge(result, sampler.samples)
    return result


def main() -> int:
    """Run once."""
    options = parser("tests.faults.soak", __doc__)
    options.add_argument("--hours", type=float, default=24.0)
    options.add_argument("--every", type=float, default=EVERY, help="seconds between faults")
    given = options.parse_args()
    shortest = max(1.0, given.every - 10.0)
    plan = Plan(
        minutes=given.hours * 60,
        seed=given.seed,
        broker=given.broker,
        store=given.store,
        rate=given.rate,
        gap=(shortest, shortest + 10.0),
        targets=("",),
        protected=frozenset({PROTECTED}),
        drain=300.0,
    )
    directory = RunDirectory()
    try:
        result = soak(plan, directory.path, given.kept, interval=min(30.0, given.hours * 3600 / 200))
    finally:
        directory.close()
    print(report(result))
    for one in result["slopes"] + result["grew"]:  # type: ignore[operator]
        print(f"{one['name']}: median {one['median']}, {one['per_hour']:+} an hour", "" if one["flat"] else "GREW")
    return told(result, given.output)


if __name__ == "__main__":
    sys.exit(main())
