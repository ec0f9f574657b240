"""Run seeds on all cores, or one seed with its trace: `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from pathlib import Path

from tests.revision import commit
from tests.simulation.results import Results, failure, run_quietly, run_seeds

CHUNK = 25
"""Seeds that a process takes at a time."""


def _run_all(first: int, number: int, processes: int) -> Results:
    results = Results(first)
    began = time.monotonic()
    last = first + number
    chunks = [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done in pool.imap_unordered(run_quietly, chunks):
            results.join(done)
            for seed, broken in sorted(done.failed.items()):
                print(failure(seed, broken), file=sys.stderr, flush=True)
            if sys.stderr.isatty():
                print(f"{results.runs} of {number}", end="\r", file=sys.stderr, flush=True)
    results.wall_seconds = time.monotonic() - began
    return results


def main() -> int:
    """The command; 0: no promise was broken, 1: one was, 2: runs showed nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happens, and the pods' log")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="all cores")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    given = parser.parse_args()
    at = commit()
    if given.seed is None:
        results = _run_all(given.first, given.seeds, given.processes)
    else:
        if given.trace:
            logging.basicConfig(level=logging.INFO, format="    %(name)s: %(message)s", stream=sys.stdout)
        else:
            logging.disable(logging.CRITICAL)
        began = time.monotonic()
        results = run_seeds([given.seed], print if given.trace else None)
        results.first, results.wall_seconds = given.seed, time.monotonic() - began
    print(results.text())
    if given.output is not None:
        results.write(given.output, at)
    return 1 if not results.passed else 2 if results.invalid else 0


if __name__ == "__main__":
    sys.exit(main())
