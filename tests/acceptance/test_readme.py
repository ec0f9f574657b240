"""The documentation does what it prints: its commands run, its configurations are right, the tests it names exist."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("jobbridge")
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
QUICK_START = "Start in a minute"
MOST_LINES = 250
PATIENCE = 60.0
"""Seconds until a command shows what is printed, where a pod works meanwhile."""
MARK = "--ended--"


class Block(NamedTuple):
    """A fenced block: its section's heading, its language, its text."""

    section: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """What the comment in its first line calls it."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return named[1] if named else None


class Step(NamedTuple):
    """A command after its prompt, and the lines that are printed under it."""

    command: str
    shown: list[str]


def blocks(language: str) -> list[Block]:
    """The README's blocks of one language."""
    section, found = "", []
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if match[1]:
            section = match[1]
        elif match[2] == language:
            found.append(Block(section, match[2], match[3]))
    return found


def steps(block: Block) -> Iterator[Step]:
    """The commands of a console block."""
    for line in block.text.splitlines():
        if line.startswith("$ "):
            step = Step(line.removeprefix("$ "), [])
            yield step
        else:
            step.shown.append(line)


def shows(output: str, lines: list[str]) -> bool:
    """Whether these lines are in the output, in order; how their words are spaced does not count."""
    printed = iter([line.split() for line in output.splitlines()])
    return all(line.split() in printed for line in lines)


class Terminal:
    """A shell in which commands are typed one after the other."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        """All that was printed so far."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("JOBBRIDGE")}
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environ | {"PYTHON": sys.executable},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, command: str) -> str:
        """What a command prints, with what runs in the background; it must succeed."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\necho {MARK} $?\n")
        self._shell.stdin.flush()
        printed: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(MARK):
                assert line.split()[1] == "0", f"{command}\n{''.join(printed)}"
                return "".join(printed)
            printed.append(line)
            self.seen.append(line)
        raise AssertionError(f"the shell ended: {''.join(printed)}")

    def follow(self, step: Step) -> None:
        """Type a command and see what is printed; one that asks what became of a job is typed until it is done."""
        deadline = time.monotonic() + PATIENCE
        while not shows(output := self.type(step.command), step.shown):
            asks = step.command.startswith("jobbridge status")
            assert asks and time.monotonic() < deadline, f"{step.command}\n{output}"
            time.sleep(0.2)

    def close(self) -> None:
        """End the shell, and what it started if that has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()


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
    for block in (*blocks("python"), *blocks("yaml")):
        if block.section == QUICK_START:
            assert block.file is not None
            (shop / block.file).write_text(block.text)
    printed = [step for block in blocks("console") if block.section == QUICK_START for step in steps(block)]
    assert len([step for step in printed if step.command.startswith("jobbridge publish")]) == 2
    for step in printed:
        terminal.follow(step)
    terminal.type("wait")
    assert terminal.seen.count("order 7: 12.50\n") == 1
    assert '"message": "stopped: all that ran has ended"' in (shop / "pod.log").read_text()


def test_every_console_block_is_in_the_quick_start() -> None:
    """So that no printed command goes untried."""
    assert {block.section for block in blocks("console")} == {QUICK_START}


def _write_handlers(folder: Path, configuration: str) -> None:
    """The modules that a configuration names: those the README prints, and stubs."""
    for block in blocks("python"):
        if block.file is not None:
            place = folder / block.file
            place.parent.mkdir(exist_ok=True)
            place.write_text(block.text)
    for module, function in re.findall(r'handler: "?([\w.]+):(\w+)', configuration):
        place = folder / f"{module.replace('.', '/')}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = place.read_text() if place.exists() else ""
        if not re.search(rf"^(async )?def {function}\(", text, re.MULTILINE):
            place.write_text(f"{text}\n\ndef {function}(body: dict) -> None: ...\n")


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.section)
def test_every_configuration_has_no_mistakes(block: Block, tmp_path: Path) -> None:
    """Not even a warning."""
    _write_handlers(tmp_path, block.text)
    (tmp_path / "bridge.yaml").write_text(block.text)
    environ = {name: "x" for name in re.findall(r"\$\{(\w+)\}", block.text)}
    checked = subprocess.run(
        [COMMAND, "check", "--strict"], cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "0 errors, 0 warnings\n"), checked.stdout + checked.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.file or block.section)
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
