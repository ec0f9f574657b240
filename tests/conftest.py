"""Fixtures for real databases and brokers; each starts when the first test asks for it.

`postgresql`, `mariadb`, `rabbitmq` and `kafka` are one server for the whole run, shared by xdist's workers; a test may
use them but neither stop nor freeze them. `own_postgresql`, `own_mariadb`, `own_rabbitmq` and `own_kafka` are started
for one test, which may do with them what it likes. `store_url` runs a test on each database, empty.

Where the environment names a server (`JOBBRIDGE_TEST_POSTGRES`, `_MARIADB`, `_RABBITMQ`, `_KAFKA`: URLs), it is used
and none is started. Where a server can't be had, its tests are skipped and the end of the run says so; with `CI=true`
they fail.
"""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import pytest

from tests.servers.databases import fresh_database
from tests.servers.kafka import Kafka
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import Server, ServerUnavailable
from tests.servers.shared import External, SharedServers
from tests.servers.watchdog import RunDirectory

S = TypeVar("S", bound=Server)
VARIABLES = {
    "PostgreSQL": "JOBBRIDGE_TEST_POSTGRES",
    "MariaDB": "JOBBRIDGE_TEST_MARIADB",
    "RabbitMQ": "JOBBRIDGE_TEST_RABBITMQ",
    "Kafka": "JOBBRIDGE_TEST_KAFKA",
}
_RUN = pytest.StashKey[RunDirectory]()
_SHARED = pytest.StashKey[SharedServers]()


def _shared(config: pytest.Config) -> SharedServers:
    """Give this process's view of the run's servers; the first call makes the run's directory."""
    if _SHARED not in config.stash:
        worker_input: dict[str, str] | None = getattr(config, "workerinput", None)
        config.stash[_SHARED] = SharedServers(
            Path(worker_input["run_directory"]) if worker_input else _run_directory(config).path
        )
    return config.stash[_SHARED]


def _run_directory(config: pytest.Config) -> RunDirectory:
    if _RUN not in config.stash:
        config.stash[_RUN] = RunDirectory()
    return config.stash[_RUN]


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python read its schemas in a way that Python 3.11 and 3.12 call deprecated."""
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each xdist worker where the run's servers are."""
    node.workerinput["run_directory"] = str(_run_directory(node.config).path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not tested for want of a server."""
    if _RUN not in config.stash:
        return
    servers = _shared(config)
    for kind, reason in servers.missing().items():
        terminalreporter.write_line(f"NOT TESTED WITH {kind.upper()}: {reason}", red=True, bold=True)
    if servers.tansu_is_used():
        terminalreporter.write_line("Tansu stood in for Apache Kafka, which could not be fetched", yellow=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End all servers of the run."""
    if _RUN in config.stash:
        config.stash[_RUN].close()
        _shared(config).reap()


def _give_up(reason: ServerUnavailable) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"no server: {reason}", pytrace=False)
    pytest.skip(f"no server: {reason}")


def _server(config: pytest.Config, kind: type[S]) -> S:
    """Give the run's server; an external one only has its URL and skips a test that asks for more."""
    if url := os.environ.get(VARIABLES[kind.name]):
        return cast(S, External(VARIABLES[kind.name], url))
    try:
        return cast(S, _shared(config).get(kind.name))
    except ServerUnavailable as reason:
        _give_up(reason)


def _own(config: pytest.Config, kind: type[S]) -> Iterator[S]:
    """Start a server for one test and delete it afterwards, in whatever state the test left it."""
    if VARIABLES[kind.name] in os.environ:
        pytest.skip(f"{VARIABLES[kind.name]} names a server that tests may not stop")
    servers = _shared(config)
    try:
        server = servers.own(kind.name)
    except ServerUnavailable as reason:
        _give_up(reason)
    try:
        server.start()
        yield cast(S, server)
    except ServerUnavailable as reason:
        servers.note_missing(kind.name, reason)
        _give_up(reason)
    finally:
        server.destroy()


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> PostgreSQL:
    """Give the run's PostgreSQL."""
    return _server(pytestconfig, PostgreSQL)


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> MariaDB:
    """Give the run's MariaDB."""
    return _server(pytestconfig, MariaDB)


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> RabbitMQ:
    """Give the run's RabbitMQ."""
    return _server(pytestconfig, RabbitMQ)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Kafka:
    """Give the run's Kafka; `is_real` says whether it is Apache Kafka or the stand-in."""
    return _server(pytestconfig, Kafka)


@pytest.fixture
def own_postgresql(pytestconfig: pytest.Config) -> Iterator[PostgreSQL]:
    """Start a PostgreSQL for this test."""
    yield from _own(pytestconfig, PostgreSQL)


@pytest.fixture
def own_mariadb(pytestconfig: pytest.Config) -> Iterator[MariaDB]:
    """Start a MariaDB for this test."""
    yield from _own(pytestconfig, MariaDB)


@pytest.fixture
def own_rabbitmq(pytestconfig: pytest.Config) -> Iterator[RabbitMQ]:
    """Start a RabbitMQ for this test."""
    yield from _own(pytestconfig, RabbitMQ)


@pytest.fixture
def own_kafka(pytestconfig: pytest.Config) -> Iterator[Kafka]:
    """Start a Kafka for this test."""
    yield from _own(pytestconfig, Kafka)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Give a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'jobbridge.db'}"


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """Give an empty PostgreSQL database."""
    with fresh_database(postgresql.url) as url:
        yield url


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """Give an empty MariaDB database."""
    with fresh_database(mariadb.url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Give an empty database of each kind in turn."""
    return cast(str, request.getfixturevalue(f"{request.param}_url"))


def _unique_name(request: pytest.FixtureRequest) -> str:
    return f"{re.sub(r'[^a-zA-Z0-9]+', '-', request.node.name)[:40].strip('-')}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def queue_name(request: pytest.FixtureRequest) -> str:
    """Give a queue's name that no other test has."""
    return _unique_name(request)


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> str:
    """Give a topic's name that no other test has."""
    return _unique_name(request)
