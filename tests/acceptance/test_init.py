"""The newcomer's path: what `jobbridge init` writes runs at once, by the commands that it prints."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli.main import cli
from tests.acceptance.documents import COMMAND, Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    opened.type(f"PATH={COMMAND.parent}:$PATH")
    yield opened
    opened.close()


def test_a_newcomer_sees_one_job_within_a_minute(terminal: Terminal, tmp_path: Path) -> None:
    """Every step as it is printed; then the configuration has no mistake and the written test passes."""
    began = time.monotonic()
    printed = terminal.type("jobbridge init 'my shop'")
    steps = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert len([step for step in steps if step.startswith("jobbridge publish")]) == 2
    shown = [terminal.type(step) for step in steps]
    assert time.monotonic() - began < 60
    (job,) = [line.split("\t") for line in shown[-1].splitlines() if line.count("\t") > 3]
    assert job[1:5] == ["SUCCEEDED", "order-placed", "handlers:place_order", "order-7"]
    terminal.type("kill %1; wait")
    assert terminal.seen.count("order 7: 12.50\n") == 1
    assert terminal.type("jobbridge check --strict") == "0 errors, 0 warnings\n"
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "my shop",
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0 and "2 passed" in tested.stdout, tested.stdout


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    """Not one: it is named, and nothing else is written."""
    (tmp_path / "handlers.py").write_text("mine\n")
    (tmp_path / "bridge.yaml").symlink_to("nowhere")
    done = CliRunner().invoke(cli, ["init", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path}/bridge.yaml, {tmp_path}/handlers.py" in done.stderr
    assert (tmp_path / "handlers.py").read_text() == "mine\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bridge.yaml", "handlers.py"]


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    """One line, and no traceback."""
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, ["init", str(tmp_path / "file" / "shop")])
    assert done.exit_code == 1 and f"can't write {tmp_path}/file/shop: Not a directory" in done.stderr
