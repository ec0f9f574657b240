"""The documentation does what it prints: its commands run, its configurations are right, the tests it names exist."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.documents import COMMAND, Block, Terminal, blocks, steps, write_handlers

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
QUICK_START = "Start in a minute"
MOST_LINES = 250


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout whose `make install` has nothing left to do: links to this one, and to the packages in use."""
    folder = tmp_path / "jobbridge"
    installed = folder / ".venv"
    installed.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".installed":
            (installed / entry.name).symlink_to(entry)
    (installed / ".installed").touch()
    return folder


@pytest.fixture
def terminal(clone: Path) -> Iterator[Terminal]:
    """A terminal in the clone."""
    opened = Terminal(clone)
    yield opened
    opened.close()


@pytest.mark.timeout(300)
def test_the_quick_start_works_as_printed(clone: Path, terminal: Terminal) -> None:
    """Every file and every command of it, in order; the pod ends and has printed its one line."""
    shop = clone.parent / "shop"
    shop.mkdir()
    for block in (*blocks(README, "python"), *blocks(README, "yaml")):
        if block.section == QUICK_START:
            assert block.file is not None
            (shop / block.file).write_text(block.text)
    printed = [step for block in blocks(README, "console") if block.section == QUICK_START for step in steps(block)]
    assert len([step for step in printed if step.command.startswith("jobbridge publish")]) == 2
    for step in printed:
        terminal.follow(step)
    terminal.type("wait")
    assert terminal.seen.count("order 7: 12.50\n") == 1
    assert '"message": "stopped: all that ran has ended"' in (shop / "pod.log").read_text()


def test_every_console_block_is_in_the_quick_start() -> None:
    """So that no printed command goes untried."""
    assert {block.section for block in blocks(README, "console")} == {QUICK_START}


@pytest.mark.parametrize("block", blocks(README, "yaml"), ids=lambda block: block.section)
def test_every_configuration_has_no_mistakes(block: Block, tmp_path: Path) -> None:
    """Not even a warning."""
    write_handlers(tmp_path, README, block.text)
    (tmp_path / "bridge.yaml").write_text(block.text)
    environ = {name: "x" for name in re.findall(r"\$\{(\w+)\}", block.text)}
    checked = subprocess.run(
        [COMMAND, "check", "--strict"], cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "0 errors, 0 warnings\n"), checked.stdout + checked.stderr


@pytest.mark.parametrize("block", blocks(README, "python"), ids=lambda block: block.file or block.section)
def test_every_python_block_compiles(block: Block) -> None:
    """As it is printed."""
    compile(block.text, block.file or "README.md", "exec")


def _tests() -> set[str]:
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names.add(path.stem)
        tree = ast.parse(path.read_text())
        names.update(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return names


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_named_test_exists(text: str) -> None:
    """Under the name that is printed."""
    named = set(re.findall(r"\btest_\w+", text))
    assert named
    assert named - _tests() == set()


def test_every_promise_names_a_test() -> None:
    """All seventeen, in order."""
    rows = re.findall(r"^\| (I\d+) \| .* \| (.*) \|$", README, re.MULTILINE)
    assert [number for number, _ in rows] == [f"I{number}" for number in range(1, 18)]
    assert [number for number, tests in rows if "`test_" not in tests] == []


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_named_file_exists(text: str) -> None:
    """Files and folders of the project; the benchmark's results are written when it is run."""
    named = set(re.findall(r"`((?:bridge|scheduler|config|tests|\.ci)/[\w./-]*)`", text)) - {"tests/bench/RESULTS.md"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_begins_with_a_sentence_and_a_picture() -> None:
    """The first ten lines say what it is."""
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert "```text" in lines[:10] and lines[:10].count("```") == 1
