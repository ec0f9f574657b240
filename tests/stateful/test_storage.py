"""Any order of the storage's verbs, on each database, against a dictionary (`machine.py`).

`make test` runs the same 50 examples of 50 steps on each. `make stateful EXAMPLES=20000` runs others.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, core, settings
from hypothesis.stateful import run_state_machine_as_test

from scheduler.storage import open_storage
from tests.revision import commit
from tests.stateful.machine import MUST_REACH, Patient, StorageMachine, VirtualClock

EXAMPLES = "JOBBRIDGE_STATEFUL_EXAMPLES"
OUTPUT = "JOBBRIDGE_STATEFUL_OUTPUT"
STEPS = 50
ENOUGH = 1000
"""Examples that must have reached everything."""
QUICK = settings(
    max_examples=50,
    stateful_step_count=STEPS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a failure is shrunk by `make stateful`, which may take its time
)


def chosen() -> settings:
    """The same examples each time, or as many as the environment asks for, by the seed of the command line."""
    if EXAMPLES not in os.environ:
        return QUICK
    more = int(os.environ[EXAMPLES])
    return settings(QUICK, max_examples=more, derandomize=False, phases=(Phase.generate, Phase.shrink))


@pytest.fixture(scope="module")
def results() -> Iterator[list[dict[str, object]]]:
    """Collect what each database's run came to, and write it where the environment says."""
    collected: list[dict[str, object]] = []
    begun_at = commit()
    yield collected
    if os.environ.get(OUTPUT):
        told = [{"kind": "stateful"} | one | {"commit": begun_at} for one in collected]
        Path(os.environ[OUTPUT]).write_text(json.dumps(told, indent=2) + "\n")


@pytest.mark.timeout(0 if EXAMPLES in os.environ else 300)
@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_any_order_of_verbs_leaves_the_rows_of_the_model(
    database: str,
    request: pytest.FixtureRequest,
    results: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I2, I4, I7, I8, I9, I11, I12."""
    monkeypatch.setattr(logging.getLogger("jobbridge.maintenance"), "disabled", True)  # pytest would keep each line
    clock = VirtualClock()
    storage = open_storage(request.getfixturevalue(f"{database}_url"), options=clock.options())
    storage.migrate()
    counts = Counter[str]()
    members = {"storage": Patient(storage), "clock": clock, "counts": counts}
    machine = type("Machine", (StorageMachine,), members)
    violations = 0
    try:
        run_state_machine_as_test(machine, settings=chosen())
    except KeyboardInterrupt:
        raise  # what was done until now is written all the same
    except BaseException as error:
        violations = len(error.exceptions) if isinstance(error, BaseExceptionGroup) else 1
        raise
    finally:
        storage.close()
        results.append(
            {
                "database": database,
                "examples": counts["examples"],
                "steps": counts["steps"],
                "violations": violations,
                "seed": None if chosen().derandomize else core.global_force_seed,
                "reached": {what: counts[what] for what in sorted(counts.keys() - {"examples", "steps"})},
            }
        )
    if counts["examples"] >= ENOUGH:
        assert sorted(MUST_REACH - counts.keys()) == []
