"""Fixtures of the storage tests."""

import contextlib
from collections.abc import Iterator

import pytest

from scheduler.storage import Storage, open_storage
from scheduler.storage.tables import metadata
from tests.conformance.stores import Racers
from tests.servers.databases import fresh_database


class Databases:
    """One migrated database of each kind for the whole run, since making one costs more than most tests."""

    def __init__(self) -> None:
        self.made = contextlib.ExitStack()
        self.urls: dict[str, str] = {}

    def empty(self, storage: Storage) -> None:
        """Delete all rows."""
        with storage.engine.connect() as connection:
            for table in metadata.sorted_tables:
                connection.execute(table.delete())


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """Give the databases that the storage tests share."""
    shared = Databases()
    with shared.made:
        yield shared


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def storage(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storage]:
    """Give a migrated, empty store on each database in turn."""
    kind: str = request.param
    if kind not in databases.urls:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'jobbridge.db'}"
        else:
            url = databases.made.enter_context(fresh_database(request.getfixturevalue(kind).url))
        first = open_storage(url)
        first.migrate()
        first.close()
        databases.urls[kind] = url
    opened = open_storage(databases.urls[kind])
    yield opened
    databases.empty(opened)
    opened.close()


@pytest.fixture(scope="session")
def racers() -> Iterator[Racers]:
    """Give the processes that race."""
    started = Racers()
    yield started
    started.close()
