"""Half a minute of faults on each broker, as `make faults` does for longer; the faults are chosen so that they land."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.run import Plan, report, run
from tests.servers.server import ServerUnavailable
from tests.servers.watchdog import RunDirectory

FAULTS = (
    "kill-pod",
    "kill-store",
    "freeze-pod-past-timeout",
    "lost-replies",
    "store-ends-connections",
    "restart-broker",
)


@pytest.fixture
def run_directory() -> Iterator[Path]:
    directory = RunDirectory()
    with contextlib.closing(directory):
        yield directory.path


# A constructor of kafka-python's that fails, as it does while the broker is away, leaves its sockets to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(240)
@pytest.mark.xdist_group("faults")
@pytest.mark.parametrize(("broker", "seed"), [("rabbitmq", 11), ("kafka", 12)])
def test_no_promise_is_broken(broker: str, seed: int, run_directory: Path, tmp_path: Path) -> None:
    plan = Plan(0.5, seed, broker=broker, pods=2, rate=50.0, gap=(0.5, 1.5), only=FAULTS, drain=90.0)
    try:
        result = run(plan, run_directory, tmp_path)
    except ServerUnavailable as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no server: {reason}")
    assert result["verdict"] == "passed", report(result)
    landed = result["faults"]
    assert isinstance(landed, dict)
    assert landed.get("kill-pod", 0) >= 1
    assert landed.get("kill-store", 0) + landed.get("restart-broker", 0) >= 1
