"""What users install: the wheel has all that the program needs, and needs no more than what it says.

The environment here is made without a download: of the packages that the tests run with, those are linked into it that
the wheel's own metadata asks for, and none besides.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from email.message import Message
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bridge.config.check import HTTP_PACKAGES

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("bridge", "scheduler") for path in (ROOT / package).rglob("*.py")]
EXTRAS = ("http", "mysql", "tracing")
LOADED_FOR_EXTRAS = {"bridge.dashboard", "bridge.health", "bridge.metrics", "scheduler.storage.mysql"}
"""The modules that can't be imported without one."""
OF_OTHERS = {"pydantic_core"}
"""Packages that belong to one that is asked for, which takes one version of them and no other."""
ASKS = "http: {port: 8080}\nstore: 'mariadb://db/jobs'\n"

IMPORT_ALL = """
import importlib, pkgutil, bridge, scheduler
for package in (bridge, scheduler):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if ".migrations." not in found.name:
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                print(found.name, error.name)
"""
"""Prints what can't be imported, and for want of what."""

pytestmark = pytest.mark.xdist_group("packaging")
"""One build for all tests."""


class Built(NamedTuple):
    wheel: Path
    sdist: Path
    metadata: Message

    def requirements(self, *extras: str) -> list[Requirement]:
        """What it asks for, with these extras."""
        return asked(self.metadata.get_all("Requires-Dist", []), extras)


def asked(requirements: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Those that hold here."""
    names = ("", *extras)
    read = map(Requirement, requirements)
    return [one for one in read if not one.marker or any(one.marker.evaluate({"extra": name}) for name in names)]


def build(sources: Path, target: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target), *arguments]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    (metadata,) = [content for name, content in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return Built(wheel, sdist, message_from_bytes(metadata))


class Environment:
    """A virtual environment of its own in which nothing is installed, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        venv.create(folder / "venv", symlinks=True)
        self._bin = folder / "venv" / "bin"
        self._packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))

    def link(self, requirements: Iterable[Requirement]) -> None:
        """Put these there and what they need in turn, as the present environment has them."""
        waiting, seen = list(requirements), set()
        while waiting:
            one = waiting.pop()
            found = distribution(one.name)
            waiting += asked(found.requires or (), one.extras) if str(one) not in seen else ()
            seen.add(str(one))
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                link = self._packages / top
                if not link.exists():
                    link.symlink_to(Path(str(found.locate_file(top))).resolve())

    def install(self, wheel: Path) -> None:
        """By pip, which refuses where something that it asks for is not there."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={self._bin / 'python'}"]
        options = ["--quiet", "--no-index"]
        done = subprocess.run([*pip, "install", *options, wheel], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self, *command: str) -> subprocess.Popen[str]:
        environ = {"PATH": str(self._bin)}
        return subprocess.Popen(
            [self._bin / command[0], *command[1:]],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str, str]:
        """Its exit code, what it printed, and what it said besides."""
        process = self.start(*command)
        printed, said = process.communicate(timeout=60)
        return process.returncode, printed, said

    def lacking(self) -> dict[str, str]:
        """The modules that can't be imported, each with what it lacks."""
        code, printed, said = self.run("python", "-c", IMPORT_ALL)
        assert code == 0, said
        return dict(line.split() for line in printed.splitlines())


@pytest.fixture(scope="module")
def core(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Where jobbridge is installed without any extra."""
    environment = Environment(tmp_path_factory.mktemp("core"))
    environment.link(built.requirements())
    environment.install(built.wheel)
    return environment


def test_the_wheel_is_the_packages_and_nothing_else(built: Built) -> None:
    """Guides, what `init` writes, migrations and types among them; no tests. The sdist makes the very same wheel."""
    found = contents(built.wheel)
    about = {name for name in found if ".dist-info/" in name}
    files = {path for package in ("bridge", "scheduler") for path in (ROOT / package).rglob("*") if path.is_file()}
    expected = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert found.keys() - about == expected
    assert {"bridge/py.typed", "scheduler/py.typed", "bridge/starter/bridge.yaml", "bridge/help/testing.md"} <= expected
    assert {"bridge/dashboard/templates/base.html", "bridge/dashboard/static/vendor/htmx.min.js"} <= expected
    (entries,) = [found[name].decode() for name in about if name.endswith("entry_points.txt")]
    assert "jobbridge = bridge.cli.main:main" in entries and "jobbridge = bridge.pytest_plugin" in entries
    licences = {Path(name).name for name in about if "/licenses/" in name}
    assert licences == {"LICENSE", "htmx.LICENSE", "uPlot.LICENSE"}


def test_the_sdist_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """And has the tests, the locked packages and what runs them."""
    with tarfile.open(built.sdist) as opened:
        opened.extractall(tmp_path, filter="data")
    (sources,) = tmp_path.iterdir()
    for name in ("tests/conftest.py", "Makefile", ".ci/run", "requirements-dev.lock", "config/bridge.example.yaml"):
        assert (sources / name).is_file(), name
    build(sources, tmp_path / "again", "-t", "wheel")
    (again,) = (tmp_path / "again").iterdir()
    assert contents(again) == contents(built.wheel)


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level packages that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_what_is_imported_is_asked_for_and_nothing_else(built: Built) -> None:
    """By name, and not since something else happens to bring it. pytest is there where its plugin is loaded."""
    found = {name for path in SOURCES for name in imported(ast.parse(path.read_text()))}
    foreign = found - sys.stdlib_module_names - {"bridge", "scheduler", "handlers", "pytest", *OF_OTHERS}
    provided = packages_distributions()
    brought = {name: {canonicalize_name(one) for one in provided.get(name, ())} for name in foreign}
    wanted = {canonicalize_name(one.name) for one in built.requirements(*EXTRAS)}
    assert {name for name, by in brought.items() if not by & wanted} == set()
    assert wanted - set().union(*brought.values()) == set()


def test_extras_are_what_is_looked_for(built: Built) -> None:
    """`check` names packages as they are imported; and `all` is all of them."""
    core = {one.name for one in built.requirements()}
    of_http = {canonicalize_name(one.name) for one in built.requirements("http") if one.name not in core}
    provided = packages_distributions()
    assert {canonicalize_name(provided[name][0]) for name in HTTP_PACKAGES} == of_http
    names = {one.name for one in built.requirements(*EXTRAS)}
    assert {one.name for one in built.requirements("all")} == names
    assert set(built.metadata.get_all("Provides-Extra", [])) == {*EXTRAS, "all", "dev"}


def test_the_core_alone_is_a_whole_program(core: Environment, built: Built) -> None:
    """A project from `init` to a job that ran, where what the wheel asks for is installed and nothing else."""
    code, printed, said = core.run("jobbridge", "version", "-o", "ndjson")
    assert code == 0 and f'"jobbridge": "{built.metadata["Version"]}"' in printed, said
    for command, shown in (
        ("init", "bridge.yaml\nhandlers.py\ntest_handlers.py\n"),
        ("check --strict", "0 errors, 0 warnings\n"),
        ('publish orders {"id":7,"amount":1} --correlation-id order-7', ""),
        ("status", "PROCESSING\t0\n"),
        ("report", '"pymysql": null'),
    ):
        code, printed, said = core.run("jobbridge", *command.split(" "))
        assert (code, shown in printed) == (0, True), f"{command}\n{printed}{said}"
    pod = core.start("jobbridge", "run")
    try:
        assert core.run("jobbridge", "jobs", "wait", "order-7", "--timeout", "60s")[0] == 0
    finally:
        pod.terminate()
        printed, said = pod.communicate(timeout=60)
    assert (pod.returncode, printed) == (0, "order 7: 1.00\n"), said


def test_a_missing_extra_is_named_with_its_mend(core: Environment, built: Built) -> None:
    """At the key that asks for it, by the verbs that need it; with the extras there is nothing to say."""
    assert core.lacking().keys() == {*LOADED_FOR_EXTRAS, "bridge.pytest_plugin"}
    (core.folder / "asks.yaml").write_text(ASKS)
    told = (
        "asks.yaml:1:1: error[missing-extra] http: needs jinja2, prometheus_client, starlette, uvicorn, not installed "
        "here: pip install 'jobbridge[http]'\n"
        "asks.yaml:2:8: error[missing-extra] store: needs pymysql, not installed here: pip install 'jobbridge[mysql]'\n"
        "2 errors, 0 warnings\n"
    )
    mysql, count = told.splitlines(keepends=True)[1:]
    assert core.run("jobbridge", "check", "-c", "asks.yaml") == (3, told, "")
    assert core.run("jobbridge", "run", "-c", "asks.yaml") == (3, "", told)
    assert core.run("jobbridge", "status", "-c", "asks.yaml") == (3, "", mysql + count.replace("2 errors", "1 error"))
    code, _, said = core.run("python", "-c", "import scheduler; scheduler.Scheduler('mysql://db/jobs')")
    assert code == 1 and said.splitlines()[-1] == (
        "ModuleNotFoundError: the database 'mysql' needs pymysql, not installed here: pip install 'jobbridge[mysql]'"
    )
    core.link(built.requirements("all"))
    assert core.lacking() == {"bridge.pytest_plugin": "pytest"}
    assert core.run("jobbridge", "check", "-c", "asks.yaml") == (0, "0 errors, 0 warnings\n", "")
