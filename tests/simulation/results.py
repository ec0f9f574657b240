"""What many runs came to: added up, printed, and written for who makes a table of it."""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.simulation.driver import Driver, make_template
from tests.simulation.profile import Profile
from tests.simulation.world import Outcome, simulate

COMMAND = "python -m tests.simulation --seed {seed} --trace"


@dataclass
class Results:
    """Of all runs of one command."""

    first: int = 0
    runs: int = 0
    invalid: dict[int, str] = field(default_factory=dict)
    """By seed, why the run shows nothing. It is no pass."""
    failed: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    """By seed, the promises that were broken, and how."""
    landed: Counter[str] = field(default_factory=Counter)
    published: int = 0
    acks: int = 0
    jobs: int = 0
    starts: int = 0
    rescues: int = 0
    worst_rescue: float = 0.0
    worst_rescue_seed: int | None = None
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    """Of the last run's trace."""

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.runs += 1
        self.digest = outcome.digest
        if outcome.violations:
            self.failed[outcome.seed] = outcome.violations
        elif outcome.invalid:
            self.invalid[outcome.seed] = outcome.invalid
        self.landed += outcome.landed
        self.reached += outcome.reached
        self.published += outcome.published
        self.acks += outcome.acks
        self.jobs += outcome.jobs
        self.starts += outcome.starts
        self.rescues += outcome.rescues
        self.virtual_seconds += outcome.seconds
        if outcome.worst_rescue > self.worst_rescue:
            self.worst_rescue, self.worst_rescue_seed = outcome.worst_rescue, outcome.seed

    def join(self, other: Results) -> None:
        """The runs of another process."""
        self.runs += other.runs
        self.invalid |= other.invalid
        self.failed |= other.failed
        self.landed += other.landed
        self.reached += other.reached
        for name in ("published", "acks", "jobs", "starts", "rescues", "virtual_seconds", "cpu_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.worst_rescue > self.worst_rescue:
            self.worst_rescue, self.worst_rescue_seed = other.worst_rescue, other.worst_rescue_seed

    @property
    def passed(self) -> bool:
        """No promise was broken."""
        return not self.failed

    def text(self) -> str:
        """For people."""
        hours = self.virtual_seconds / 3600
        wall = max(self.wall_seconds, 1e-9)
        lines = [
            f"runs             {self.runs}, seeds {self.first} to {self.first + self.runs - 1}"
            f", of which INVALID {len(self.invalid)}",
            f"faults landed    {self.landed.total()}",
            *(f"  {kind:26} {count}" for kind, count in sorted(self.landed.items())),
            f"messages         {self.published} published, {self.acks} acks, {self.jobs} jobs",
            f"handler starts   {self.starts}, rescues {self.rescues}",
            *(f"  {what:26} {count}" for what, count in sorted(self.reached.items())),
            f"worst rescue     {self.worst_rescue:.2f} virtual s (seed {self.worst_rescue_seed}), from the death or"
            " the last disturbance after it",
            f"simulated        {hours:.2f} h in {wall:.1f} s: {hours / wall:.4f} h per second of this machine,"
            f" {self.cpu_seconds / max(1, self.runs):.3f} s of CPU a run",
            f"violations       {sum(map(len, self.failed.values()))} in {len(self.failed)} runs",
        ]
        if self.runs == 1:
            lines.append(f"trace            {self.digest}")
        for seed, why in sorted(self.invalid.items()):
            lines.append(f"INVALID seed {seed}: {why}")
        for seed, broken in sorted(self.failed.items()):
            lines.append(failure(seed, broken))
        return "\n".join(lines)

    def write(self, path: Path, commit: str) -> None:
        """For programs: one JSON object."""
        hours = self.virtual_seconds / 3600
        found = {
            "kind": "simulation",
            "commit": commit,
            "runs": self.runs,
            "first_seed": self.first,
            "invalid": {str(seed): why for seed, why in sorted(self.invalid.items())},
            "violations": {str(seed): broken for seed, broken in sorted(self.failed.items())},
            "faults": dict(sorted(self.landed.items())),
            "reached": dict(sorted(self.reached.items())),
            "messages": self.published,
            "acks": self.acks,
            "jobs": self.jobs,
            "starts": self.starts,
            "rescues": self.rescues,
            "worst_rescue_seconds": round(self.worst_rescue, 3),
            "worst_rescue_seed": self.worst_rescue_seed,
            "virtual_hours": round(hours, 4),
            "virtual_hours_per_second": round(hours / max(self.wall_seconds, 1e-9), 5),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "wall_seconds": round(self.wall_seconds, 2),
            "python": platform.python_version(),
        }
        path.write_text(json.dumps(found, indent=1) + "\n")


def failure(seed: int, broken: list[tuple[str, str]]) -> str:
    """A run that broke promises, and how to see it again."""
    shown = [f"  {promise} {text}" for promise, text in broken[:5]]
    more = [f"  and {len(broken) - 5} more"] if len(broken) > 5 else []
    return "\n".join([f"FAILED seed {seed}, replay: {COMMAND.format(seed=seed)}", *shown, *more])


def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jobbridge-simulation-")


@cache
def _prepared() -> tuple[Driver, bytes]:
    """What all runs of a process share: compiled statements, and an empty database's bytes."""
    with _directory() as name:
        make_template(Path(name) / "template.db")
        return Driver(), (Path(name) / "template.db").read_bytes()


def run_seeds(
    seeds: Iterable[int],
    tell: Callable[[str], object] | None = None,
    shape: Callable[[Profile], object] = lambda profile: None,
) -> Results:
    """Run these one after the other, in this process."""
    results = Results()
    began = time.process_time()
    driver, template = _prepared()
    with _directory() as name:
        for seed in seeds:
            results.add(simulate(seed, driver, template, Path(name), tell, shape))
    results.cpu_seconds = time.process_time() - began
    return results


def run_quietly(seeds: Iterable[int]) -> Results:
    """The same in a process of its own, without the pods' log."""
    logging.disable(logging.CRITICAL)
    return run_seeds(seeds)
