"""What tests of documentation share: the blocks of a Markdown text, and a shell in which commands are typed."""

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

COMMAND = Path(sys.executable).with_name("jobbridge")
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


def blocks(markdown: str, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    section, found = "", []
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
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


def write_handlers(folder: Path, markdown: str, configuration: str) -> None:
    """The modules that a configuration names: those that the text prints, and stubs."""
    for block in blocks(markdown, "python"):
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
