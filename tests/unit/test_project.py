"""The project keeps its own rules: small files, no code from data, few top-level entries, honest lock files."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = sorted(path for package in ("bridge", "scheduler") for path in (ROOT / package).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in PRODUCT]

MOST_LINES = 8_000
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 70

# What turns bytes into behaviour. A message, a row or a configuration must never reach one of these.
BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
BANNED_CALLS = {"eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load"}

TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "bridge",
    "config",
    "pyproject.toml",
    "requirements-dev.lock",
    "requirements.lock",
    "scheduler",
    "tests",
}


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def long_functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name}: {lines} lines"


def banned_uses(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt | ast.expr):
            continue
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if node.module in ("yaml", "builtins"):
                modules += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            modules = [ast.unparse(node.func)]
        for module in modules:
            if module.split(".")[0] in BANNED_MODULES or module in BANNED_CALLS:
                yield f"line {node.lineno}: {module}"


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_files_and_functions_are_small(path: Path) -> None:
    assert line_count(path) <= MOST_LINES_OF_A_FILE
    assert list(long_functions(ast.parse(path.read_text()))) == []


def code_lines(path: Path) -> int:
    """Lines with code on them: neither blank, nor a comment, nor a docstring."""
    text = path.read_text()
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_the_whole_can_be_read() -> None:
    assert sum(map(code_lines, PRODUCT)) < MOST_LINES


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_no_data_becomes_code(path: Path) -> None:
    assert list(banned_uses(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from shelve import open",
        "def f():\n    import pickle",
        "eval('1')",
        "exec(text)",
        "import builtins\nbuiltins.eval('1')",
        "from builtins import eval as evaluate",
        "import yaml\nyaml.load(text)",
        "from yaml import load",
    ],
)
def test_the_ban_finds_what_it_bans(source: str) -> None:
    assert list(banned_uses(ast.parse(source)))


def test_the_ban_lets_the_rest_pass() -> None:
    assert not list(banned_uses(ast.parse("import json\njson.loads(text)\nconnection.exec(statement)\nYAML().load(x)")))


def test_top_level_entries_are_few() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not in a git checkout")
    assert {name.split("/")[0] for name in listing.stdout.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_name_no_registry_and_hash_everything(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"\S*(?:://|index-url|find-links|trusted-host)\S*", text) == []
    pinned = re.findall(r"^[a-zA-Z0-9].*$", text, flags=re.MULTILINE)
    assert pinned
    assert [line for line in pinned if "==" not in line or not line.endswith("\\")] == []


def test_contributors_are_told_of_every_direct_dependency() -> None:
    """The file may stand in either place where GitHub looks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    places = [ROOT / "CONTRIBUTING.md", ROOT / ".github" / "CONTRIBUTING.md"]
    text = "".join(place.read_text().lower() for place in places if place.exists())
    assert text, "there is no CONTRIBUTING.md"
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    assert [
        name[0] for name in names if name and not re.search(rf"(?<![\w-]){re.escape(name[0])}(?![\w-])", text)
    ] == []
