"""`make mutants`: breaks the product in one place after another and demands that a named test sees each.

First each test runs without a fault, where it must pass. Exit 1: a mutant survived, and a test is missing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.mutants.run import outcome
from tests.mutants.table import MUTANTS, Mutant


def judge(mutant: Mutant) -> str:
    sound = outcome(mutant, apply=False)
    return outcome(mutant) if sound == "survived" else f"its test does not pass without the fault: {sound}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", metavar="WORD", help="only those whose name or test has this in it")
    parser.add_argument("--output", type=Path, help="write what was found as JSON")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if options.k in one.name or options.k in one.test]
    found: list[dict[str, object]] = []
    for mutant in chosen:
        started = time.monotonic()
        told = judge(mutant)
        test = mutant.test.partition("::")[2] + (f" [{mutant.only}]" if mutant.only else "")
        print(
            f"{mutant.promise:<7} {mutant.name:<44} {test:<90} {told} ({time.monotonic() - started:.0f} s)", flush=True
        )
        found.append({"mutant": mutant.name, "promise": mutant.promise, "test": mutant.test, "outcome": told})
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    caught = sum(one["outcome"] == "caught" for one in found)
    print(f"{caught} of {len(found)} caught")
    return 0 if found and caught == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
