"""Seeds of the simulation, and that a seed is one replay. Any number of seeds: `make simulate SEEDS=n`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.profile import Profile
from tests.simulation.results import failure, run_seeds

SEEDS = 500
CHUNK = 10
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_no_promise_is_broken_whatever_fails_and_when(first: int) -> None:
    """I1 to I3, I7 to I12, I14, I17: each run is checked against all of them."""
    results = run_seeds(range(first, first + CHUNK))
    assert not results.failed, "\n".join(failure(seed, broken) for seed, broken in results.failed.items())
    assert not results.invalid, results.invalid
    assert results.runs == CHUNK


MATTERED = {
    "locked": "locks given",
    "limited": "limits reached",
    "delayed": "delays",
    "expiring": "expired",
    "transactional": "transactions",
    "publishing": "messages relayed",
    "ticks": "ticks",
}


@pytest.mark.parametrize("term", MATTERED)
def test_what_a_route_asks_for_holds_whatever_fails(term: str) -> None:
    """The same in runs in which half of the messages ask for one thing, so that it matters."""

    def shape(profile: Profile) -> None:
        profile.terms, profile.ticks, profile.messages = [term], term == "ticks", 40
        profile.kinds += ["outage"]

    results = run_seeds(range(1, CHUNK + 1), shape=shape)
    assert not results.failed, "\n".join(failure(seed, broken) for seed, broken in results.failed.items())
    assert results.reached[MATTERED[term]]


@pytest.mark.parametrize("seed", [3, 79])
def test_a_seed_is_one_exact_replay(seed: int) -> None:
    """In processes of their own, whose sets and dicts are ordered by other hashes."""
    digests = set()
    for hashing in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--trace"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        digests.add(next(line for line in ended.stdout.splitlines() if line.startswith("trace")))
    assert len(digests) == 1


def test_two_seeds_are_two_runs() -> None:
    lines: list[str] = []
    run_seeds([3], lines.append)
    others: list[str] = []
    run_seeds([4], others.append)
    assert lines != others
