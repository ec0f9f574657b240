"""The guides in the wheel: they are printed, what they show works, and each code of `check` has its heading."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli.main import cli
from tests.acceptance.documents import COMMAND, Step, Terminal, blocks, shows, steps, write_handlers

ROOT = Path(__file__).parents[2]
HELP = ROOT / "bridge" / "help"
GUIDES = sorted(path.stem for path in HELP.glob("*.md"))
MAKE_MISTAKES = {"Mistake": 0, "mistake": 0, "_mistake": 0, "_Refused": 0, "ReferenceMistake": 0, "_said": 2}
"""The calls that say a mistake, and which of their arguments is the code."""
MAKE_MISTAKES["PydanticCustomError"] = 0
PUT_TOGETHER = {
    "bad-": {"bad-dedupe-key", "bad-lock"},
    "unknown-": {"unknown-source", "unknown-route"},
}
"""Codes with a variable part, by what they begin with."""


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


class Project:
    """A folder that `jobbridge init` has made, in which a guide's files stand and its commands are typed."""

    def __init__(self, folder: Path, guide: str) -> None:
        self.folder = folder
        self.text = (HELP / f"{guide}.md").read_text()
        assert run("init").exit_code == 0
        for block in (*blocks(self.text, "python"), *blocks(self.text, "yaml")):
            if block.file is not None:
                (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file).write_text(block.text)

    def command(self, *arguments: str) -> Result:
        """The command within this process; the handlers' modules are those of the folder as it is now."""
        self.forget()
        return run(*arguments)

    def forget(self) -> None:
        """Import nothing of the folder that was imported before."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]

    def type(self, terminal: Terminal, step: Step) -> None:
        """A step of a console block: in a shell where it asks for one, since a process costs more than most tests."""
        tokens = list(shlex.shlex(step.command, posix=True, punctuation_chars=True))
        if tokens[0] != "jobbridge" or any(set(token) <= set("();<>|&$") for token in tokens):
            terminal.follow(step)
            return
        done = self.command(*shlex.split(step.command)[1:])
        assert done.exit_code == 0 and shows(done.output, step.shown), f"{step.command}\n{done.output}"


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBBRIDGE_CONFIG", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    made = Project(tmp_path, request.param)
    yield made
    made.forget()


def test_help_lists_the_guides_and_prints_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in a pipe; on a terminal as a page, without the marks."""
    listed = [line.split("\t")[0] for line in run("help").stdout.splitlines()]
    assert listed == GUIDES and {"exit-codes", "testing", "troubleshooting"} <= set(GUIDES)
    assert run("help", "testing").stdout == (HELP / "testing.md").read_text()
    monkeypatch.setattr("bridge.cli.help.chosen", lambda _: "table")
    page = run("help", "testing").stdout
    assert "Testing: from one message" in page and "## " not in page and "```" not in page
    unknown = run("help", "testin")
    assert unknown.exit_code == 5 and "known are testing" in unknown.stderr


def codes() -> Iterator[str]:
    """All that `check` can say, from the calls that say it."""
    for path in (*(ROOT / "bridge" / "config").glob("*.py"), ROOT / "bridge" / "cli" / "check.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "_words":
                yield from re.findall(r"'((?:missing|wrong)-\w+)'", ast.unparse(node))
            place = MAKE_MISTAKES.get(ast.unparse(node.func).rpartition(".")[2]) if isinstance(node, ast.Call) else None
            if place is None:
                continue
            assert isinstance(node, ast.Call)
            code = node.args[place] if len(node.args) > place else None
            if isinstance(code, ast.Constant):
                yield str(code.value)
            elif isinstance(code, ast.JoinedStr):
                assert isinstance(code.values[0], ast.Constant)
                yield from PUT_TOGETHER[str(code.values[0].value)]


def test_each_code_of_check_has_its_heading() -> None:
    """And no heading is of a code that is no more; where an editor's link or a search leads to."""
    headings = re.findall(r"^### (\S+)$", (HELP / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == set(codes())


@pytest.mark.parametrize("project", GUIDES, indirect=True)
def test_what_a_guide_shows_works(project: Project) -> None:
    """Its files and configurations have no mistakes, its tests pass, its commands print what is shown."""
    folder, text = project.folder, project.text
    assert text.startswith("# ") and len(blocks(text, "")) == 0
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) <= {"python", "yaml", "console", "text", "sql"}
    for block in blocks(text, "yaml"):
        if block.file is None or block.file.endswith("bridge.yaml"):
            write_handlers(folder, text, block.text)
            (folder / "shown.yaml").write_text(block.text)
            checked = project.command("check", "--strict", "-c", "shown.yaml")
            assert checked.output == "0 errors, 0 warnings\n", block.text
    for block in blocks(text, "python"):
        compile(block.text, block.file or project.text[:20], "exec")
    if any(block.file and block.file.startswith("test_") for block in blocks(text, "python")):
        (folder / "test_handlers.py").unlink()
        tested = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], capture_output=True, text=True
        )
        assert tested.returncode == 0, tested.stdout
    with closing(Terminal(folder)) as terminal:
        terminal.type(f"PATH={COMMAND.parent}:$PATH")
        for block in blocks(text, "console"):
            for step in steps(block):
                project.type(terminal, step)


def test_a_shell_completes_the_command() -> None:
    """By what `completion` prints."""
    script = 'eval "$(jobbridge completion bash)"; COMP_WORDS=(jobbridge dead-letters re); COMP_CWORD=2'
    done = subprocess.run(
        ["bash", "-c", f'{script}; _jobbridge_completion jobbridge; echo "${{COMPREPLY[@]}}"'],
        env={"PATH": f"{COMMAND.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("replay\n", "")
    assert all("_JOBBRIDGE_COMPLETE" in run("completion", shell).stdout for shell in ("bash", "zsh", "fish"))
    assert run("completion", "tcsh").exit_code == 2
