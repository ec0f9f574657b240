"""Apply a mutant to a copy of the tree and run its test there.

Promises: the tree itself is never changed. Caught means that a test failed by an assertion; a mutant whose test ends by
any other error, or is skipped, is not caught.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

from tests.mutants.table import Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("bridge", "scheduler", "tests", "config", "pyproject.toml")
SECONDS = 300
ASSERTIONS = re.compile(r"AssertionError|assert |Failed: DID NOT RAISE|Failed: DID NOT WARN")


def mutated(mutant: Mutant) -> str:
    """The text of the mutant's file with the fault in it; an error where it does not stand there exactly once."""
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}, not once")
    return text.replace(mutant.old, mutant.new)


def outcome(mutant: Mutant, *, apply: bool = True) -> str:
    """`caught`, `survived`, or what else became of the test. Without `apply`: of the same test and no fault."""
    with tempfile.TemporaryDirectory(prefix="jobbridge-mutant-") as name:
        copy = Path(name)
        for entry in COPIED:
            if (ROOT / entry).is_dir():
                shutil.copytree(ROOT / entry, copy / entry, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / entry, copy / entry)
        if apply:
            (copy / mutant.file).write_text(mutated(mutant))
        return _run(mutant, copy)


def _run(mutant: Mutant, copy: Path) -> str:
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    try:
        subprocess.run(
            [*command, mutant.test, *(["-k", mutant.only] if mutant.only else [])],
            cwd=copy,
            env=environment | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "ran out of time"
    if not report.exists():
        return "did not run"
    suite = next(xml.etree.ElementTree.parse(report).iter("testsuite"))
    tests, errors, failures, skipped = (int(suite.get(word, 0)) for word in ("tests", "errors", "failures", "skipped"))
    if errors or tests == skipped:
        return "error" if errors else "skipped"
    if not failures:
        return "survived"
    told = [str(failure.get("message")) for failure in suite.iter("failure")]
    return "caught" if any(ASSERTIONS.search(message) for message in told) else f"failed otherwise: {told[0][:80]}"
