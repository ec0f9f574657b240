"""The page of results, and what counts as growing."""

import random

from tests.faults.results import page
from tests.faults.slopes import Sample, slopes
from tests.faults.soak import judge

RUN = {
    "kind": "faults",
    "verdict": "passed",
    "broker": "kafka",
    "store": "postgres",
    "seed": 7,
    "minutes": 2.0,
    "faults_landed": 3,
    "faults": {"kill-pod": 2, "kill-store": 1},
    "messages": 12000,
    "jobs": 8000,
    "violations": 0,
    "worst_rescue_s": 8.25,
    "machine": "2 cores",
}
INVALID = RUN | {"seed": 8, "verdict": "invalid", "minutes": 50.0, "worst_rescue_s": None}
SIMULATION = {
    "kind": "simulation",
    "commit": "abc",
    "first_seed": 1,
    "runs": 500,
    "messages": 5,
    "jobs": 4,
    "rescues": 3,
    "virtual_hours": 2.0,
    "cpu_seconds": 200.0,
    "invalid": {"8": "why"},
    "violations": {},
    "worst_rescue_seconds": 9.5,
    "faults": {"crash": 12},
}
STATEFUL = {"kind": "stateful", "database": "sqlite", "seed": 3, "examples": 2000, "steps": 9, "violations": 0}


def test_the_page_is_the_same_for_the_same_runs() -> None:
    """It sums up valid runs alone, and takes what a simulation's file leaves out."""
    text = page([RUN, INVALID, SIMULATION, STATEFUL], "## Found by us\n\n| symptom |\n")
    assert text == page([RUN, INVALID, SIMULATION, STATEFUL], "## Found by us\n\n| symptom |\n")
    assert "2 runs, 1 of them invalid; 2 minutes, 3 faults landed, 12,000 messages, 8,000 jobs" in text
    assert "| kill-pod | 2 |" in text
    assert "longest rescue 8.25 s" in text
    assert "| crash | 12 |" in text
    assert "| sqlite | 3 | 2,000 | 9 | 0 | - |" in text
    assert text.endswith("| symptom |\n")


def test_simulations_of_a_commit_are_one_row() -> None:
    others = [SIMULATION | {"first_seed": first} for first in (2001, 501)]
    broken = SIMULATION | {"commit": "def", "violations": {"7": [["I1", "lost"], ["I2", "doubled"]]}}
    text = page([SIMULATION, *others, broken], "")
    assert "2,000 seeds, " in text
    assert "| 1 to 1,000, 2,001 to 2,500 | 1,500 | 15 | 12 | 9 | 6 | 0.010 | 3 | 0 | 9.5 | abc |" in text
    assert "| 1 to 500 | 500 | 5 | 4 | 3 | 2 | 0.010 | 1 | 1 | 9.5 | def |" in text


def test_no_runs_make_a_page() -> None:
    assert "Written by" in page([], "")


def samples(rise: float, dice: random.Random) -> list[Sample]:
    """A hundred, one each 10 s; memory rises by so many bytes from the first to the last, over a noise of 2 MB."""
    return [
        (
            at * 10.0,
            {
                "rss": int(100e6 + rise * at / 100 + dice.uniform(-1e6, 1e6)),
                "threads": 30,
                "files": 60 + dice.randrange(3),
                "connections": 20 + (40 if at % 10 == 0 else 0),
            },
        )
        for at in range(100)
    ]


def test_noise_and_peaks_are_no_growth() -> None:
    assert all(one.is_flat for one in slopes(samples(0.0, random.Random(1))))


def test_growth_is_found() -> None:
    grown = [one.name for one in slopes(samples(60e6, random.Random(1))) if not one.is_flat]
    assert grown == ["rss"]


def test_a_leak_of_descriptors_is_found() -> None:
    leaking = [(at, used | {"files": 60 + int(at) // 50}) for at, used in samples(0.0, random.Random(1))]
    assert [one.name for one in slopes(leaking) if not one.is_flat] == ["files"]


def test_few_samples_say_nothing() -> None:
    assert slopes(samples(0.0, random.Random(1))[:45]) == []
    assert slopes([]) == []


def test_a_soak_that_grew_did_not_pass_and_one_that_measured_nothing_proves_nothing() -> None:
    key = ("pod-0", 1)
    flat, grown, short = dict(RUN, invalid=[]), dict(RUN, invalid=[]), dict(RUN, invalid=[])
    judge(flat, {key: samples(0.0, random.Random(1))})
    judge(grown, {key: samples(60e6, random.Random(1))})
    judge(short, {key: samples(0.0, random.Random(1))[:10]})
    assert [one["verdict"] for one in (flat, grown, short)] == ["passed", "violated", "invalid"]
