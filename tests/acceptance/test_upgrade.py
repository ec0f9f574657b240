"""A rolling deploy: pods of the version before and of this one, on one database and one queue (I16)."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import TracebackType

import pytest

from bridge.publish import PublishError
from scheduler.storage.tables import SCHEMA_VERSION
from tests.acceptance.cluster import REPOSITORY, Cluster
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import QueueDepth, RabbitMQ

BEFORE = "3fee2378cbd5"
"""The last commit with schema 0001, which stands for the version before. Move it on with each release."""
SCHEMA_BEFORE = "0001"
PART, REPEATED = 20, 10
"""How many tasks are published at once, and how many of the earlier ones with them."""
pytestmark = pytest.mark.xdist_group("upgrade")
"""One build for both tests."""

SOURCE = "{{broker: bus, queue: {name}}}"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with the wheel of the version before, and the handlers that its tests had."""
    folder = tmp_path_factory.mktemp("before")
    sources, wheel, installed = folder / "sources", folder / "wheel", folder / "installed"
    sources.mkdir()
    archive = subprocess.run(["git", "archive", BEFORE], cwd=REPOSITORY, capture_output=True)
    if archive.returncode != 0:
        why = archive.stderr.decode().strip()
        pytest.fail(
            f"the version before can't be built, since the commit {BEFORE} is not in this clone: get the whole history "
            f"(git fetch --unshallow). git says: {why}",
            pytrace=False,
        )
    subprocess.run(["tar", "-x", "-C", sources], input=archive.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", wheel, sources], check=True)
    for file in wheel.iterdir():
        zipfile.ZipFile(file).extractall(installed)
    path = f"{installed}{os.pathsep}{sources}"
    asked = "from scheduler.storage import tables as t; print(t.SCHEMA_VERSION, t.__file__)"
    version, place = _python(folder, path, "-c", asked).split()
    assert version == SCHEMA_BEFORE and Path(place).is_relative_to(installed)
    return path


def _python(folder: Path, path: str, *arguments: str) -> str:
    """What Python prints with this PYTHONPATH."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _migrate(cluster: Cluster, path: str) -> str | None:
    """Migrate by the command of this code; the schema's version afterwards."""
    _python(cluster.folder, path, "-m", "bridge.cli.main", "migrate")
    return cluster.storage.schema_version()


class Publishing:
    """Publishes on a thread until it is left: new tasks, and some of the earlier ones again."""

    def __init__(self, cluster: Cluster) -> None:
        self.published = 0
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            new = range(self.published, self.published + PART)
            again = (k * 7919 % new.stop for k in range(new.start, new.start + REPEATED))
            # Those that come again are partly of this very batch, and partly done long ago.
            with contextlib.suppress(PublishError):  # the broker took no charge of all: they are sent once more
                self._cluster.publish((f"task-{k}", {"id": k, "sleep": 0.01}) for k in itertools.chain(new, again))
                self.published = new.stop
            time.sleep(0.05)

    def more(self) -> None:
        """Wait until more was published, and done, in the phase that begins now."""
        wanted = self.published + 3 * PART
        assert wait_until(lambda: self._done() >= wanted, 30, 0.1), self._cluster.log()

    def _done(self) -> int:
        return self._cluster.counts().get("SUCCEEDED", 0)

    def __enter__(self) -> Publishing:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()


def _pids(pods: list[subprocess.Popen[bytes]]) -> set[int]:
    return {pod.pid for pod in pods}


def _assert_each_ran_once(cluster: Cluster, number: int) -> None:
    """Nothing is lost, doubled or failed, at the first try."""
    cluster.wait_done(number)
    assert len(cluster.starts()) == number
    assert set(cluster.starts().values()) == {1}
    assert cluster.storage.count_dead_letters() == 0
    assert cluster.storage.list_jobs(error="") == []


def test_a_rolling_deploy_over_a_migration(
    before: str, rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """Old pods under load, the new code migrates under them, new pods join, the old ones are stopped by SIGTERM."""
    source = SOURCE.format(name=queue_name)
    with Cluster(tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source, migrate=False) as cluster:
        assert _migrate(cluster, before) == SCHEMA_BEFORE
        old = cluster.start(2, code=before)
        with Publishing(cluster) as publishing:
            publishing.more()
            assert _migrate(cluster, REPOSITORY) == SCHEMA_VERSION
            publishing.more()
            new = cluster.start(2)
            publishing.more()
            assert [cluster.terminate(pod) for pod in list(old)] == [0, 0]
            publishing.more()
        _assert_each_ran_once(cluster, publishing.published)
        assert {effect.pid for effect in cluster.effects()} == _pids(old) | _pids(new)
        assert wait_until(lambda: rabbitmq.queues()[queue_name] == QueueDepth(0, 0), 10, 0.5), rabbitmq.queues()


def test_a_pod_of_the_version_before_starts_on_the_new_schema(
    before: str, rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """As one that is restarted in the midst of a deploy, or when the deploy is taken back: it works, also alone."""
    source = SOURCE.format(name=queue_name)
    with Cluster(tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source, migrate=False) as cluster:
        assert _migrate(cluster, REPOSITORY) == SCHEMA_VERSION
        new = cluster.start(1)
        with Publishing(cluster) as publishing:
            publishing.more()
            old = cluster.start(1, code=before)
            publishing.more()
            assert cluster.terminate(new[0]) == 0
            publishing.more()
        _assert_each_ran_once(cluster, publishing.published)
        assert {effect.pid for effect in cluster.effects()} == _pids(old) | _pids(new)
