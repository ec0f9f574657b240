"""One fault run from its start to its verdict, as a JSON object."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import history
from tests.faults.checker import Verdict, check, summary
from tests.faults.field import HEARTBEAT, Field
from tests.faults.nemesis import Nemesis
from tests.revision import commit

Result = dict[str, object]
VERDICTS = {0: "passed", 1: "violated", 3: "invalid"}
"""By exit code."""


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    minutes: float
    seed: int
    broker: str = "rabbitmq"
    store: str = "postgres"
    delivery: str = "shared"
    pods: int = 3
    pretenders: int = 0
    """So many of the pods believe that they lead, beside the one that does."""
    rate: float = 100.0
    gap: tuple[float, float] = (1.0, 5.0)
    """Seconds from the end of a fault to the beginning of the next. Servers have three times as long, unless faults
    are given: while the store is disturbed, no rescue can be timed."""
    targets: tuple[str, ...] = ("pod", "store", "broker")
    """The nemeses that are at work side by side; an empty one draws from all faults."""
    only: tuple[str, ...] = ()
    """These faults, instead of a draw."""
    protected: frozenset[str] = frozenset()
    drain: float = 300.0
    """Seconds after which a drain is given up if nothing has become less."""


Meanwhile = Callable[[Field], None]


def run(plan: Plan, run_directory: Path, kept: Path, meanwhile: Meanwhile = lambda _: None) -> Result:
    """Run, drain, check. Where it did not pass, the histories and logs are moved to `kept`.

    :param meanwhile: called again and again while faults happen; takes less than a second.
    """
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=run_directory))
    started, at = time.time(), commit()
    field = Field(
        run_directory,
        folder,
        store=plan.store,
        broker=plan.broker,
        delivery=plan.delivery,
        pods=plan.pods,
        seed=plan.seed,
        rate=plan.rate,
        pretenders=plan.pretenders,
    )
    try:
        field.start()
        nemeses = [
            Nemesis(
                field,
                plan.seed,
                plan.gap if target in ("", "pod") or plan.only else (3 * plan.gap[0], 3 * plan.gap[1]),
                target=target,
                only=plan.only,
                protected=plan.protected,
                first_number=number * 1_000_000,
            )
            for number, target in enumerate(plan.targets)
        ]
        nemeses = [nemesis for nemesis in nemeses if nemesis.has_faults]
        for nemesis in nemeses:
            nemesis.start()
        until = time.monotonic() + plan.minutes * 60
        while (left := until - time.monotonic()) > 0:
            meanwhile(field)
            time.sleep(min(1.0, left))
        ended = [thread.name for thread in (field.publisher, field.observer, *nemeses) if not thread.is_alive()]
        for nemesis in nemeses:
            nemesis.stopping.set()
        for nemesis in nemeses:
            nemesis.stop()
        field.heal()
        rows = field.drain(plan.drain)
        field.stop()
        log_tail = field.log_tail()
        errors = [error for nemesis in nemeses for error in nemesis.errors]
    finally:
        field.close()
    verdict = check(history.read(folder), rows, HEARTBEAT)
    verdict.invalid += [f"the {name} ended early" for name in ended]
    result = _result(plan, verdict, at, started, errors)
    if verdict.exit_code:
        result["kept"] = str(_keep(folder, kept, result, log_tail))
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _result(plan: Plan, verdict: Verdict, at: str, started: float, errors: list[str]) -> Result:
    return {
        "kind": "faults",
        "verdict": VERDICTS[verdict.exit_code],
        "commit": at,
        "seed": plan.seed,
        "broker": plan.broker,
        "store": plan.store,
        "delivery": plan.delivery,
        "pods": plan.pods,
        "pretenders": plan.pretenders,
        "minutes": round(plan.minutes, 3),
        "rate": plan.rate,
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        **verdict.counts,
        "faults_landed": sum(verdict.faults.values()),
        "faults": verdict.faults,
        "faults_that_failed": errors,
        "violations": len(verdict.violations),
        "violation_kinds": list(summary(verdict.violations, 0)),
        "first_violations": [str(one) for one in verdict.violations[:20]],
        "invalid": verdict.invalid,
        "worst_rescue_s": None if verdict.worst_rescue_s is None else round(verdict.worst_rescue_s, 2),
    }


def _keep(folder: Path, kept: Path, result: Result, log_tail: str) -> Path:
    kept.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f"{name_of(result)}-", dir=kept))
    for path in [*folder.glob("*.jsonl"), *folder.glob("*.log"), *folder.glob("*.db*"), folder / "bridge.yaml"]:
        shutil.copy(path, target / path.name)
    (target / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (target / "log_tail.txt").write_text(log_tail)
    return target


def name_of(result: Result) -> str:
    """A file's name for a result, without its ending."""
    parts = [result["kind"], result["broker"], result["store"], result["delivery"], f"seed{result['seed']}"]
    return "-".join(map(str, parts))


def machine() -> str:
    """What it ran on, without its name."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def write(result: Result, output: Path) -> Path:
    """Write a result to a file, or into a directory under a name of its own."""
    if output.suffix == ".json":
        output.parent.mkdir(parents=True, exist_ok=True)
        path = output
    else:
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{name_of(result)}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def report(result: Result) -> str:
    """What a person wants to know."""
    lines = [
        f"{str(result['verdict']).upper()}: {result['broker']}, {result['store']}, seed {result['seed']}, "
        f"{result['minutes']:g} minutes: {result['faults_landed']} faults, {result['messages']} messages, "
        f"{result['confirmed']} confirmed, {result['jobs']} jobs, {result['rescued']} rescued, "
        f"{result['reexecuted']} run again, worst rescue {result['worst_rescue_s']} s, "
        f"{result['violations']} violations",
        *map(str, result["invalid"]),  # type: ignore[call-overload]
        *map(str, result["violation_kinds"]),  # type: ignore[call-overload]
        *map(str, result["first_violations"]),  # type: ignore[call-overload]
        *(f"a fault that failed: {error}" for error in result["faults_that_failed"]),  # type: ignore[attr-defined]
    ]
    if "kept" in result:
        lines.append(f"histories, logs and the result are in {result['kept']}")
    return "\n".join(lines)
