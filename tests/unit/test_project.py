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

MOST_LINES = 13_640
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 70

# What turns bytes into behaviour. A message, a row or a configuration must never reach one of these.
BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "runpy", "code", "codeop"}
BANNED_CALLS = {
    *("eval", "exec", "compile", "builtins.eval", "builtins.exec", "builtins.compile", "yaml.load", "yaml.unsafe_load"),
    *("__import__", "builtins.__import__", "importlib.__import__", "os.system", "os.popen"),
}
IMPORTS_BY_NAME = {
    "importlib.import_module",
    "import_module",
    "importlib.reload",
    "importlib.util.spec_from_file_location",
}
MAY_IMPORT_BY_NAME = {"scheduler/handlers.py"}
"""Handlers that the configuration names."""

# Text that becomes SQL as it is: it must be written out in the source, never put together.
SQL_TEXT = {"text", "literal_column", "exec_driver_sql", "DDL", "column", "table"}

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


def imports_by_name(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTS_BY_NAME:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def composed_sql(tree: ast.AST) -> Iterator[str]:
    """Calls that take SQL as text, or a name as it is, and are given anything but what stands in the source."""
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = ast.unparse(node.func)
        last = imported.get(name, name.rpartition(".")[2] if name.endswith(".exec_driver_sql") else "")
        if last not in SQL_TEXT:
            continue
        given = node.args[0]
        constant = isinstance(given, ast.Constant) or ast.unparse(given) == "self.BEGIN"
        identifier = last in ("column", "table") and isinstance(given, ast.Name)  # quoted, and from the source too
        if not constant and not identifier:
            yield f"line {node.lineno}: {ast.unparse(node)}"


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
    tree = ast.parse(path.read_text())
    assert list(banned_uses(tree)) == []
    assert str(path.relative_to(ROOT)) in MAY_IMPORT_BY_NAME or list(imports_by_name(tree)) == []


def test_one_place_imports_by_name_and_takes_it_from_the_configuration() -> None:
    """`HandlerRegistry` and what resolves a route's handler: no row and no message reaches it."""
    (place,) = MAY_IMPORT_BY_NAME
    assert len(list(imports_by_name(ast.parse((ROOT / place).read_text())))) == 1


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_no_sql_is_put_together_from_text(path: Path) -> None:
    assert list(composed_sql(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "text(f'SELECT {x}')",
        "text('SELECT %s' % x)",
        "text('SELECT {}'.format(x))",
        "text('SELECT ' + x)",
        "text(x)",
        "sa_text(x)",
        "connection.exec_driver_sql(f'SET {x}')",
        "literal_column(str(x))",
    ],
)
def test_composed_sql_is_found(source: str) -> None:
    imports = "from sqlalchemy import literal_column, text, text as sa_text\n"
    assert list(composed_sql(ast.parse(imports + source)))
    assert not list(composed_sql(ast.parse(imports + "text('SELECT 1')\nmessage.text(x)")))


@pytest.mark.parametrize(
    "source",
    [
        "__import__(name)",
        "import os\nos.system(name)",
        "compile(text, 'f', 'exec')",
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
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    assert [
        name[0] for name in names if name and not re.search(rf"(?<![\w-]){re.escape(name[0])}(?![\w-])", text)
    ] == []
